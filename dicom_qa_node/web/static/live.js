// Keeps parts of a page current: <section data-refresh="/address" data-every="seconds">; what has the focus is left alone.
"use strict";
(() => {
  for (const part of document.querySelectorAll("[data-refresh]")) {
    const every = Number(part.dataset.every || 10) * 1000;
    let pause = every;
    const again = async () => {
      const busy = part.contains(document.activeElement) || part.querySelector("details[open]") || document.hidden;
      if (!busy) {
        try {
          const answer = await fetch(part.dataset.refresh, { headers: { Accept: "text/html", "X-Background": "1" }, redirect: "error" });
          if (!answer.ok) throw new Error(String(answer.status));
          // The server has escaped every value; the answer is one of its own templates.
          const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
          if (!part.contains(document.activeElement)) part.replaceChildren(...fresh.body.childNodes);
          pause = every;
        } catch {
          pause = Math.min(pause * 2, 300000);
        }
      }
      setTimeout(again, pause);
    };
    setTimeout(again, every);
  }
})();
