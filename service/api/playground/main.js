// The page: asks the service what there is, then turns the form into pictures.

import * as api from "./api.js";
import { byId, el } from "./dom.js";
import { drawChart, drawLegend, drawSteps } from "./curve.js";
import { offerEnlarging } from "./enlarge.js";
import { addToFilm, markOnFilm } from "./film.js";
import { clearErrors, showError } from "./fields.js";
import * as form from "./form.js";
import { fromHash, toHash } from "./recipe.js";
import * as stage from "./stage.js";

const EXAMPLES = [
  "mountains at dawn", "the sea at night", "a red ball in the desert at sunset", "a blue cube in a meadow", "a pine forest at noon",
];
const COLOURS = 6; // of curves

const page = byId("recipe");
const fields = page.elements;
const plans = {}; // model -> [{recipe, steps}] of every preset alone
let running = null; // AbortController of the pictures in progress
let asking = null; // AbortController of the explanation in progress
let curves = [];
let shown = null; // the pictures on the stage

async function start() {
  const [models, { data: presets, ...offered }] = await Promise.all([api.models(), api.presets()]);
  clearErrors();
  form.setUp({ ...offered, models, presets });
  await readHash();
  stage.expose([""], fields.size.value);
  await refresh();
  listen();
}

// A service that is still starting, or is being replaced, is asked again.
async function patiently() {
  try {
    await start();
  } catch (error) {
    showError(error);
    setTimeout(patiently, 2000);
  }
}

// What every preset is on the chosen model; asked once per model.
async function presetPlans() {
  const { id: model, engine, precision } = form.model();
  const ask = ({ id }) => api.explain({ prompt: "", model, preset: id, seed: 0 });
  plans[model] ??= await Promise.all(form.presets().map(ask));
  const known = Object.fromEntries(form.presets().map(({ id }, index) => [id, plans[model][index]]));
  form.sketch(known);
  byId("service").textContent = `${model} on ${engine}, ${precision}`;
  return known;
}

// Everything that follows from the form: labels, curves, complaints.
async function refresh() {
  asking?.abort();
  asking = new AbortController();
  const { signal } = asking;
  const known = await presetPlans();
  form.follow(form.chosen().map((id) => known[id].recipe));
  let active = {};
  try {
    const plansOf = form.bodies().map(async (body) => [body.preset, await api.explain(body, signal)]);
    active = Object.fromEntries(await Promise.all(plansOf));
  } catch (error) {
    if (error.name === "AbortError") return;
    showError(error, { focus: false });
  }
  curves = form.presets().map(({ id, title, evidence }, index) =>
    ({ title, evidence, series: index % COLOURS, active: id in active, plan: active[id] ?? known[id] }));
  drawChart(byId("chart"), curves);
  drawLegend(byId("legend"), curves);
  drawSteps(byId("steps-table"), curves);
}

async function generate() {
  if (running) return;
  clearErrors();
  const bodies = form.bodies();
  const seed = bodies[0].seed ?? form.randomSeed();
  for (const body of bodies) body.seed = seed;
  running = new AbortController();
  const { tell, finish } = begin(bodies);
  const sheet = [];
  const made = await Promise.allSettled(bodies.map((body, index) => develop(body, index, sheet, tell)));
  running = null;
  finish();
  const prints = sheet.filter(Boolean);
  for (const print of prints) addToFilm(print, () => show(prints, print));
  if (prints.length) {
    history.replaceState(null, "", toHash({ ...bodies[0], preset: bodies.map(({ preset }) => preset).join(",") }));
    select(sheet, prints[0]);
  } else if (shown) show(shown, shown[0]);
  else stage.expose([""], bodies[0].size);
  report(made.find(({ status }) => status === "rejected")?.reason);
}

// `tell`: what to do with the progress of the only picture, null if there are several.
async function develop(body, index, sheet, tell) {
  try {
    const print = await api.generate(body, running.signal, (news) => {
      const words = stage.progress(index, news);
      tell?.(words, news);
    });
    print.title = form.preset(body.preset).title;
    sheet[index] = print;
    stage.place(index, print, !tell && (() => select(sheet, print)));
  } catch (error) {
    stage.fail(index, error.name === "AbortError" ? "Cancelled" : error.message);
    throw error;
  }
}

