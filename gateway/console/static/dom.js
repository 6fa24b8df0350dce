// Making elements. Text is always put in as text: nothing here, or anywhere in the console, makes markup from it.

const SVG = "http://www.w3.org/2000/svg";

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== undefined && child !== null && child !== false));
  return node;
}

export const h = (tag, attributes = {}, ...children) => filled(document.createElement(tag), attributes, children);

export const svg = (tag, attributes = {}, ...children) =>
  filled(document.createElementNS(SVG, tag), attributes, children);

export const byId = (id) => document.getElementById(id);

let numbered = 0;
export const freshId = (name) => `${name}-${++numbered}`;

// A labelled control with an optional hint that screen readers read with it.
export function field(label, control, hint) {
  control.id ||= freshId("field");
  const parts = [h("label", { for: control.id }, label), control];
  if (hint) {
    const id = `${control.id}-hint`;
    control.setAttribute("aria-describedby", id);
    parts.push(h("p", { class: "hint", id }, hint));
  }
  return h("div", { class: "field" }, parts);
}

export const checkbox = (label, attributes = {}) => {
  const box = h("input", { type: "checkbox", ...attributes });
  return { box, label: h("label", { class: "check" }, box, " ", label) };
};

export const select = (options, attributes = {}) =>
  h("select", attributes, options.map(([value, text]) => h("option", { value }, text)));

// A table that becomes a pile of cards on a phone. Roles are spelled out because "display: block" takes them away.
// columns: [heading, (row) => cell, options]; cells are strings or elements.
export function table(caption, columns, rows, empty) {
  const head = columns.map(([title]) => h("th", { scope: "col", role: "columnheader" }, title));
  const cell = (row) => ([title, content, how = {}]) =>
    h("td", { role: "cell", "data-label": title, class: how.number ? "number" : null }, content(row));
  const body = rows.map((row) => h("tr", { role: "row" }, columns.map(cell(row))));
  if (!rows.length) return h("p", { class: "empty" }, empty);
  return h("table", { role: "table", "aria-label": caption },
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, head)),
    h("tbody", { role: "rowgroup" }, body));
}

export const badge = (text, kind) => h("span", { class: `badge ${kind || ""}` }, text);

export const notice = (text) => h("p", { class: "notice" }, text);

export const seconds = (value) => {
  if (value === null || value === undefined) return "–";
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  return value < 100 ? `${value.toFixed(value < 10 ? 2 : 1)} s` : `${Math.round(value)} s`;
};

export const count = (value) => (value === null || value === undefined ? "–" : Number(value).toLocaleString("en"));

export const percent = (value) => `${(value * 100).toFixed(value && value < 0.1 ? 1 : 0)} %`;

export const bytes = (value) => {
  if (!value) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const step = Math.min(units.length - 1, Math.floor(Math.log2(value) / 10));
  const scaled = value / 1024 ** step;
  return `${scaled.toFixed(scaled < 10 && step ? 1 : 0)} ${units[step]}`;
};

export const day = (unix) => (unix ? new Date(unix * 1000).toISOString().slice(0, 16).replace("T", " ") : "–");

export const duration = (value) => {
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const at = parts.findIndex(([size]) => value >= size);
  if (at < 0) return "0 s";
  const [size, unit] = parts[at];
  const next = parts[at + 1];
  const rest = next ? Math.floor((value % size) / next[0]) : 0;
  return `${Math.floor(value / size)} ${unit}${rest ? ` ${rest} ${next[1]}` : ""}`;
};
