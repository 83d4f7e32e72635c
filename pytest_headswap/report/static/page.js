"use strict";
// What all pages share: the theme, buttons that copy, and keys that lead to the neighbours.
(() => {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const dark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const name = () => { button.textContent = dark() ? "Light theme" : "Dark theme"; };
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try { localStorage.setItem("headswap-theme", root.dataset.theme); } catch { /* for this page alone */ }
    name();
  });
  name();

  for (const copy of document.querySelectorAll(".copy")) {
    copy.addEventListener("click", async () => {
      const command = copy.previousElementSibling;
      try {
        await navigator.clipboard.writeText(command.textContent);
        copy.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(command);
        copy.textContent = "Selected";
      }
      setTimeout(() => { copy.textContent = "Copy"; }, 1500);
    });
  }

  const back = document.getElementById("matrix-link");
  if (!back) return;
  try {
    back.hash = sessionStorage.getItem("headswap-matrix") || ""; // with the filters that were set there
  } catch { /* without them */ }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const [before, after] = event.shiftKey ? [".prev-failing", ".next-failing"] : ["a[rel=prev]", "a[rel=next]"];
    const link = { Escape: back, ArrowLeft: document.querySelector(before), ArrowRight: document.querySelector(after) }[event.key];
    if (link && !event.target.closest("pre")) link.click(); // a traceback scrolls with the arrows
  });
})();
