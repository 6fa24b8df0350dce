// Small line charts of the last minute, with what they show in words.

import { svg } from "./dom.js";

const WIDTH = 120;
const HEIGHT = 36;
const POINTS = 60;

export function sparkline(name, format) {
  const area = svg("path", { class: "area" });
  const line = svg("path", { class: "line" });
  const node = svg("svg", {
    class: "spark", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": name,
  }, area, line);
  return { node, draw: (values, floor) => draw(node, area, line, values, floor, name, format) };
}

function draw(node, area, line, values, floor, name, format) {
  const known = values.filter((value) => value !== null);
  node.setAttribute("aria-label", inWords(name, known, format));
  const top = Math.max(floor, ...known);
  const x = (index) => ((index + POINTS - values.length) / (POINTS - 1)) * WIDTH;
  const y = (value) => HEIGHT - 2 - (value / top) * (HEIGHT - 4);
  const pieces = piecesOf(values);
  const place = ([index, value]) => `${x(index).toFixed(1)},${y(value).toFixed(1)}`;
  line.setAttribute("d", pieces.map((piece) => `M${dotted(piece).map(place).join("L")}`).join(""));
  area.setAttribute("d", pieces.map((piece) => {
    const from = x(piece[0][0]).toFixed(1);
    const to = x(piece.at(-1)[0]).toFixed(1);
    return `M${from},${HEIGHT}L${piece.map(place).join("L")}L${to},${HEIGHT}Z`;
  }).join(""));
}

// Seconds without a value are gaps, not zeros.
function piecesOf(values) {
  const pieces = [];
  let piece = null;
  values.forEach((value, index) => {
    if (value === null) piece = null;
    else if (piece) piece.push([index, value]);
    else pieces.push((piece = [[index, value]]));
  });
  return pieces;
}

// A line of one point has no length: it is drawn a little wider.
const dotted = (piece) => (piece.length > 1 ? piece : [piece[0], [piece[0][0] + 0.6, piece[0][1]]]);

function inWords(name, known, format) {
  if (!known.length) return `${name}, last minute: nothing yet`;
  const [now, low, high] = [known.at(-1), Math.min(...known), Math.max(...known)].map(format);
  return `${name}, last minute: latest ${now}, lowest ${low}, highest ${high}`;
}
