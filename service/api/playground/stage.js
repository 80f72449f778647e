// The picture, or several side by side, with what they cost and the recipe that made them.

import { byId, calls, copyButton, el } from "./dom.js";
import { curl, fileName, shortest, table, toHash } from "./recipe.js";

const STAGES = { queue: "Queue", text_encode: "Text encode", denoise: "Denoise", decode: "Decode", upscale: "Upscale", encode: "Encode" };

const seconds = (value) => (value < 0.0995 ? `${(value * 1000).toFixed(value < 0.00995 ? 1 : 0)} ms` : `${value.toFixed(2)} s`);

// Empty frames of the size of what is coming, so that nothing moves when it arrives.
export function expose(titles, size) {
  const [width, height] = size.split("x");
  byId("frames").replaceChildren(...titles.map((title) => {
    const paper = el("div", { class: "paper" });
    paper.style.aspectRatio = `${width} / ${height}`;
    return el("figure", { class: "frame" }, paper, el("figcaption", {}, el("strong", {}, title), el("span", { class: "quiet numeric" })));
  }));
}

const frame = (index) => byId("frames").children[index];

export function busy(on) {
  byId("stage").setAttribute("aria-busy", String(on));
  byId("facts").inert = on; // they are still those of the picture before
  for (const paper of document.querySelectorAll(".paper:not(:has(img))")) paper.classList.toggle("developing", on);
}

// What is known of a picture on its way, in words; its preview comes up in the frame, sharper with every step.
export function progress(index, { ahead, step, steps, url }) {
  const words = url ? `Step ${step} of ${steps}` : ahead ? `${ahead} ahead` : "Developing";
  frame(index).querySelector("figcaption span").textContent = words;
  if (!url) return words;
  const paper = frame(index).querySelector(".paper");
  paper.classList.replace("developing", "previewed");
  paper.style.setProperty("--latent", 1 - step / steps);
  paper.replaceChildren(el("img", { src: url, alt: "", onload: () => URL.revokeObjectURL(url) }));
  return words;
}

export function place(index, print, onpick) {
  const { recipe, timings } = print;
  const picture = el("img", { src: print.url, alt: recipe.prompt || "a picture without a prompt", width: recipe.width, height: recipe.height });
  const paper = frame(index).querySelector(".paper");
  paper.classList.remove("developing");
  paper.style.setProperty("--latent", 0);
  paper.replaceChildren(onpick ? el("button", { type: "button", class: "pick", onclick: onpick }, picture) : picture);
  frame(index).querySelector("figcaption span").textContent = `${seconds(timings.total)}, ${calls(timings.network_calls)}`;
}

export function fail(index, message) {
  const paper = frame(index).querySelector(".paper");
  paper.classList.remove("developing", "previewed");
  paper.replaceChildren(el("p", { class: "error" }, message));
}

// Marks the frame whose facts are shown.
export function pick(index) {
  for (const [i, one] of [...byId("frames").children].entries()) {
    one.querySelector(".pick")?.setAttribute("aria-pressed", String(i === index));
  }
}

// `preset`: what the preset of the picture resolves to. `reuse`: called with the shortest equal request.
export function describe({ recipe, timings, url, title }, preset, reuse) {
  const request = shortest(recipe, preset);
  const file = fileName(recipe);
  const address = () => new URL(toHash(request), document.baseURI).href;
  byId("facts").replaceChildren(
    el("div", { class: "caption" },
      el("p", { class: "prompt" }, recipe.prompt || "No prompt"),
      el("p", { class: "quiet numeric" }, `${title}, seed ${recipe.seed}`)),
    el("div", { class: "tools" },
      el("button", { type: "button", class: "secondary", onclick: () => reuse(request) }, "Use this recipe"),
      el("a", { class: "secondary", href: url, download: file }, "Download"),
      el("div", { class: "copies", role: "group", "aria-label": "Copy" },
        copyButton("Copy link", address),
        copyButton("JSON", () => JSON.stringify(recipe, null, 2)),
        copyButton("curl", () => curl(recipe, file)))),
    el("table", { class: "recipe" }, el("caption", {}, "Recipe"), el("tbody", {}, ...table(recipe).map(([name, value]) =>
      el("tr", {}, el("th", { scope: "row" }, name), el("td", { class: "numeric" }, value))))),
    el("details", { class: "json" }, el("summary", {}, "Recipe as JSON"),
      el("pre", { class: "numeric", tabindex: "0" }, JSON.stringify(recipe, null, 1))));
  byId("facts").inert = false;
  byId("timing").replaceChildren(...timing(timings));
}

// Before there is a result: the seconds so far in the place of the total, and how far one picture is.
export function clock() {
  const total = el("p", { class: "total numeric" });
  const done = el("span", { class: "done" });
  const said = el("p", { class: "quiet numeric" });
  const progress = el("div", { hidden: true }, el("div", { class: "bar" }, done), said);
  byId("timing").replaceChildren(el("div", { "aria-hidden": "true" }, total, progress));
  return {
    tick: (elapsed) => (total.textContent = seconds(elapsed)),
    tell(words, { step = 0, steps = 1 }) {
      progress.hidden = false;
      said.textContent = words;
      done.style.width = `${(100 * step) / steps}%`;
    },
  };
}

function timing(timings) {
  const parts = Object.keys(STAGES).filter((stage) => stage in timings);
  const bar = el("div", { class: "bar", "aria-hidden": "true" }, ...parts.map((stage) => {
    const part = el("span", { class: `stage-${stage}` });
    part.style.flexGrow = timings[stage] * 1000;
    return part;
  }));
  return [
    el("p", { class: "total numeric" }, seconds(timings.total)), bar,
    el("dl", {}, ...parts.map((stage) => el("div", {},
      el("dt", { class: `stage-${stage}` }, STAGES[stage]), el("dd", { class: "numeric" }, seconds(timings[stage]))))),
  ];
}
