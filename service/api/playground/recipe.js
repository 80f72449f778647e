// A recipe as text: address, command line, table. Pure functions.

const TEXTS = new Set(["prompt", "preset", "model", "size", "sampler", "schedule", "negative_prompt"]);
const OTHERS = new Set([
  "seed", "sampler_options", "schedule_options", "num_inference_steps", "sigmas", "guidance_scale", "guidance_interval",
  "epsilon_scaling",
]);

export const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

// The shortest request that gives `recipe`, where `preset` is the recipe of its preset alone.
export function shortest(recipe, preset) {
  const { prompt, model, seed } = recipe;
  const body = { prompt, preset: recipe.preset, model, seed, size: `${recipe.width}x${recipe.height}` };
  const explicit = recipe.schedule === "explicit";
  if (explicit) body.sigmas = recipe.sigmas;
  for (const name of ["schedule", "schedule_options", "num_inference_steps"])
    if (!explicit && !same(recipe[name], preset[name])) body[name] = recipe[name];
  for (const name of ["sampler", "sampler_options", "guidance_scale", "guidance_interval", "epsilon_scaling", "negative_prompt"])
    if (!same(recipe[name], preset[name])) body[name] = recipe[name];
  return body;
}

export function toHash(body) {
  const pairs = Object.entries(body).map(([name, value]) => [name, TEXTS.has(name) ? value : JSON.stringify(value)]);
  return `#${new URLSearchParams(pairs)}`;
}

// What a shared address asks for. Names and values that make no sense are dropped.
export function fromHash(hash) {
  const body = {};
  for (const [name, value] of new URLSearchParams(hash.slice(1))) {
    if (TEXTS.has(name)) body[name] = value;
    else if (OTHERS.has(name)) {
      try {
        body[name] = JSON.parse(value);
      } catch { /* not ours */ }
    }
  }
  return body;
}

export function curl(recipe, file) {
  const data = JSON.stringify(recipe).replaceAll("'", "'\\''");
  const url = new URL("v1/images/generations", document.baseURI);
  return `curl -H 'Content-Type: application/json' -H 'Accept: image/png' -o ${file} '${url.origin}${url.pathname}' -d '${data}'`;
}

export function fileName(recipe) {
  const words = recipe.prompt.toLowerCase().match(/[a-z0-9]+/g) ?? [];
  return `${[...words.slice(0, 8), recipe.preset, recipe.seed].join("-")}.png`;
}

export const number = (value) => String(Number(value.toPrecision(4)));

const call = (name, options) => {
  const given = Object.entries(options).map(([key, value]) => `${key} ${value}`);
  return given.length ? `${name} (${given.join(", ")})` : name;
};

// The recipe in words a person reads: pairs of label and value.
export function table(recipe) {
  const { sigmas, guidance_interval: interval, epsilon_scaling: scaling } = recipe;
  const guidance = recipe.guidance_scale === 1 ? "1 (none)" : String(recipe.guidance_scale);
  return [
    ["Sampler", call(recipe.sampler, recipe.sampler_options)],
    ["Schedule", call(recipe.schedule, recipe.schedule_options)],
    ["Steps", String(recipe.num_inference_steps)],
    ["Sigmas", `${number(sigmas[0])} … ${number(sigmas.at(-2))}, 0`],
    ["Guidance", interval ? `${guidance}, for sigma ${interval[0]} to ${interval[1]}` : guidance],
    ["Epsilon scaling", scaling ? (scaling.slope ? `${scaling.scale} + ${scaling.slope} per step` : String(scaling.scale)) : "off"],
    ["Negative prompt", recipe.negative_prompt || "none"],
    ["Seed", String(recipe.seed)],
    ["Size", `${recipe.width} × ${recipe.height}`],
    ["Model", `${recipe.model} ${recipe.model_digest}`],
    ["Engine", `${recipe.engine}, ${recipe.precision}`],
  ];
}
