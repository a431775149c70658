// The quality log: new rows come in on top, and the worst slice shows beside the row that is pointed at or focused.
"use strict";
(() => {
  const EVERY_MS = 10000;
  const table = document.querySelector("table[data-live]");

  // New rows never move the focus; rows still on their way are redrawn in place.
  const take = (html, newest) => {
    const body = table.tBodies[0];
    const holder = document.createElement("template");
    holder.innerHTML = `<table><tbody>${html}</tbody></table>`;
    const rows = [...holder.content.querySelectorAll("tr")];
    let fresh = 0;
    for (const row of rows.reverse()) {
      const old = document.getElementById(row.id);
      if (old) {
        if (old.contains(document.activeElement)) continue;
        old.replaceWith(row);
      } else if (Number(row.dataset.result) > Number(table.dataset.newest)) {
        row.classList.add("fresh");
        body.prepend(row);
        fresh += 1;
      }
    }
    table.dataset.newest = newest;
    while (body.rows.length > 200) body.lastElementChild.remove();
    if (fresh && window.qaSay) window.qaSay(fresh === 1 ? "1 new series" : `${fresh} new series`);
  };

  const look = async () => {
    if (document.hidden) return;
    const unsettled = [...table.querySelectorAll("tr[data-unsettled]")].map((row) => row.dataset.result).slice(0, 50);
    const address = `${table.dataset.live}&than=${table.dataset.newest}&rows=${unsettled.join(",")}`;
    const note = document.querySelector("[data-live-note]");
    try {
      const answer = await fetch(address, { headers: { "X-Background": "1", "HX-Request": "true" } });
      if (!answer.ok) throw new Error(String(answer.status));
      take(await answer.text(), answer.headers.get("X-Newest"));
      if (note) note.textContent = "Updates itself.";
    } catch {
      if (note) note.textContent = "No connection to the node, or the session has ended. Reload the page.";
    }
  };
  if (table) setInterval(look, EVERY_MS);
  window.qaLook = table ? look : null;

  // The worst slice, on hover and on focus; Escape hides it (WCAG 1.4.13).
  const thumb = document.getElementById("thumb");
  if (!thumb) return;
  const image = thumb.querySelector("img");
  const text = thumb.querySelector("figcaption");
  let wanted = null;
  const hide = () => { wanted = null; thumb.hidden = true; };
  const show = (link) => {
    wanted = link;
    const said = `Worst slice (${link.dataset.slice})`;
    text.textContent = said;
    image.onload = () => {
      if (wanted !== link) return;
      thumb.hidden = false;
      const box = link.getBoundingClientRect();
      const size = thumb.getBoundingClientRect();
      const below = box.bottom + 6 + size.height < window.innerHeight;
      thumb.style.left = `${Math.max(6, Math.min(box.left, window.innerWidth - size.width - 6))}px`;
      thumb.style.top = `${below ? box.bottom + 6 : Math.max(6, box.top - size.height - 6)}px`;
    };
    image.onerror = hide;
    image.alt = said;
    image.src = `${link.pathname}/v${link.dataset.thumb}/thumb.png`;
  };
  const linkOf = (event) => (event.target.closest ? event.target.closest("tr")?.querySelector("[data-thumb]") : null);
  document.addEventListener("mouseover", (event) => {
    const link = linkOf(event);
    if (link && link !== wanted) show(link);
    else if (!link && wanted && wanted !== document.activeElement) hide();
  });
  document.addEventListener("focusin", (event) => {
    if (event.target.matches("[data-thumb]")) show(event.target);
    else hide();
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  document.addEventListener("scroll", hide, { passive: true });
})();
