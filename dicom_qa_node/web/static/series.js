// One series: slices change without a reload, zoom and pan by mouse, touch and keyboard, heat map over the slice.
"use strict";
(() => {
  const stage = document.querySelector("[data-stage]");
  if (!stage) return;
  const picture = stage.querySelector("[data-picture]");
  const heat = stage.querySelector("[data-heat]");
  const toggle = document.querySelector("[data-heat-toggle]");
  const slices = [...document.querySelectorAll(".strip [data-go]")];
  const looks = [...document.querySelectorAll("[data-look]")];
  const place = { zoom: 1, x: 0, y: 0 };
  let look = (looks.find((item) => item.hasAttribute("aria-current")) || { dataset: { look: "judged" } }).dataset.look;
  let at = Math.max(0, slices.findIndex((item) => item.hasAttribute("aria-current")));

  const draw = () => {
    const box = stage.getBoundingClientRect();
    place.zoom = Math.min(16, Math.max(1, place.zoom));
    place.x = Math.min(0, Math.max(box.width * (1 - place.zoom), place.x));
    place.y = Math.min(0, Math.max(box.height * (1 - place.zoom), place.y));
    for (const image of [picture, heat]) image.style.transform = `translate(${place.x}px, ${place.y}px) scale(${place.zoom})`;
    stage.classList.toggle("close", place.zoom >= 3);
  };
  const zoomBy = (factor, x, y) => {
    const before = place.zoom;
    place.zoom = Math.min(16, Math.max(1, place.zoom * factor));
    const ratio = place.zoom / before;
    place.x = x - (x - place.x) * ratio;
    place.y = y - (y - place.y) * ratio;
    draw();
  };
  const zoomMiddle = (factor) => zoomBy(factor, stage.clientWidth / 2, stage.clientHeight / 2);
  const fit = () => { place.zoom = 1; place.x = 0; place.y = 0; draw(); };

  const fieldLink = document.querySelector("[data-field]");
  const legend = document.querySelector("[data-heat-legend]");
  const field = () => (fieldLink && fieldLink.hasAttribute("aria-current") ? "field=whole" : "");
  const showHeat = () => {
    const source = slices[at] && slices[at].dataset.heatSrc;
    const on = toggle && toggle.getAttribute("aria-pressed") === "true" && Boolean(source);
    if (on) heat.src = `${source}?${field()}`;
    heat.hidden = !on;
    if (legend) legend.hidden = !on;
    if (toggle) toggle.disabled = !source;
  };
  const show = () => {
    const item = slices[at];
    if (!item) return;
    picture.src = `${item.dataset.src}?look=${look}${field() ? "&field=whole" : ""}`;
    picture.alt = item.dataset.text;
    slices.forEach((other, number) => {
      if (number === at) other.setAttribute("aria-current", "true");
      else other.removeAttribute("aria-current");
    });
    for (const line of document.querySelectorAll("[data-line]")) line.classList.toggle("on", line.dataset.line === item.dataset.go);
    for (const other of looks) {
      if (other.dataset.look === look) other.setAttribute("aria-current", "true");
      else other.removeAttribute("aria-current");
    }
    stage.setAttribute("aria-label", `${item.dataset.text}; plus and minus zoom, arrows move, 0 fits, comma and full stop change the slice`);
    if (window.qaSay) window.qaSay(item.dataset.text);
    showHeat();
    const address = new URL(location.href);
    address.searchParams.set("slice", item.dataset.go);
    address.searchParams.set("look", look);
    if (field()) address.searchParams.set("field", "whole");
    else address.searchParams.delete("field");
    history.replaceState(null, "", address);
  };
  const go = (number) => { at = (number + slices.length) % slices.length; show(); };

  document.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    const link = event.target.closest("[data-go]");
    const chosen = event.target.closest("[data-look]");
    const number = link ? slices.findIndex((item) => item.dataset.go === link.dataset.go) : -1;
    if (number >= 0) { event.preventDefault(); go(number); }
    else if (fieldLink && event.target === fieldLink) {
      event.preventDefault();
      if (field()) fieldLink.removeAttribute("aria-current");
      else fieldLink.setAttribute("aria-current", "true");
      fit();
      show();
    } else if (chosen) { event.preventDefault(); look = chosen.dataset.look; show(); }
  });
  for (const button of document.querySelectorAll("[data-zoom]")) {
    button.addEventListener("click", () => ({ in: () => zoomMiddle(1.5), out: () => zoomMiddle(1 / 1.5), fit })[button.dataset.zoom]());
  }
  const switchHeat = () => {
    if (!toggle || toggle.disabled) return;
    toggle.setAttribute("aria-pressed", String(toggle.getAttribute("aria-pressed") !== "true"));
    showHeat();
  };
  if (toggle) toggle.addEventListener("click", switchHeat);
  // For the keys of other scripts: the review queue.
  window.qaSlices = { step: (by) => go(at + by), heat: switchHeat };

  stage.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && document.activeElement !== stage) return;
    event.preventDefault();
    const box = stage.getBoundingClientRect();
    zoomBy(event.deltaY < 0 ? 1.2 : 1 / 1.2, event.clientX - box.left, event.clientY - box.top);
  }, { passive: false });
  const touches = new Map();
  stage.addEventListener("pointerdown", (event) => { stage.setPointerCapture(event.pointerId); touches.set(event.pointerId, event); });
  stage.addEventListener("pointermove", (event) => {
    const before = touches.get(event.pointerId);
    if (!before) return;
    if (touches.size === 2) {
      const other = [...touches.values()].find((item) => item.pointerId !== event.pointerId);
      const far = (a, b) => Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY);
      const box = stage.getBoundingClientRect();
      zoomBy(far(event, other) / Math.max(1, far(before, other)), (event.clientX + other.clientX) / 2 - box.left, (event.clientY + other.clientY) / 2 - box.top);
    } else {
      place.x += event.clientX - before.clientX;
      place.y += event.clientY - before.clientY;
      draw();
    }
    touches.set(event.pointerId, event);
  });
  for (const end of ["pointerup", "pointercancel"]) stage.addEventListener(end, (event) => touches.delete(event.pointerId));
  stage.addEventListener("dblclick", fit);
  const step = 60;
  const keys = {
    "+": () => zoomMiddle(1.5), "=": () => zoomMiddle(1.5), "-": () => zoomMiddle(1 / 1.5), 0: fit,
    ArrowLeft: () => { place.x += step; draw(); }, ArrowRight: () => { place.x -= step; draw(); },
    ArrowUp: () => { place.y += step; draw(); }, ArrowDown: () => { place.y -= step; draw(); },
    ",": () => go(at - 1), ".": () => go(at + 1), PageUp: () => go(at - 1), PageDown: () => go(at + 1),
  };
  stage.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in keys)) return;
    event.preventDefault();
    keys[event.key]();
  });
  showHeat();

  // Maps that somebody asked for appear as the worker makes them.
  const group = document.querySelector("[data-heat-group]");
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (!form.closest("[data-heat-state]") || !slices[at]) return;
    form.elements.slice.value = slices[at].dataset.go;
    form.elements.look.value = look;
  });
  const takeOver = (state) => {
    const made = state.dataset.heatMade.split(" ").filter(Boolean);
    const fresh = slices.filter((item) => made.includes(item.dataset.go) && !item.dataset.heatSrc);
    for (const item of fresh) item.dataset.heatSrc = `${state.dataset.heatAt}/${item.dataset.go}.png`;
    if (!fresh.length) return;
    group.hidden = false;
    if (fresh.some((item) => slices.indexOf(item) === at)) toggle.setAttribute("aria-pressed", "true");
    if (window.qaSay && state.dataset.heatState === "ready") window.qaSay("The heat maps are ready");
    showHeat();
  };
  const follow = async (pause) => {
    const state = document.querySelector("[data-heat-state]");
    if (!state || state.dataset.heatState !== "waiting") return;
    let next = Math.min(pause * 2, 15000);
    if (!document.hidden) {
      try {
        const answer = await fetch(state.dataset.heatAt, { headers: { Accept: "text/html", "X-Background": "1" }, redirect: "error" });
        if (!answer.ok) throw new Error(String(answer.status));
        const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("[data-heat-state]");
        state.replaceWith(fresh);
        takeOver(fresh);
        next = 2000;
      } catch { /* asked again, later */ }
    }
    setTimeout(follow, next, next);
  };
  setTimeout(follow, 1000, 2000);
})();
