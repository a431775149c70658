// Two series side by side: the pixels come as 16-bit values, so that window and inversion are drawn here, at once.
"use strict";
(() => {
  const holder = document.querySelector("[data-panes]");
  if (!holder) return;
  const MOST_KEPT = 96;
  const windowText = document.querySelector("[data-window-text]");
  const invertButton = document.querySelector("[data-invert]");
  const linkedBox = document.querySelector("[data-linked]");
  const look = { windows: new Map(), invert: null };
  let offset = null;

  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
  const stackOf = (pane) => pane.stacks[pane.stack];
  const unitOf = (pane) => `${stackOf(pane).kind} ${stackOf(pane).unit}`;
  const windowOf = (pane) => {
    const stack = stackOf(pane);
    if (!look.windows.has(unitOf(pane))) look.windows.set(unitOf(pane), [stack.low, stack.high]);
    return look.windows.get(unitOf(pane));
  };

  const makePane = (part) => ({
    part, stacks: [], stack: 0, at: 0, kept: new Map(), shown: null, source: "",
    screen: part.querySelector("[data-screen]"), still: part.querySelector("[data-still]"), canvas: part.querySelector("[data-canvas]"),
    slide: part.querySelector("[data-slide]"), text: part.querySelector("[data-text]"), value: part.querySelector("[data-value]"),
    note: part.querySelector("[data-note]"), choice: part.querySelector("[data-stack]"),
  });
  // The still pictures are for pages without scripts; they need not be read here.
  for (const still of holder.querySelectorAll("[data-still]")) { still.removeAttribute("src"); still.hidden = true; }
  const panes = [...holder.querySelectorAll("[data-pane]")].map(makePane);

  const tell = (pane, words) => { pane.note.textContent = words; pane.note.hidden = !words; };

  // The node reads one slice after the other: where others ask at this moment, ask again.
  const ask = async (address, headers = {}, again = 4) => {
    const answer = await fetch(address, { headers, redirect: "error" });
    if (answer.status !== 503 || !again) return answer;
    await new Promise((done) => { setTimeout(done, 1000 * Number(answer.headers.get("Retry-After") || 5)); });
    return ask(address, headers, again - 1);
  };

  // One slice as { rows, columns, scale, values }, or a picture that is already drawn.
  const load = (pane, index) => {
    const stack = stackOf(pane);
    const key = `${pane.stack}/${index}`;
    if (pane.kept.has(key)) return pane.kept.get(key);
    const asked = (async () => {
      if (stack.pictures) return { picture: stack.pictures[index] };
      const answer = await ask(`${stack.at}/${index}${stack.query}`);
      if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).detail || `The slice could not be read (${answer.status}).`);
      const head = (name) => Number(answer.headers.get(name));
      return { rows: head("X-Rows"), columns: head("X-Columns"), scale: head("X-Scale"), values: new Int16Array(await answer.arrayBuffer()) };
    })();
    pane.kept.set(key, asked);
    asked.catch(() => pane.kept.delete(key));
    if (pane.kept.size > MOST_KEPT) pane.kept.delete(pane.kept.keys().next().value);
    return asked;
  };

  const paint = (pane) => {
    const slice = pane.shown;
    if (!slice) return;
    if (slice.picture) {
      if (pane.still.getAttribute("src") !== slice.picture) pane.still.src = slice.picture;
      pane.still.hidden = false; pane.canvas.hidden = true;
      return;
    }
    const [low, high] = windowOf(pane);
    const inverted = look.invert === null ? stackOf(pane).kind === "pt" : look.invert;
    const factor = 255 / Math.max(high - low, 1e-6);
    const image = new ImageData(slice.columns, slice.rows);
    const target = new Uint32Array(image.data.buffer);
    for (let i = 0; i < slice.values.length; i += 1) {
      let grey = (slice.values[i] * slice.scale - low) * factor;
      grey = grey < 0 ? 0 : grey > 255 ? 255 : grey | 0;
      if (inverted) grey = 255 - grey;
      target[i] = 0xff000000 | (grey << 16) | (grey << 8) | grey;
    }
    if (pane.canvas.width !== slice.columns || pane.canvas.height !== slice.rows) { pane.canvas.width = slice.columns; pane.canvas.height = slice.rows; }
    pane.canvas.getContext("2d").putImageData(image, 0, 0);
    pane.canvas.hidden = false; pane.still.hidden = true;
  };

  const describe = (pane) => {
    const stack = stackOf(pane);
    const words = `${pane.at + 1} of ${stack.positions.length}, ${stack.positions[pane.at].toFixed(1)} mm`;
    pane.text.textContent = words;
    pane.slide.max = stack.positions.length - 1;
    pane.slide.value = pane.at;
    pane.slide.setAttribute("aria-valuetext", words);
  };
  const showWindow = () => {
    const pane = panes.find((one) => one.stacks.length && one.source === "spool");
    if (!pane) return;
    const [low, high] = windowOf(pane);
    const digits = high - low < 50 ? 1 : 0;
    windowText.textContent = `Centre ${((low + high) / 2).toFixed(digits)}, width ${(high - low).toFixed(digits)} ${stackOf(pane).unit}`;
    for (const button of document.querySelectorAll("[data-windows] button")) {
      button.setAttribute("aria-pressed", String(Number(button.dataset.low) === low && Number(button.dataset.high) === high));
    }
  };
  const repaint = () => { panes.forEach(paint); showWindow(); };

  const show = async (pane, index) => {
    const stack = stackOf(pane);
    pane.at = clamp(Math.round(index), 0, stack.positions.length - 1);
    describe(pane);
    const [here, wanted] = [pane.stack, pane.at];
    try {
      const slice = await load(pane, wanted);
      if (pane.stack !== here || pane.at !== wanted) return;
      pane.shown = slice;
      if (pane.source === "spool") tell(pane, "");
      paint(pane);
      for (const next of [wanted + 1, wanted - 1, wanted + 2]) {
        if (next >= 0 && next < stack.positions.length) load(pane, next).catch(() => {});
      }
    } catch (error) {
      if (pane.stack === here && pane.at === wanted) tell(pane, error.message);
    }
  };

  // Both move by the same distance in mm; where the planes differ, by the same share of the stack.
  const parallel = (one, other) => {
    const dot = stackOf(one).normal.reduce((sum, part, i) => sum + part * stackOf(other).normal[i], 0);
    return Math.abs(dot) > 0.99 ? Math.sign(dot) : 0;
  };
  const place = (pane) => stackOf(pane).positions[pane.at];
  const align = () => {
    if (panes.length < 2 || !panes.every((pane) => pane.stacks.length)) { offset = null; return; }
    const way = parallel(...panes);
    offset = way ? place(panes[1]) - way * place(panes[0]) : null;
  };
  const nearest = (positions, wanted) => {
    let best = 0;
    positions.forEach((one, i) => { if (Math.abs(one - wanted) < Math.abs(positions[best] - wanted)) best = i; });
    return best;
  };
  const scrollTo = (pane, index) => {
    show(pane, index);
    const other = panes.find((one) => one !== pane);
    if (!linkedBox.checked || !other || !other.stacks.length) return;
    const way = parallel(pane, other);
    if (way && offset !== null) {
      const wanted = pane === panes[0] ? way * place(pane) + offset : way * (place(pane) - offset);
      show(other, nearest(stackOf(other).positions, wanted));
    } else {
      const share = pane.at / Math.max(1, stackOf(pane).positions.length - 1);
      show(other, share * (stackOf(other).positions.length - 1));
    }
  };

  const setWindow = (low, high) => {
    for (const pane of panes) if (pane.stacks.length && stackOf(pane).unit === "HU") look.windows.set(unitOf(pane), [low, high]);
    repaint();
  };
  const drag = (pane, dx, dy) => {
    if (pane.source !== "spool") return;
    const [low, high] = windowOf(pane);
    const width = Math.max(high - low, 1e-3);
    const step = Math.max(width, stackOf(pane).high - stackOf(pane).low) / 300;
    const newWidth = Math.max(width + dx * step, step);
    const centre = (low + high) / 2 + dy * step;
    look.windows.set(unitOf(pane), [centre - newWidth / 2, centre + newWidth / 2]);
    repaint();
  };
  const invert = () => {
    const now = look.invert === null ? panes.some((pane) => pane.stacks.length && stackOf(pane).kind === "pt") : look.invert;
    look.invert = !now;
    invertButton.setAttribute("aria-pressed", String(look.invert));
    repaint();
  };
  const reset = () => { look.windows.clear(); look.invert = null; invertButton.setAttribute("aria-pressed", "false"); repaint(); };

  const readValue = (pane, event) => {
    const slice = pane.shown;
    if (!slice || slice.picture) { pane.value.textContent = ""; return; }
    const box = pane.canvas.getBoundingClientRect();
    const zoom = Math.min(box.width / slice.columns, box.height / slice.rows);
    const x = Math.floor((event.clientX - box.left - (box.width - slice.columns * zoom) / 2) / zoom);
    const y = Math.floor((event.clientY - box.top - (box.height - slice.rows * zoom) / 2) / zoom);
    if (x < 0 || y < 0 || x >= slice.columns || y >= slice.rows) { pane.value.textContent = ""; return; }
    const value = slice.values[y * slice.columns + x] * slice.scale;
    pane.value.textContent = `${value.toFixed(stackOf(pane).unit === "SUV" ? 2 : 0)} ${stackOf(pane).unit}`;
  };

  const listen = (pane) => {
    let wheel = 0;
    let held = null;
    pane.screen.addEventListener("wheel", (event) => {
      if (event.ctrlKey || !pane.stacks.length) return;
      event.preventDefault();
      wheel += event.deltaMode === 1 ? event.deltaY * 40 : event.deltaY;
      const steps = Math.trunc(wheel / 40);
      if (steps) { wheel -= steps * 40; scrollTo(pane, pane.at + clamp(steps, -5, 5)); }
    }, { passive: false });
    pane.screen.addEventListener("pointerdown", (event) => { held = { x: event.clientX, y: event.clientY, at: pane.at }; pane.screen.setPointerCapture(event.pointerId); });
    pane.screen.addEventListener("pointermove", (event) => {
      if (!held) { readValue(pane, event); return; }
      // A finger scrolls, for which it has no wheel; a mouse changes the window.
      if (event.pointerType === "touch") scrollTo(pane, held.at + (event.clientY - held.y) / 8);
      else { drag(pane, event.clientX - held.x, event.clientY - held.y); held.x = event.clientX; held.y = event.clientY; }
    });
    for (const end of ["pointerup", "pointercancel"]) pane.screen.addEventListener(end, () => { held = null; });
    pane.screen.addEventListener("pointerleave", () => { pane.value.textContent = ""; });
    const page = () => Math.max(1, Math.round(stackOf(pane).positions.length / 10));
    const presets = [...document.querySelectorAll("[data-windows] button")];
    const keys = {
      ArrowUp: () => scrollTo(pane, pane.at + 1), ArrowDown: () => scrollTo(pane, pane.at - 1),
      PageUp: () => scrollTo(pane, pane.at + page()), PageDown: () => scrollTo(pane, pane.at - page()),
      Home: () => scrollTo(pane, 0), End: () => scrollTo(pane, stackOf(pane).positions.length - 1), i: invert, r: reset,
    };
    presets.forEach((button, number) => { keys[number + 1] = () => button.click(); });
    pane.screen.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in keys) || !pane.stacks.length) return;
      event.preventDefault();
      keys[event.key]();
    });
    pane.slide.addEventListener("input", () => scrollTo(pane, Number(pane.slide.value)));
    pane.choice.addEventListener("change", () => { pane.stack = Number(pane.choice.value); pane.shown = null; show(pane, stackOf(pane).positions.length / 2).then(align); });
  };

  const open = async (pane) => {
    tell(pane, "Reading the images …");
    try {
      const answer = await ask(pane.part.dataset.images, { Accept: "application/json" });
      const body = await answer.json();
      if (!answer.ok) throw new Error(body.detail || "The images cannot be shown.");
      pane.stacks = body.stacks;
      pane.source = body.source;
      tell(pane, body.note || "");
      body.stacks.forEach((stack, number) => pane.choice.add(new Option(stack.name || `Stack ${number + 1}`, number)));
      pane.choice.hidden = body.stacks.length < 2;
      listen(pane);
      await show(pane, (stackOf(pane).positions.length - 1) / 2);
    } catch (error) {
      pane.still.hidden = true;
      tell(pane, error.message);
    }
  };

  for (const button of document.querySelectorAll("[data-windows] button")) button.addEventListener("click", () => setWindow(Number(button.dataset.low), Number(button.dataset.high)));
  invertButton.addEventListener("click", invert);
  document.querySelector("[data-reset]").addEventListener("click", reset);
  linkedBox.addEventListener("change", align);
  Promise.all(panes.map(open)).then(() => {
    if (holder.dataset.sameFrame === "yes" && panes.length === 2 && panes.every((pane) => pane.stacks.length) && parallel(...panes)) {
      // One frame of reference: the same place of both patients' positions.
      show(panes[1], nearest(stackOf(panes[1]).positions, parallel(...panes) * place(panes[0])));
    }
    align();
    showWindow();
  });
})();
