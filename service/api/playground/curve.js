// Sigma curves on a log scale: one dot per network call, filled where it is guided, the guided range shaded.

import { number } from "./recipe.js";
import { el, svg } from "./dom.js";

const MARGIN = { top: 14, right: 14, bottom: 34, left: 46 };
const ZERO = 26; // room below the log scale for the last sigma, 0

// A curve no bigger than a word.
export function spark(sigmas) {
  const [width, height] = [56, 26];
  const logs = sigmas.slice(0, -1).map(Math.log);
  const [low, high] = [Math.min(...logs), Math.max(...logs)];
  const x = (i) => 2 + (i / Math.max(1, logs.length - 1)) * (width - 4);
  const y = (log) => 2 + (1 - (log - low) / (high - low || 1)) * (height - 4);
  const points = logs.map((log, i) => `${x(i).toFixed(1)},${y(log).toFixed(1)}`).join(" ");
  return svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, svg("polyline", { points }));
}

// `curves`: [{title, evidence, series, active, plan: {recipe, steps}}]; the active ones are drawn last and with dots.
export function drawChart(figure, curves) {
  const width = Math.max(280, figure.clientWidth);
  const height = width < 560 ? 240 : 300;
  const scale = scales(curves, width, height);
  const ordered = [...curves].sort((a, b) => a.active - b.active);
  const active = curves.filter((curve) => curve.active);
  const label = `Sigma by step for ${active.map(({ title }) => title).join(", ") || "no preset"}`;
  figure.replaceChildren(svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
    ...shades(active, scale),
    ...axes(scale),
    ...ordered.map((curve) => line(curve, scale)),
    ...active.flatMap((curve) => dots(curve, scale))));
}

function scales(curves, width, height) {
  const sigmas = curves.flatMap(({ plan }) => plan.recipe.sigmas.slice(0, -1));
  const low = Math.floor(Math.log10(Math.min(...sigmas, 0.1)));
  const high = Math.log10(Math.max(...sigmas, 10)) + 0.06;
  const [left, right, bottom] = [MARGIN.left, width - MARGIN.right, height - MARGIN.bottom];
  const y = (sigma) => {
    if (sigma <= 0) return bottom;
    const share = (Math.log10(sigma) - low) / (high - low);
    return bottom - ZERO - Math.max(0, Math.min(1, share)) * (bottom - ZERO - MARGIN.top);
  };
  return { x: (share) => left + share * (right - left), y, low, high, left, right, bottom };
}

function axes({ x, y, low, high, left, right, bottom }) {
  const grid = (sigma, text) => svg("g", { class: "grid" },
    svg("line", { x1: left, x2: right, y1: y(sigma), y2: y(sigma) }),
    svg("text", { x: left - 10, y: y(sigma) + 4, "text-anchor": "end" }, text));
  const decades = Array.from({ length: Math.floor(high) - low + 1 }, (_, i) => 10 ** (low + i));
  const captions = [[0, "start", "first step"], [0.5, "middle", "share of the steps"], [1, "end", "last"]];
  return [
    ...decades.map((sigma) => grid(sigma, number(sigma))),
    grid(0, "0"),
    ...captions.map(([share, anchor, text]) =>
      svg("text", { class: "caption", x: x(share), y: bottom + 22, "text-anchor": anchor }, text)),
  ];
}

// The guided ranges of sigma, each once.
function shades(curves, { x, y, high, low }) {
  const guided = curves.map(({ plan }) => plan.recipe).filter((recipe) => recipe.guidance_scale !== 1);
  const ranges = guided.map((recipe) => recipe.guidance_interval ?? [10 ** low, 10 ** high]);
  return [...new Map(ranges.map((range) => [String(range), range])).values()].map(([from, to]) =>
    svg("rect", { class: "shade", x: x(0), width: x(1) - x(0), y: y(to), height: Math.max(0, y(from) - y(to)) }));
}

function line({ plan: { recipe }, series, active }, { x, y }) {
  const last = recipe.sigmas.length - 1;
  const points = recipe.sigmas.map((sigma, i) => `${x(i / last).toFixed(1)},${y(sigma).toFixed(1)}`);
  const kind = active ? `series-${series}` : "faint";
  return svg("g", { class: `line ${kind}` },
    svg("polyline", { points: points.slice(0, -1).join(" ") }),
    svg("polyline", { class: "to-zero", points: points.slice(-2).join(" ") }));
}

function dots({ plan: { recipe, steps }, series, title }, { x, y }) {
  const last = recipe.sigmas.length - 1;
  const radius = last > 30 ? 2.2 : 3.6;
  return steps.map(({ step, sigma, timestep, rows }) => {
    const guided = rows.length > 1;
    const text = `${title}, step ${step + 1}: sigma ${number(sigma)}, timestep ${number(timestep)}, ${guided ? "guided" : "not guided"}`;
    const place = { cx: x(step / last).toFixed(1), cy: y(sigma).toFixed(1), r: radius };
    return svg("circle", { class: `dot series-${series} ${guided ? "guided" : ""}`, ...place }, svg("title", {}, text));
  });
}

// What the chart's colours mean, and what each recipe costs.
export function drawLegend(list, curves) {
  list.replaceChildren(...curves.filter(({ active }) => active).map(({ title, evidence, series, plan: { recipe, steps } }) => {
    const rows = steps.reduce((sum, step) => sum + step.rows.length, 0);
    return el("li", {},
      el("span", { class: `swatch series-${series}` }),
      el("strong", {}, title),
      el("span", { class: "quiet numeric" }, `${recipe.sampler}, ${recipe.schedule}: ${steps.length} network calls, ${rows} rows`),
      el("p", { class: "quiet" }, evidence));
  }));
}

const COLUMNS = [
  ["Preset", (_, title) => title], ["Call", ({ nfe }) => nfe], ["Step", ({ step }) => step + 1],
  ["Sigma", ({ sigma }) => number(sigma)], ["Timestep", ({ timestep }) => number(timestep)],
  ["Guided", ({ rows }) => (rows.length > 1 ? "yes" : "no")], ["Rows", ({ rows }) => rows.length],
  ["Network", ({ network }) => network],
];

// The same as numbers, for those who cannot see the chart or do not trust it.
export function drawSteps(table, curves) {
  const active = curves.filter((curve) => curve.active);
  const columns = active.length > 1 ? COLUMNS : COLUMNS.slice(1);
  const rows = active.flatMap(({ title, plan }) => plan.steps.map((step) => columns.map(([, show]) => String(show(step, title)))));
  table.replaceChildren(
    el("thead", {}, el("tr", {}, ...columns.map(([name]) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map((text) => el("td", {}, text))))));
}
