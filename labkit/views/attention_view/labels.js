// Names of tokens: along the sides of a pattern, and in sentences.

import { brushOf } from "../kit/canvas.js";
import { make, visibleLabel } from "../kit/common.js";
import { labelled } from "./logic.js";
import { ticks } from "./plane.js";

/** @typedef {import("./shown.js").Shown} Shown */
/** @typedef {{rows: (i: number) => number, columns: (i: number) => number}} Widths */

export const LABEL_CHARACTERS = 18;
export const ROW_GAP = 6; // between a label and the picture
export const COLUMN_GAP = 5;
const SMALLEST_LABEL = 14; // CSS pixels; where there is less room it is left out
const STRIP = 76; // room for upright labels below a zoomed picture

/** A token's text for a label: one line, a space before the word as a muted dot, apart from the text around it.
 * @type {(text: string, limit: number) => HTMLElement} */
export function axisLabel(text, limit) {
  const element = make("bdi", "lk-label");
  const shown = visibleLabel(text, limit);
  if (shown.length > 1 && shown.startsWith("·")) element.append(make("span", "lk-att-dim", "·"), shown.slice(1));
  else element.append(shown === "" ? "(empty)" : shown);
  return element;
}

/** A token's text in a sentence, in quotes and without the space before it. @param {string} text */
export function quoted(text) {
  const shown = visibleLabel(text, 40);
  const word = shown.length > 1 && shown.startsWith("·") ? shown.slice(1) : shown;
  return make("bdi", "lk-att-quoted", `"${word}"`);
}

/** How wide each cell's labels are, {rows(i), columns(i)} in CSS pixels: its number, a gap, its text.
 * @type {(shown: Shown, element: HTMLElement, width: number) => Widths} */
export function labelWidths(shown, element, width) {
  const cap = Math.round(Math.min(120, Math.max(52, width * 0.16)));
  element.style.setProperty("--lk-att-label", `${cap}px`);
  const brush = brushOf(make("canvas"));
  brush.font = `11px ${getComputedStyle(element).getPropertyValue("--lk-sans") || "sans-serif"}`;
  /** @type {Map<string, number>} */
  const known = new Map();
  const of = (/** @type {string} */ text) => {
    const wide = known.get(text) ?? Math.ceil(brush.measureText(visibleLabel(text, LABEL_CHARACTERS)).width) + 2;
    known.set(text, wide);
    return wide;
  };
  const number = Math.ceil(brush.measureText(String(shown.tokens - 1)).width) + 5;
  const at = (/** @type {number} */ i) => shown.label(i * shown.pool, shown.pool);
  return {
    rows: (i) => Math.min(cap, of(at(i)) + number) + ROW_GAP,
    columns: (i) => Math.min(cap, of(at(i))) + COLUMN_GAP,
  };
}

/** The labels along both sides of what is shown, for the elements `rowLabels` and `columnLabels` in `plot`.
 * @type {(shown: Shown, parts: Record<"plot" | "rowLabels" | "columnLabels", HTMLElement>) => void} */
export function drawLabels(shown, { plot, rowLabels, columnLabels }) {
  const u = shown.unit();
  const { size, seen, tokens, full } = shown;
  const rows = full ? labelled(size).map((i) => i * shown.pool) : ticks(seen.top, seen, size.side, tokens, u);
  const columns = full ? rows : ticks(seen.left, seen, size.side, tokens, u);
  rowLabels.replaceChildren(...rows.map((token) => rowLabel(shown, token, u)));
  const onDiagonal = columns.filter((token) => shown.onDiagonal(token, u));
  const below = columns.filter((token) => !shown.onDiagonal(token, u) && token <= seen.top + seen.span);
  columnLabels.replaceChildren(...onDiagonal.map((token) => columnLabel(shown, token, u)), ...below.map((token) => uprightLabel(shown, token, u)));
  plot.style.height = `${size.side + (full ? 0 : STRIP)}px`;
}

/** @type {(shown: Shown, token: number, u: number) => HTMLElement} */
function rowLabel(shown, token, u) {
  const label = make("span", "lk-att-row");
  label.style.top = `${shown.middleOf(token, u, shown.seen.top)}px`;
  label.append(...numberedLabel(shown, token, u));
  return label;
}

/** A cell's number and its tokens' text. @type {(shown: Shown, token: number, u: number) => HTMLElement[]} */
export function numberedLabel(shown, token, u) {
  return [make("span", "lk-att-number lk-muted", `${token} `), axisLabel(shown.label(token, u), LABEL_CHARACTERS)];
}

/** A column's name stands where the column begins: on the diagonal, in the half that nothing can look into.
 * @type {(shown: Shown, token: number, u: number) => HTMLElement} */
function columnLabel(shown, token, u) {
  const { size, seen } = shown;
  const label = make("span", "lk-att-column lk-muted");
  label.style.top = `${shown.middleOf(token, u, seen.top)}px`;
  const left = shown.endOf(token, u) + COLUMN_GAP;
  const room = size.side + size.overhang - left;
  label.hidden = room < SMALLEST_LABEL;
  label.style.left = `${left}px`;
  label.style.maxWidth = `${Math.ceil(room)}px`;
  label.append(axisLabel(shown.label(token, u), LABEL_CHARACTERS));
  return label;
}

/** Where the diagonal is out of sight the name stands upright below.
 * @type {(shown: Shown, token: number, u: number) => HTMLElement} */
function uprightLabel(shown, token, u) {
  const label = make("span", "lk-att-upright lk-muted");
  label.style.top = `${shown.size.side + 4}px`;
  label.style.left = `${shown.middleOf(token, u, shown.seen.left)}px`;
  label.append(axisLabel(shown.label(token, u), LABEL_CHARACTERS));
  return label;
}

/** The names of the cell in focus, or of its row, over the labels.
 * @type {(shown: Shown, chips: Record<"rowChip" | "columnChip", HTMLElement>, at: import("./plane.js").Place | null) => void} */
export function drawChips(shown, { rowChip, columnChip }, at) {
  rowChip.hidden = columnChip.hidden = true;
  if (at === null) return;
  const u = shown.unit();
  const { size, seen } = shown;
  const y = shown.middleOf(at.row, u, seen.top);
  rowChip.hidden = y < 0 || y > size.side;
  rowChip.replaceChildren(...numberedLabel(shown, at.row, u));
  rowChip.style.top = `${y}px`;
  rowChip.style.maxWidth = `${size.gutter}px`;
  rowChip.style.right = `${size.side + Math.ceil(size.overhang) + 3}px`;
  if (at.column === undefined) return;
  const diagonal = shown.onDiagonal(at.column, u);
  const x = diagonal ? shown.endOf(at.column, u) + COLUMN_GAP - 3 : shown.middleOf(at.column, u, seen.left);
  columnChip.hidden = x < 0 || x > size.side + size.overhang;
  columnChip.replaceChildren(...numberedLabel(shown, at.column, u));
  columnChip.style.top = `${diagonal ? shown.middleOf(at.column, u, seen.top) : size.side + 14}px`;
  columnChip.style.left = `${size.gutter + Math.max(0, x - (diagonal ? 0 : 20))}px`;
}
