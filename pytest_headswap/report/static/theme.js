"use strict";
// Before anything is drawn. Storage may be forbidden, and then the system decides.
try {
  const chosen = localStorage.getItem("headswap-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch { /* as the system has it */ }