function report(error) {
  const cancelled = error?.name === "AbortError";
  byId("status").textContent = cancelled ? "Cancelled." : error ? "Not developed." : "Developed.";
  if (error && !cancelled) showError(error);
}

// Shows that work is in progress; returns what tells how far it is, and what ends it.
function begin(bodies) {
  stage.expose(bodies.map(({ preset }) => form.preset(preset).title), bodies[0].size);
  stage.busy(true);
  page.classList.add("running");
  const { top } = byId("stage").getBoundingClientRect();
  if (top < 0 || top > innerHeight / 2) byId("stage").scrollIntoView();
  const started = performance.now();
  const { tick, tell } = stage.clock();
  byId("status").textContent = "Developing";
  const ticking = setInterval(() => tick((performance.now() - started) / 1000), 100);
  const finish = () => {
    clearInterval(ticking);
    stage.busy(false);
    byId("timing").replaceChildren();
    page.classList.remove("running");
  };
  const announce = (words, news) => {
    byId("status").textContent = words;
    tell(words, news);
  };
  return { tell: bodies.length > 1 ? null : announce, finish };
}

function show(prints, print) {
  const { width, height } = print.recipe;
  stage.expose(prints.map(({ title }) => title), `${width}x${height}`);
  prints.forEach((one, index) => stage.place(index, one, prints.length > 1 && (() => select(prints, one))));
  select(prints, print);
}

// The facts of one of the pictures on the stage. A sheet may have gaps where pictures failed.
function select(sheet, print) {
  shown = sheet.filter(Boolean);
  stage.pick(sheet.indexOf(print));
  markOnFilm(print);
  const { model, preset } = print.recipe;
  const { recipe } = plans[model].find((plan) => plan.recipe.preset === preset && !plan.recipe.preset_auto);
  stage.describe(print, recipe, reuse);
  const paper = byId("frames").children[sheet.indexOf(print)].querySelector(".paper");
  offerEnlarging(print, paper, form.networks(model));
}

async function reuse(request) {
  await putBack(request);
  byId("status").textContent = "The recipe is in the form.";
  byId("generate").focus();
  await refresh();
}

async function readHash() {
  const request = fromHash(location.hash);
  if (Object.keys(request).length) await putBack(request);
}

async function putBack(request) {
  form.fill(request);
  const known = await presetPlans();
  form.fillOverrides(request, known[form.chosen()[0]]?.recipe);
}

function guarded(work) {
  return (event) => {
    event?.preventDefault();
    return work(event).catch(showError);
  };
}

function changed({ target }) {
  clearErrors();
  if (target.name === "compare") form.choose(form.chosen(), target.checked);
  if (target.name === "model") form.fillSizes();
  if (target.value === "on") form.startPair(target.name, curves.find(({ active }) => active)?.plan.recipe);
  if (target.name === "keep") form.keepSeed(target.checked ? shown?.[0].recipe.seed ?? form.randomSeed() : null);
  return refresh();
}

function listen() {
  page.addEventListener("submit", guarded(generate));
  page.addEventListener("change", guarded(changed));
  fields.seed.addEventListener("input", () => (fields.keep.checked = true));
  byId("dice").addEventListener("click", () => form.keepSeed(form.randomSeed()));
  byId("clear").addEventListener("click", guarded(async () => {
    form.clearOverrides();
    await refresh();
  }));
  byId("cancel").addEventListener("click", () => running?.abort());
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") running?.abort();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) page.requestSubmit();
  });
  addEventListener("hashchange", guarded(async () => {
    await readHash();
    await refresh();
  }));
  new ResizeObserver(() => drawChart(byId("chart"), curves)).observe(byId("chart"));
  byId("generate").disabled = false;
}

byId("shortcut").textContent = /Mac|iPhone|iPad/.test(navigator.platform) ? "⌘ ↵" : "Ctrl ↵";
byId("examples").append(...EXAMPLES.map((text) => el("li", {}, el("button", {
  type: "button",
  onclick() {
    fields.prompt.value = text;
    fields.prompt.focus();
  },
}, text))));
patiently();
