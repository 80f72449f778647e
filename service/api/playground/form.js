// The form: what can be chosen, what is asked for, and putting a request back into it.

import { byId, calls, el } from "./dom.js";
import { FieldError, numberOf, optionFields, othersOf, revealPairs, sigmasOf } from "./fields.js";
import { spark } from "./curve.js";

const form = byId("recipe");
const fields = form.elements;
const METHODS = { sampler: "sampler_options", schedule: "schedule_options", guidance_method: "guidance_options" };
const TEXTS = [...Object.keys(METHODS), "negative_prompt"];
const NUMBERS = ["num_inference_steps", "guidance_scale"];
const PAIRS = { guidance_interval: ["0", "1"], epsilon_scaling: ["scale", "slope"] };
const OPTIONS = Object.values(METHODS);
const CHOICES = ["prompt", "preset", "model", "size", "seed", "deadline_ms"];
const CHANGES = [...TEXTS, ...NUMBERS, ...Object.keys(PAIRS), ...OPTIONS, "sigmas"];

let offered; // {models, presets, samplers, schedules, guidance_methods}

const cost = ({ recipe }) => recipe.num_inference_steps ?? recipe.sigmas?.length ?? 0;

export function setUp(what) {
  offered = { ...what, presets: what.presets.toSorted((a, b) => cost(a) - cost(b)) };
  fields.model.replaceChildren(...offered.models.map(({ id }) => el("option", { value: id }, id)));
  byId("presets").replaceChildren(...offered.presets.map(presetCard));
  for (const name of Object.keys(METHODS))
    fields[name].replaceChildren(...["", ...Object.keys(offered[`${name}s`])].map((value) => el("option", { value }, value)));
  choose([model().default_preset]);
  fillSizes();
}

function presetCard({ id, title, description }) {
  return el("label", { class: "preset" },
    el("input", { type: "radio", name: "preset", value: id }),
    el("span", { class: "words" }, el("strong", {}, title), el("small", {}, description)),
    el("span", { class: "spark", "data-preset": id }));
}

// The curve and the count of network calls of every preset, once they are known.
export function sketch(plans) {
  for (const holder of form.querySelectorAll(".spark")) {
    const { recipe, steps } = plans[holder.dataset.preset];
    holder.replaceChildren(spark(recipe.sigmas), el("small", { class: "numeric" }, calls(steps.length)));
  }
}

export const model = () => offered.models.find(({ id }) => id === fields.model.value) ?? offered.models[0];

// The roles of a model's networks.
export const networks = (name) => Object.keys(offered.models.find(({ id }) => id === name)?.networks ?? {});

export const presets = () => offered.presets;

export const preset = (id) => offered.presets.find((one) => one.id === id);

export const chosen = () =>
  [...form.querySelectorAll("[name=preset]:checked")].map(({ value }) => value);

// One preset is a radio button; several are check boxes. The same inputs serve both.
export function choose(ids, several = false) {
  if (!several) ids = [ids[0] ?? model().default_preset];
  fields.compare.checked = several;
  for (const input of form.querySelectorAll("[name=preset]")) {
    input.type = several ? "checkbox" : "radio";
    input.checked = ids.includes(input.value);
  }
}

export function fillSizes() {
  fields.size.replaceChildren(...model().sizes.map((size) => el("option", { value: size }, size.replace("x", " × "))));
}

export const randomSeed = () => crypto.getRandomValues(new Uint32Array(1))[0];

// Labels, placeholders and options that follow from the chosen presets. `recipe`: their resolved recipes.
export function follow(recipes) {
  const common = (name) => {
    const values = new Set(recipes.map((recipe) => recipe[name]));
    return values.size === 1 ? [...values][0] : undefined;
  };
  for (const [name, family] of Object.entries(METHODS)) {
    const known = offered[`${name}s`];
    fields[name].options[0].text = common(name) ? `${common(name)} (preset)` : "as each preset";
    optionFields(byId(family), family, known[fields[name].value || common(name)] ?? {});
  }
  for (const name of NUMBERS) fields[name].placeholder = common(name) ?? "as each preset";
  revealPairs();
  byId("deadline").hidden = !chosen().includes("auto");
  const count = overrides(recipes[0]?.preset, { lenient: true }).length;
  byId("changed").textContent = count ? `${count} changed` : "";
  byId("generate-label").textContent = recipes.length > 1 ? `Generate ${recipes.length}` : "Generate";
}

