// Keys of the review queue. They are off while a field has the focus, and the box "Keys" turns them off (WCAG 2.1.4).
"use strict";
(() => {
  const agree = document.querySelector("[data-agree-form]");
  const own = document.querySelector("[data-own-form]");
  const box = document.querySelector("[data-keys-switch]");
  const dialog = document.querySelector("[data-keys-dialog]");
  if (!agree || !own || !box || !dialog) return;

  const KEPT = "qa-review-keys";
  const apply = () => document.documentElement.classList.toggle("keys-off", !box.checked);
  box.checked = localStorage.getItem(KEPT) !== "off";
  apply();
  box.addEventListener("change", () => { localStorage.setItem(KEPT, box.checked ? "on" : "off"); apply(); });
  document.querySelector("[data-keys-list]").addEventListener("click", () => dialog.showModal());

  const follow = (selector) => { const link = document.querySelector(selector); if (link) location.assign(link.href); };
  // A key that is pressed twice before the next series is there signs once.
  let sent = false;
  for (const form of [agree, own]) form.addEventListener("submit", (event) => { if (sent) event.preventDefault(); sent = true; });
  window.addEventListener("pageshow", () => { sent = false; });
  const send = (form, button) => form.requestSubmit(form.querySelector(button));
  const choose = (digit) => {
    const radio = own.querySelector(`input[name="score"][value="${digit}"]`);
    radio.checked = true;
    if (window.qaSay) window.qaSay(`Own score ${digit}, ${radio.parentElement.title}. Enter signs it.`);
  };
  const slices = window.qaSlices || { step() {}, heat() {} };
  const acts = {
    a: () => (own.elements.comment.value.trim() ? send(own, "[data-agree-comment]") : send(agree, "button")),
    Enter: () => send(own, 'button[value="own"]'),
    c: () => own.elements.comment.focus(),
    w: () => document.getElementById("assignee").focus(),
    o: () => follow("[data-compare]"),
    j: () => follow('[data-step="next"]'), ArrowRight: () => follow('[data-step="next"]'),
    k: () => follow('[data-step="previous"]'), ArrowLeft: () => follow('[data-step="previous"]'),
    ",": () => slices.step(-1), ".": () => slices.step(1), h: () => slices.heat(),
    "?": () => dialog.showModal(),
  };
  for (const digit of "01234") acts[digit] = () => choose(digit);

  // A choice among radio buttons is a field, too: there the arrows move the choice.
  const FIELDS = 'input:not([type="checkbox"]), select, textarea, [contenteditable]';
  const PRESSED = "a, button, summary";
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && event.target.closest(FIELDS)) { event.target.blur(); return; }
    if (!box.checked || dialog.open || event.defaultPrevented || event.repeat) return;
    if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in acts)) return;
    if (event.target.closest(FIELDS) || (event.key === "Enter" && event.target.closest(PRESSED))) return;
    event.preventDefault();
    acts[event.key]();
  });
})();
