// Elements from data. Strings become text nodes, never markup.

export const byId = (id) => document.getElementById(id);

export const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);

export const svg = (tag, attributes, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

function fill(node, attributes = {}, children = []) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

export const calls = (count) => `${count} ${count === 1 ? "call" : "calls"}`;

// Copies and says so on the button itself, which keeps its width.
export function copyButton(label, text) {
  const said = el("span", {}, label);
  return el("button", {
    type: "button",
    class: "secondary",
    async onclick() {
      said.textContent = (await copy(text())) ? "Copied" : "Not allowed";
      setTimeout(() => (said.textContent = label), 1500);
    },
  }, said);
}

// Browsers offer the clipboard to https and localhost only; elsewhere an old command still works.
async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text).then(() => true, () => false);
  const area = el("textarea", { class: "offscreen" });
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  return done;
}
