// Complaints beside the field they name, and the fields that appear and vanish with another's value.

import { byId, el } from "./dom.js";

const form = byId("recipe");
const ELSEWHERE = {
  width: "size", height: "size", engine: "model", precision: "model", model_digest: "model", guidance_options: "guidance_method",
};

export class FieldError extends Error {
  constructor(message, param) {
    super(message);
    this.param = param;
  }
}

// "sampler_options.eta" -> its own field, or the nearest one: sampler_options, sampler.
function fieldOf(param) {
  const family = param.split(".")[0];
  const names = [param, family, ELSEWHERE[family], family.replace("_options", "")];
  const found = names.map((name) => name && form.querySelector(`[data-field="${CSS.escape(name)}"]`)).find(Boolean);
  return found ?? (form.elements.others.value.includes(`"${family}"`) ? fieldOf("others") : undefined);
}

export function showError(error, { focus = true } = {}) {
  clearErrors();
  const field = error.param && fieldOf(error.param);
  if (!field) {
    byId("problem").textContent = error.message;
    return;
  }
  field.closest("details")?.setAttribute("open", "");
  const id = `error-${field.dataset.field}`;
  const controls = [...field.querySelectorAll("input, select, textarea")];
  for (const control of controls) {
    control.setAttribute("aria-invalid", "true");
    control.setAttribute("aria-describedby", id);
  }
  const message = el("p", { class: "error", id, role: "alert" }, error.message.replace(`${error.param}: `, ""));
  field.append(message);
  if (!focus) return;
  (controls.find((control) => control.name === error.param) ?? controls[0]).focus();
  message.scrollIntoView({ block: "nearest" });
}

export function clearErrors() {
  byId("problem").textContent = "";
  for (const message of form.querySelectorAll(".field > .error")) message.remove();
  for (const control of form.querySelectorAll("[aria-invalid]")) {
    control.removeAttribute("aria-invalid");
    control.removeAttribute("aria-describedby");
  }
}

// A number, undefined if the field is empty; what the browser cannot read as one is a complaint.
export function numberOf(control) {
  if (control.validity.badInput) throw new FieldError("This is not a number.", control.name);
  return control.value === "" ? undefined : Number(control.value);
}

export function sigmasOf(control) {
  const words = control.value.split(/[\s,;[\]]+/).filter(Boolean);
  const wrong = words.find((word) => !Number.isFinite(Number(word)));
  if (wrong) throw new FieldError(`"${wrong}" is not a number.`, control.name);
  return words.length ? words.map(Number) : undefined;
}

// Fields that have no control here; a newer service may have some.
export function othersOf(control) {
  if (!control.value.trim()) return {};
  try {
    const value = JSON.parse(control.value);
    if (value && typeof value === "object" && !Array.isArray(value)) return value;
  } catch { /* told below */ }
  throw new FieldError("This is not a JSON object.", control.name);
}

// The pairs of inputs that belong to a select show while it says "on".
export function revealPairs() {
  for (const pair of form.querySelectorAll("[data-shown-by]"))
    pair.hidden = form.elements[pair.dataset.shownBy].value !== "on";
}

// One small input per option; what is typed stays while the same options are asked for again.
export function optionFields(container, family, options) {
  const key = JSON.stringify(options);
  if (container.dataset.options === key) return;
  container.dataset.options = key;
  container.replaceChildren(...Object.entries(options).map(([name, value]) => {
    const id = `${family}.${name}`;
    const type = typeof value === "string" ? { type: "text" } : { type: "number", step: "any", inputmode: "decimal" };
    return el("div", { class: "field grow", "data-field": id },
      el("label", { for: id }, name.replaceAll("_", " ")),
      el("input", { id, name: id, class: "numeric", placeholder: value ?? "automatic", ...type }));
  }));
}
