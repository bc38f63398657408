"use strict";
// Scrolls through the steps of one run. All text is set as text, never as markup.
const data = JSON.parse(document.querySelector("#data").textContent);
const $ = name => document.querySelector("#" + name);
const COLOURS = { preserved: "#009E73", deformed: "#0072B2", moved: "#0072B2", drifted: "#E69F00", broken: "#D55E00",
  diverged: "#D55E00", unmoved: "#666666", "no algorithm": "#999999" };
const LOOKS = { "loss/train": "#0072B2", "loss/held_out": "#D55E00", "error/training": "#D55E00", "position/distance": "#0072B2" };
// as Python's .3g
const number = v => v === null || v === undefined ? "-" : v && !(Math.abs(v) >= 9.995e-5 && Math.abs(v) < 999.5)
  ? v.toExponential(2).replace(/\.?0+e/, "e").replace(/e([+-])(\d)$/, "e$10$2") : String(Number(v.toPrecision(3)));
const svg = (tag, attributes, text) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
};
const element = (tag, text, kind) => {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
};
const W = 460, LEFT = 62, RIGHT = 8;

// A panel with a linear x axis and a y axis of given range; returns the maps of both.
const panel = (root, height, x0, x1, y0, y1, label, ticks, words) => {
  const top = 18, bottom = height - 20;
  const x = v => LEFT + (W - LEFT - RIGHT) * (x1 > x0 ? (v - x0) / (x1 - x0) : 0.5);
  const y = v => bottom - (bottom - top) * (y1 > y0 ? (v - y0) / (y1 - y0) : 0.5);
  root.setAttribute("viewBox", `0 0 ${W} ${height}`);
  root.append(svg("text", { x: 2, y: 11 }, label));
  for (const tick of ticks) {
    root.append(svg("line", { x1: LEFT, x2: W - RIGHT, y1: y(tick), y2: y(tick), stroke: "#e3e3e3" }));
    root.append(svg("text", { x: LEFT - 5, y: y(tick) + 4, "text-anchor": "end" }, words(tick)));
  }
  root.append(svg("path", { d: `M${LEFT},${top}V${bottom}H${W - RIGHT}`, fill: "none", stroke: "#444" }));
  return { x, y, top, bottom };
};
const decades = (low, high) => {
  const stride = Math.max(1, Math.ceil((high - low) / 4)), found = [];
  for (let t = Math.ceil(low / stride) * stride; t <= high; t += stride) found.push(t);
  return found.length ? found : [(low + high) / 2];
};
const power = t => t >= -3 && t <= 3 && Number.isInteger(t) ? String(Number(`1e${t}`)) : Number.isInteger(t) ? `1e${t}` : number(10 ** t);

const cursors = [];
for (const [name, title] of [["drift", "drift of " + data.summary.weight + " (and distance from the exact weights)"],
  ["loss", "loss: training, held out; dotted: zero, dashed: mean"], ["error", "relative error; dotted: a zero output"]]) {
  const curves = Object.entries(data.curves).filter(([, curve]) => curve.panel === name);
  const extra = name === "loss" ? [data.baselines.zero, data.baselines.mean] : name === "error" ? [0] : [];
  const all = [...curves.flatMap(([, curve]) => curve.logs), ...extra].filter(v => v !== null && v !== undefined);
  if (!curves.length || !all.length) continue;
  let low = Math.min(...all), high = Math.max(...all);
  if (high - low < 1) { low -= 0.5; high += 0.5; }
  const root = svg("svg", { role: "img" }), map = panel(root, 120, 0, data.summary.asked || 1, low, high, title, decades(low, high), power);
  extra.forEach((v, n) => v === null || v === undefined || root.append(svg("line", { x1: LEFT, x2: W - RIGHT, y1: map.y(v), y2: map.y(v),
    stroke: "#666", "stroke-dasharray": n ? "6 3" : "2 3" })));
  for (const [tag, curve] of curves) {
    const colour = LOOKS[tag] || "#000", points = curve.steps.map((s, n) => [map.x(s), curve.logs[n]]).filter(p => p[1] !== null);
    root.append(svg("polyline", { points: points.map(p => `${p[0]},${map.y(p[1])}`).join(" "), fill: "none", stroke: colour, "stroke-width": 1.6 }));
    if (points.length < 60) for (const p of points) root.append(svg("circle", { cx: p[0], cy: map.y(p[1]), r: 2, fill: colour }));
  }
  const cursor = svg("line", { y1: map.top, y2: map.bottom, stroke: "#000", "stroke-dasharray": "3 2" });
  root.append(cursor, svg("text", { x: W - RIGHT, y: 116, "text-anchor": "end" }, `step ${data.summary.asked}`));
  cursors.push(step => { cursor.setAttribute("x1", map.x(step)); cursor.setAttribute("x2", map.x(step)); });
  $("curves").append(root);
}

