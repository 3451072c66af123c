// The picture of a circuit: edges, parts and their signs, on a canvas of its own; what is in focus on another above it.

import { sized } from "../kit/canvas.js";
import { groupLetter } from "./logic.js";

/** @typedef {import("./logic.js").Graph} Graph */
/** @typedef {import("./logic.js").Layout} Layout */
/** @typedef {import("./logic.js").Spot} Spot */
/** @typedef {import("./logic.js").Shown} Shown */
/** @typedef {import("../kit/mount.js").Mounted} Mounted */

/**
 * What of the parts is marked. letters: the place of its group, by part.
 * @typedef {{pins: Set<number>, knocked: Set<number>, letters: Map<number, number>}} Marks
 */

const SERIES = 6; // colours that the theme has for groups

/** @param {Mounted} view */
function inks({ theme }) {
  const colour = (/** @type {string} */ name) => theme.colour(`--lk-${name}`);
  return {
    raises: colour("accent"),
    lowers: colour("unsure"),
    paper: colour("paper"),
    ink: colour("ink"),
    muted: colour("muted"),
    line: colour("line"),
    wash: colour("wash"),
    focus: colour("focus"),
    groups: Array.from({ length: SERIES }, (_, i) => colour(`series-${i}`)),
  };
}

/** Rows, columns, edges and parts. @type {(view: Mounted, canvas: HTMLCanvasElement, graph: Graph, shown: Shown, layout: Layout, marks: Marks) => void} */
export function paint(view, canvas, graph, shown, layout, marks) {
  const brush = sized(canvas, layout.width, layout.height);
  const ink = inks(view);
  for (const [i, { top, bottom, empty }] of layout.rows.entries()) {
    if (i % 2 === 0 && !empty) {
      brush.fillStyle = ink.wash;
      brush.fillRect(0, top, layout.width, bottom - top);
    }
  }
  brush.strokeStyle = ink.line;
  brush.lineWidth = 1;
  brush.beginPath();
  for (const { right } of layout.columns.slice(0, -1)) {
    brush.moveTo(Math.round(right) + 0.5, 0);
    brush.lineTo(Math.round(right) + 0.5, layout.height);
  }
  brush.stroke();
  const crowded = Math.min(1, 14 / Math.sqrt(shown.links.length + 1));
  for (const i of shown.links.toReversed()) drawLink(brush, graph, layout, i, ink, 0.2 + 0.5 * crowded, 1);
  for (const spot of layout.spots) drawPart(brush, graph, spot, marks, ink);
}

/**
 * What is in focus, and what it is joined to, over the rest. others: further parts to be framed, such as those of a group.
 * @type {(view: Mounted, canvas: HTMLCanvasElement, graph: Graph, shown: Shown, layout: Layout, marks: Marks, at: number | null, others: number[]) => void}
 */
export function paintFocus(view, canvas, graph, shown, layout, marks, at, others) {
  const brush = sized(canvas, layout.width, layout.height);
  const ink = inks(view);
  if (at !== null && layout.place.has(at)) {
    const joined = new Set([at]);
    const own = shown.links.filter((i) => graph.links[i].from === at || graph.links[i].to === at);
    for (const i of own.toReversed()) {
      drawLink(brush, graph, layout, i, ink, 1, 1.4);
      joined.add(graph.links[i].from).add(graph.links[i].to);
    }
    for (const i of joined) {
      const spot = layout.place.get(i);
      if (spot) drawPart(brush, graph, spot, marks, ink);
    }
  }
  for (const i of others) {
    const spot = layout.place.get(i);
    if (spot) drawPart(brush, graph, spot, marks, ink);
  }
  brush.strokeStyle = ink.focus;
  brush.lineWidth = 2.5;
  for (const i of at === null ? others : [at, ...others]) {
    const spot = layout.place.get(i);
    if (spot === undefined) continue;
    brush.beginPath();
    brush.arc(spot.x, spot.y, spot.r + 4, 0, 2 * Math.PI);
    brush.stroke();
  }
}

/** @type {(brush: CanvasRenderingContext2D, graph: Graph, layout: Layout, i: number, ink: ReturnType<typeof inks>, opacity: number, wider: number) => void} */
function drawLink(brush, graph, layout, i, ink, opacity, wider) {
  const { from, to, effect } = graph.links[i];
  const [start, end] = [layout.place.get(from), layout.place.get(to)];
  if (start === undefined || end === undefined) return;
  const share = Number.isNaN(effect) ? 0 : Math.abs(effect) / graph.heaviest;
  brush.strokeStyle = effect < 0 ? ink.lowers : ink.raises;
  brush.globalAlpha = Math.min(1, opacity * (0.55 + 0.6 * share));
  brush.lineWidth = (0.5 + 4 * share) * wider;
  brush.setLineDash(effect < 0 ? [5, 3] : []);
  const [top, bottom] = [start.y + start.r, end.y - end.r];
  const bend = Math.max(12, (bottom - top) / 2);
  brush.beginPath();
  brush.moveTo(start.x, top);
  brush.bezierCurveTo(start.x, top + bend, end.x, bottom - bend, end.x, bottom);
  brush.stroke();
  brush.globalAlpha = 1;
  brush.setLineDash([]);
}

