// What every page gains from JavaScript; without it every page works all the same.
"use strict";
(() => {
  document.documentElement.classList.add("scripted");
  const meta = document.querySelector('meta[name="csrf-token"]');
  const token = meta ? meta.content : "";

  // htmx sends the token against forgery with every change, and says when a page refreshes itself.
  document.addEventListener("htmx:config:request", (event) => {
    const context = event.detail.ctx;
    const method = (context.request.method || "GET").toUpperCase();
    if (method !== "GET") context.request.headers["X-CSRF-Token"] = token;
    if (context.sourceElement && context.sourceElement.closest("[data-live]")) context.request.headers["X-Background"] = "1";
  });

  // The theme changes at once; the server keeps it in a cookie.
  for (const form of document.querySelectorAll("[data-theme-form]")) {
    const choice = form.querySelector("select");
    choice.addEventListener("change", () => {
      if (choice.value) document.documentElement.dataset.theme = choice.value;
      else delete document.documentElement.dataset.theme;
      const scheme = document.querySelector('meta[name="color-scheme"]');
      if (scheme) scheme.content = choice.value || "light dark";
      document.dispatchEvent(new CustomEvent("qa:theme"));
      fetch(form.action, { method: "POST", body: new URLSearchParams(new FormData(form)), redirect: "manual" });
    });
  }

  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-submit]")) event.target.form.requestSubmit();
  });
  document.addEventListener("focusin", (event) => {
    if (event.target.matches("[data-select]")) event.target.select();
  });
  document.addEventListener("submit", (event) => {
    const question = event.target.dataset.confirm;
    if (question && !window.confirm(question)) event.preventDefault();
  });

  // Says something to screen readers: qaSay("12 new series").
  window.qaSay = (text) => {
    const place = document.getElementById("live");
    if (place) place.textContent = text;
  };
  window.qaToken = token;
})();
