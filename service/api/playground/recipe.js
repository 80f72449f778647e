// A recipe as text: address, command line, table. Pure functions.

const TEXTS = new Set(["prompt", "preset", "model", "size", "sampler", "schedule", "guidance_method", "negative_prompt"]);
const FACTS = new Set(["prompt", "preset", "model", "seed", "width", "height", "model_digest", "engine", "precision"]);
const SPACING = new Set(["schedule", "schedule_options", "num_inference_steps"]);

const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

// The shortest request that gives `recipe`, where `preset` is the recipe of its preset alone.
export function shortest(recipe, preset) {
  const { prompt, model, seed, width, height } = recipe;
  const explicit = recipe.schedule === "explicit"; // either the sigmas or what they follow from
  const needed = Object.entries(recipe).filter(([name, value]) => {
    if (FACTS.has(name) || (explicit ? SPACING.has(name) : name === "sigmas")) return false;
    return !same(value, preset[name]);
  });
  return { prompt, preset: recipe.preset, model, seed, size: `${width}x${height}`, ...Object.fromEntries(needed) };
}

export function toHash(body) {
  const pairs = Object.entries(body).map(([name, value]) => [name, TEXTS.has(name) ? value : JSON.stringify(value)]);
  return `#${new URLSearchParams(pairs)}`;
}

// What a shared address asks for. Values that make no sense are dropped.
export function fromHash(hash) {
  const body = {};
  for (const [name, value] of new URLSearchParams(hash.slice(1))) {
    try {
      body[name] = TEXTS.has(name) ? value : JSON.parse(value);
    } catch { /* not ours */ }
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

const ROWS = {
  Sampler: ({ sampler, sampler_options }) => call(sampler, sampler_options),
  Schedule: ({ schedule, schedule_options }) => call(schedule, schedule_options),
  Steps: ({ num_inference_steps }) => num_inference_steps,
  Sigmas: ({ sigmas }) => `${number(sigmas[0])} … ${number(sigmas.at(-2))}, 0`,
  Guidance: ({ guidance_scale: scale, guidance_method: method, guidance_options: options }) =>
    `${call(method, options)}, scale ${scale}`,
  "Guided at": ({ guidance_interval: interval }) => (interval ? `sigma ${interval[0]} to ${interval[1]}` : "every sigma"),
  "Epsilon scaling": ({ epsilon_scaling: scaling }) =>
    scaling ? (scaling.slope ? `${scaling.scale} + ${scaling.slope} per step` : scaling.scale) : "off",
  "Negative prompt": ({ negative_prompt }) => negative_prompt || "none",
  Network: ({ network, initial_network: first, residual_network: last }) => [first, network, last].filter(Boolean).join(", "),
  Seed: ({ seed }) => seed,
  Size: ({ width, height }) => `${width} × ${height}`,
  Model: ({ model, model_digest }) => `${model} ${model_digest}`,
  Engine: ({ engine, precision }) => `${engine}, ${precision}`,
};
const IN_ROWS = new Set([
  ...FACTS, ...SPACING, "sampler", "sampler_options", "sigmas", "guidance_scale", "guidance_method", "guidance_options",
  "guidance_interval", "epsilon_scaling", "negative_prompt", "network", "initial_network", "residual_network",
]);

// The recipe in words a person reads: pairs of label and text. Other fields come last, if they are on.
export function table(recipe) {
  const others = Object.entries(recipe).filter(([name, value]) => !IN_ROWS.has(name) && value !== null && value !== false);
  return [
    ...Object.entries(ROWS).map(([label, show]) => [label, String(show(recipe))]),
    ...others.map(([name, value]) => [name.replaceAll("_", " "), JSON.stringify(value)]),
  ];
}