/** @type {(brush: CanvasRenderingContext2D, graph: Graph, spot: Spot, marks: Marks, ink: ReturnType<typeof inks>) => void} */
function drawPart(brush, graph, { i, x, y, r, label }, { pins, knocked, letters }, ink) {
  const { kind, effect } = graph.parts[i];
  const ends = kind === "input" || kind === "output";
  const colour = ends ? ink.muted : effect < 0 ? ink.lowers : ink.raises;
  const hollow = ends || effect < 0 || Number.isNaN(effect);
  brush.lineWidth = r < 5 ? 1.5 : 2;
  brush.strokeStyle = Number.isNaN(effect) && !ends ? ink.muted : colour;
  brush.fillStyle = hollow ? ink.paper : colour;
  outline(brush, kind, x, y, hollow ? r - brush.lineWidth / 2 : r);
  brush.fill();
  if (hollow) brush.stroke();
  if (!ends && r >= 5.5 && !Number.isNaN(effect)) {
    brush.strokeStyle = hollow ? colour : ink.paper;
    brush.lineWidth = 1.6;
    const arm = Math.min(4, r * 0.45);
    brush.beginPath();
    brush.moveTo(x - arm, y);
    brush.lineTo(x + arm, y);
    if (effect > 0) {
      brush.moveTo(x, y - arm);
      brush.lineTo(x, y + arm);
    }
    brush.stroke();
  }
  brush.strokeStyle = ink.ink;
  if (pins.has(i)) {
    brush.lineWidth = 1.3;
    outline(brush, kind, x, y, r + 2.5);
    brush.stroke();
  }
  if (knocked.has(i)) {
    brush.lineWidth = 2;
    brush.beginPath();
    for (const [dx, dy] of [[1, 1], [1, -1]]) {
      brush.moveTo(x - dx * (r + 2), y - dy * (r + 2));
      brush.lineTo(x + dx * (r + 2), y + dy * (r + 2));
    }
    brush.stroke();
  }
  brush.textAlign = "center";
  const group = letters.get(i);
  if (group !== undefined) {
    brush.font = "bold 9px system-ui, sans-serif";
    brush.fillStyle = ink.groups[group % SERIES];
    brush.fillRect(x + r - 2, y - r - 5, 11, 11);
    brush.fillStyle = ink.paper;
    brush.fillText(groupLetter(group), x + r + 3.5, y - r + 3.5);
  }
  if (label) {
    brush.font = "10px system-ui, sans-serif";
    brush.lineWidth = 3;
    brush.lineJoin = "round";
    brush.strokeStyle = ink.paper;
    brush.strokeText(label, x, y + r + 11);
    brush.fillStyle = ink.ink;
    brush.fillText(label, x, y + r + 11);
  }
}

/** The outline of a part says its kind. @type {(brush: CanvasRenderingContext2D, kind: string, x: number, y: number, r: number) => void} */
function outline(brush, kind, x, y, r) {
  brush.beginPath();
  if (kind === "head") {
    brush.arc(x, y, r, 0, 2 * Math.PI);
    return;
  }
  const half = 0.88 * r;
  if (kind === "mlp") brush.rect(x - half, y - half, 2 * half, 2 * half);
  else if (kind === "group") {
    // two, one behind the other
    brush.roundRect(x - half - 2.5, y - half - 2.5, 2 * half, 2 * half, 2);
    brush.roundRect(x - half, y - half, 2 * half, 2 * half, 2);
  } else if (kind === "input" || kind === "output") brush.roundRect(x - 1.3 * r, y - 0.75 * r, 2.6 * r, 1.5 * r, 3);
  else corners(brush, { neuron: 4, feature: 6, error: 3 }[kind] ?? 5, x, y, 1.12 * r);
}

/** @type {(brush: CanvasRenderingContext2D, count: number, x: number, y: number, r: number) => void} */
function corners(brush, count, x, y, r) {
  for (let k = 0; k < count; k += 1) {
    const angle = (2 * Math.PI * k) / count - Math.PI / 2;
    brush[k === 0 ? "moveTo" : "lineTo"](x + r * Math.cos(angle), y + r * Math.sin(angle));
  }
  brush.closePath();
}

/** A small picture of a kind, for the key. @type {(view: Mounted, kind: string, effect: number) => HTMLCanvasElement} */
export function kindSample(view, kind, effect) {
  const canvas = document.createElement("canvas");
  canvas.className = "lk-circuit-sample";
  const none = { pins: new Set(), knocked: new Set(), letters: new Map() };
  const part = { id: "", kind, layer: null, index: null, position: null, effect, direct: NaN, rank: 0 };
  const graph = /** @type {Graph} */ (/** @type {unknown} */ ({ parts: [part] }));
  drawPart(sized(canvas, 18, 16), graph, { i: 0, x: 9, y: 8, r: 6, label: "" }, none, inks(view));
  return canvas;
}