const drawOutput = checkpoint => {
  $("output").replaceChildren();
  const target = data.target, now = checkpoint?.output, start = data.checkpoints[0]?.output;
  if (!target || !target.length) return $("output").append(element("p", "this run's records hold no output", "note"));
  const numbers = target.filter(v => v !== null), low = Math.min(0, ...numbers), high = Math.max(...numbers, low + 1e-12), room = (high - low) * 0.25;
  const root = svg("svg", { role: "img" });
  const map = panel(root, 220, -0.6, target.length - 0.4, low - (low < 0 ? room : 0), high + room, "grey: target; circle: start; cross: this step; dotted: zero",
    [low, (low + high) / 2, high], number);
  const width = Math.min(30, (W - LEFT) / target.length * 0.7), inside = v => Math.max(map.top, Math.min(map.bottom, map.y(v)));
  target.forEach((v, n) => v !== null && root.append(svg("rect", { x: map.x(n) - width / 2, width, y: Math.min(map.y(v), map.y(0)),
    height: Math.abs(map.y(v) - map.y(0)), fill: "#D9D9D9" })));
  root.append(svg("line", { x1: LEFT, x2: W - RIGHT, y1: map.y(0), y2: map.y(0), stroke: "#666", "stroke-dasharray": "2 3" }));
  (start || []).forEach((v, n) => v !== null && root.append(svg("circle", { cx: map.x(n), cy: inside(v), r: 5, fill: "none", stroke: "#0072B2", "stroke-width": 1.5 })));
  (now || []).forEach((v, n) => { if (v === null) return; const x = map.x(n), y = inside(v);
    root.append(svg("path", { d: `M${x - 5},${y - 5}l10,10m0,-10l-10,10`, stroke: "#D55E00", "stroke-width": 1.6 })); });
  $("output").append(root);
  if (!now) $("output").append(element("p", "no output was stored at this step", "note"));
};
const reach = [1, 2].map(part => Math.max(part === 1 ? 0.01 : 0.01, ...data.checkpoints.flatMap(c => (c.oscillators || []).map(o => Math.abs(o[part] ?? 0)))) * 1.15);
const drawOscillators = checkpoint => {
  $("oscillators").replaceChildren();
  const start = data.checkpoints[0]?.oscillators;
  if (!start) return $("oscillators").append(element("p", "this net has no block of oscillators", "note"));
  const last = Math.max(...start.map(o => o[0]));
  [[1, "modulus - 1, percent", 100], [2, "angle error, bins", 1]].forEach(([part, title, factor]) => {
    const root = svg("svg", { role: "img" }), far = reach[part - 1];
    const map = panel(root, 110, -0.4, last + 0.4, -far, far, title + " (by bin 0.." + last + ")", [-far / 1.15, 0, far / 1.15], v => number(v * factor));
    for (const o of start) root.append(svg("circle", { cx: map.x(o[0]), cy: map.y(o[part] ?? 0), r: 5, fill: "none", stroke: "#0072B2", "stroke-width": 1.5 }));
    for (const o of checkpoint?.oscillators || []) { const x = map.x(o[0]), y = map.y(o[part] ?? 0);
      root.append(svg("path", { d: `M${x - 5},${y - 5}l10,10m0,-10l-10,10`, stroke: "#D55E00", "stroke-width": 1.6 })); }
    $("oscillators").append(root);
  });
};
let mode = "weights";
const drawMatrix = checkpoint => {
  const found = checkpoint?.[mode], canvas = $("matrix");
  canvas.hidden = !found;
  if (!found) return $("scale").textContent = "no such matrix is stored, or it is too large for this page";
  const [rows, columns] = found.shape, scale = Math.max(2, Math.floor(420 / Math.max(rows, columns)));
  canvas.width = columns * scale; canvas.height = rows * scale;
  const draw = canvas.getContext("2d"), steps = Int8Array.from(atob(found.data), c => c.charCodeAt(0));
  steps.forEach((v, n) => {
    const pale = 1 - Math.abs(v) / 127, [r, g, b] = v === -128 ? [57, 255, 20] : v > 0 ? [178 + 77 * pale, 24 + 231 * pale, 43 + 212 * pale] : [33 + 222 * pale, 102 + 153 * pale, 172 + 83 * pale];
    draw.fillStyle = `rgb(${r},${g},${b})`;
    draw.fillRect((n % columns) * scale, Math.floor(n / columns) * scale, scale, scale);
  });
  draw.strokeStyle = "#666";
  for (const at of Object.values(data.blocks)) if (at) {
    draw.strokeRect(-1, at * scale, canvas.width + 2, 0); draw.strokeRect(at * scale, -1, 0, canvas.height + 2);
  }
  const lost = steps.filter(v => v === -128).length;
  $("scale").textContent = `red positive, blue negative, full colour ${number(found.top)}, six decades down to white` +
    (found.top ? "" : ": all zero") + (lost ? `; green: ${lost} not finite` : "") +
    (Object.keys(data.blocks).length ? `; blocks: ${Object.keys(data.blocks).join(", ")}` : "");
};
const verdictOf = entry => data.summary.verdict === "-" ? "-" : entry.verdict;
const show = n => {
  const entry = data.steps[n] || { step: 0, verdict: "-", reasons: [], conditions: [] };
  const checkpoint = data.checkpoints.filter(c => c.step <= entry.step).at(-1);
  $("step").value = n;
  $("now").textContent = `step ${entry.step} of ${data.summary.asked}: ${verdictOf(entry)}` + (checkpoint && checkpoint.step !== entry.step ? ` (weights of step ${checkpoint.step})` : "");
  cursors.forEach(move => move(entry.step));
  drawOutput(checkpoint); drawOscillators(checkpoint); drawMatrix(checkpoint);
  $("reasons").textContent = data.summary.verdict === "-" ? "No verdict is defined for this run." : entry.reasons.join("; ");
  const head = element("tr"), table = $("conditions");
  for (const name of ["condition", "value", "bound", "holds"]) head.append(element("th", name));
  table.replaceChildren(head);
  for (const c of entry.conditions) {
    const row = element("tr");
    row.append(element("td", c.name), element("td", number(c.value), c.holds ? "" : "bad"),
      element("td", (c.least ? "≥ " : "≤ ") + number(c.bound)), element("td", c.holds ? "yes" : "no", c.holds ? "" : "bad"));
    table.append(row);
  }
  [...$("history").children].forEach((cell, at) => cell.classList.toggle("here", at === n));
};
$("headline").textContent = data.summary.unmoved ? "No weight moved by more than rounding: this run tests nothing."
  : data.summary.verdict === "-" ? "No verdict is defined for this run." : `Verdict at the end: ${data.summary.verdict}`;
if (data.summary.unmoved) $("headline").className = "warning";
$("weightname").textContent = data.summary.weight;
$("step").max = Math.max(0, data.steps.length - 1);
data.steps.forEach((entry, n) => {
  const cell = element("span");
  cell.style.background = COLOURS[verdictOf(entry)] || "#ddd";
  cell.title = `step ${entry.step}: ${verdictOf(entry)}`;
  cell.addEventListener("click", () => show(n));
  $("history").append(cell);
});
const at = () => Number($("step").value), move = by => show(Math.max(0, Math.min(data.steps.length - 1, at() + by)));
$("step").addEventListener("input", () => show(at()));
$("back").addEventListener("click", () => move(-1));
$("on").addEventListener("click", () => move(1));
addEventListener("keydown", event => {
  if (event.target === $("step")) return;
  if (event.key === "ArrowLeft") move(-1);
  if (event.key === "ArrowRight") move(1);
});
$("mode").addEventListener("click", () => {
  mode = mode === "weights" ? "change" : "weights";
  $("mode").textContent = mode === "weights" ? "show the change since the start" : "show the weights";
  show(at());
});
show(Math.max(0, data.steps.length - 1));
