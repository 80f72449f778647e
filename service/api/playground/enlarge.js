// A finished picture enlarged, and shown over what it was: a slider between the two, a zoom.

import { ApiError, upscale } from "./api.js";
import { byId, el } from "./dom.js";
import { fileName } from "./recipe.js";

const FACTORS = [4, 16];
const ZOOMS = { min: 1, max: 16, value: 1 };

// Adds the control to the tools of the picture on `paper`, where it can still be enlarged.
export function offerEnlarging(print, paper, networks) {
  if (print.recipe.upscale) return;
  const methods = networks.includes("upsampler") ? ["network", "lanczos"] : ["lanczos"];
  const option = (label) => (value) => el("option", { value }, label(value));
  const factor = el("select", { name: "factor", "aria-label": "Times larger" }, ...FACTORS.map(option((value) => `${value} ×`)));
  const method = el("select", { name: "method", "aria-label": "Method" }, ...methods.map(option((value) => value)));
  const button = el("button", { class: "secondary" }, "Enlarge");
  const said = el("p", { class: "quiet numeric", role: "status" });
  let running = null;
  const work = async () => {
    running = new AbortController();
    button.textContent = "Cancel";
    said.textContent = "Enlarging";
    const started = performance.now();
    try {
      const blob = await upscale(print.blob, { factor: factor.value, method: method.value }, running.signal);
      const seconds = ((performance.now() - started) / 1000).toFixed(1);
      const shown = await compare(print, blob, paper);
      const download = el("a", { href: shown.src, download: fileName(print.recipe).replace(".png", `-${factor.value}x.png`) }, "Download");
      said.replaceChildren(`${shown.naturalWidth} × ${shown.naturalHeight} by ${method.value} in ${seconds} s. `, download);
    } catch (error) {
      said.textContent = error.name === "AbortError" ? "Cancelled." : error.message;
    }
    running = null;
    button.textContent = "Enlarge";
  };
  const onsubmit = (event) => {
    event.preventDefault();
    if (running) running.abort();
    else work();
  };
  byId("facts").querySelector(".tools").after(el("form", { class: "enlarge", "aria-label": "Enlarge", onsubmit }, factor, method, button, said));
}

// The picture before, over the one after; resolves to the image after.
async function compare(print, blob, paper) {
  const after = el("img", { src: URL.createObjectURL(blob), alt: "" });
  await after.decode().catch(() => {
    throw new ApiError("This browser cannot show a picture of that size.");
  });
  const before = el("img", { src: print.url, alt: "", class: "before" });
  const sheets = el("div", { class: "sheets" }, after, before);
  const view = el("div", { class: "view", tabindex: "0", role: "group", "aria-label": `${print.recipe.prompt}, before and after. Arrow keys move it when zoomed.` }, sheets);
  const range = (label, attributes) => el("label", {}, label, el("input", { type: "range", ...attributes }));
  const split = range("Before and after", { name: "split", min: 0, max: 100, value: 50 });
  const zoom = range("Zoom", { name: "zoom", ...ZOOMS });
  let scale = ZOOMS.value;
  const draw = () => sheets.style.setProperty("--split", `${view.scrollLeft + (view.clientWidth * split.control.value) / 100}px`);
  const rescale = () => {
    const [wide, high] = [view.clientWidth / 2, view.clientHeight / 2];
    const [x, y] = [(view.scrollLeft + wide) / scale, (view.scrollTop + high) / scale];
    scale = Number(zoom.control.value);
    sheets.style.setProperty("--zoom", scale);
    view.scrollTo(x * scale - wide, y * scale - high); // what was in the middle stays there
    draw();
  };
  split.addEventListener("input", draw);
  zoom.addEventListener("input", rescale);
  view.addEventListener("scroll", draw);
  new ResizeObserver(draw).observe(view);
  paper.parentElement.querySelector(".loupe")?.remove();
  paper.replaceChildren(view);
  paper.after(el("div", { class: "loupe" }, split, zoom));
  return after;
}
