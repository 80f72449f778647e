// The pictures of this visit as a strip of film, newest first.

import { byId, el } from "./dom.js";

const strip = byId("film");
const KEYS = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };

let count = 0;

export function addToFilm(print, show) {
  count += 1;
  const { prompt, preset, seed } = print.recipe;
  const button = el("button", {
    type: "button", tabindex: "-1", "aria-label": `Picture ${count}: ${prompt || "no prompt"}, ${preset}, seed ${seed}`, title: prompt,
    onclick: () => show(print),
  }, el("img", { src: print.url, alt: "", width: 76, height: 76 }), el("span", { "aria-hidden": "true" }, String(count)));
  strip.prepend(el("li", {}, button));
  strip.scrollLeft = 0;
  print.frame = button;
}

// Exactly one frame is in the tab order; arrow keys move between frames.
export function markOnFilm(print) {
  for (const button of strip.querySelectorAll("button")) {
    button.tabIndex = button === print.frame ? 0 : -1;
    button.setAttribute("aria-current", String(button === print.frame));
  }
}

strip.addEventListener("keydown", (event) => {
  if (!(event.key in KEYS)) return;
  const buttons = [...strip.querySelectorAll("button")];
  const index = buttons.indexOf(document.activeElement) + KEYS[event.key];
  buttons[Math.max(0, Math.min(buttons.length - 1, index))].focus();
  event.preventDefault();
});