// The request bodies, one per chosen preset. Throws FieldError.
export function bodies() {
  const [seed, deadline] = [fields.seed, fields.deadline_ms].map(numberOf);
  if (!chosen().length) throw new FieldError("Choose at least one preset.", "preset");
  return chosen().map((id) => ({
    prompt: fields.prompt.value, preset: id, model: fields.model.value, size: fields.size.value,
    ...(id !== "auto" || deadline === undefined ? {} : { deadline_ms: deadline }),
    ...(seed === undefined ? {} : { seed }), ...Object.fromEntries(overrides(id)),
  }));
}

// The advanced fields that are not empty, as pairs.
function overrides(id, { lenient = false } = {}) {
  const read = (reader) => (control) => {
    try {
      return reader(control);
    } catch (error) {
      if (lenient) return undefined;
      throw error;
    }
  };
  const number = read(numberOf);
  return [
    ...TEXTS.map((name) => [name, fields[name].value || undefined]),
    ...NUMBERS.map((name) => [name, number(fields[name])]),
    ...Object.keys(PAIRS).map((name) => [name, pair(name, number)]),
    ...Object.entries(METHODS).map(([name, family]) => [family, options(name, family, id, number)]),
    ["sigmas", read(sigmasOf)(fields.sigmas)],
    ...Object.entries(read(othersOf)(fields.others) ?? {}),
  ].filter(([, value]) => value !== undefined);
}

function pair(name, number) {
  const mode = fields[name].value;
  if (mode !== "on") return mode === "off" ? null : undefined;
  const values = PAIRS[name].map((key) => [key, number(fields[`${name}.${key}`])]);
  if (name === "guidance_interval") return values.map(([, value]) => value ?? null);
  return Object.fromEntries(values.filter(([, value]) => value !== undefined));
}

// Typed options stand on top of those of the preset, unless what they belong to was replaced.
function options(name, family, id, number) {
  const inputs = [...form.querySelectorAll(`input[name^="${family}."]`)];
  const given = inputs
    .map((input) => [input.name.slice(family.length + 1), input.type === "text" ? input.value || undefined : number(input)])
    .filter(([, value]) => value !== undefined);
  if (!given.length) return undefined;
  return { ...(fields[name].value ? {} : preset(id)?.recipe[family]), ...Object.fromEntries(given) };
}

export function clearOverrides() {
  for (const name of [...TEXTS, ...NUMBERS, ...Object.keys(PAIRS), "sigmas", "others"]) fields[name].value = "";
  for (const input of form.querySelectorAll(".options input, .pair input")) input.value = "";
}

// Puts a request back into the form: first what it chooses, then, once its preset is known, what it changes.
export function fill(body) {
  if ("prompt" in body) fields.prompt.value = body.prompt;
  if ("model" in body) fields.model.value = body.model;
  fillSizes();
  if ("size" in body) fields.size.value = body.size;
  if ("preset" in body) choose(body.preset.split(","), body.preset.includes(","));
  if ("deadline_ms" in body) fields.deadline_ms.value = body.deadline_ms;
  if ("seed" in body) keepSeed(body.seed);
}

export function fillOverrides(body, recipe) {
  clearOverrides();
  for (const name of [...TEXTS, ...NUMBERS]) if (name in body) fields[name].value = body[name];
  for (const name of Object.keys(PAIRS)) if (name in body) fillPair(name, body[name]);
  if ("sigmas" in body) fields.sigmas.value = [body.sigmas].flat().join(", ");
  const others = Object.entries(body).filter(([name]) => ![...CHOICES, ...CHANGES].includes(name));
  if (others.length) fields.others.value = JSON.stringify(Object.fromEntries(others));
  follow(recipe ? [recipe] : []); // makes the inputs of the options
  for (const name of OPTIONS)
    for (const [key, value] of Object.entries(body[name] ?? {}))
      if (fields[`${name}.${key}`]) fields[`${name}.${key}`].value = value;
}

// A pair that was just switched on starts where the recipe is, or where it changes nothing.
export function startPair(name, recipe) {
  const neutral = { guidance_interval: [0, recipe?.sigmas[0]], epsilon_scaling: { scale: 1, slope: 0 } };
  if (name in PAIRS) fillPair(name, recipe?.[name] ?? neutral[name]);
}

function fillPair(name, value) {
  fields[name].value = value === null ? "off" : "on";
  for (const key of PAIRS[name]) fields[`${name}.${key}`].value = value?.[key] ?? "";
}

// null gives every picture a new seed.
export function keepSeed(seed) {
  fields.seed.value = seed ?? "";
  fields.keep.checked = seed !== null;
}
