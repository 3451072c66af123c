// Names of tokens: along the sides of a pattern, and in sentences.

import { brushOf } from "../kit/canvas.js";
import { make, pixels, thousands, visibleLabel } from "../kit/common.js";
import { quoted, tokenLabel } from "../kit/token_list.js";
import { labelled } from "./logic.js";
import { ticks } from "./plane.js";

/** @typedef {import("./shown.js").Shown} Shown */
/** @typedef {{rows: (i: number) => number, columns: (i: number) => number}} Widths */

export const LABEL_CHARACTERS = 18;
export const ROW_GAP = 6; // between a label and the picture
export const COLUMN_GAP = 5;
const SMALLEST_LABEL = 14; // CSS pixels; where there is less room it is left out
const STRIP = 76; // room for upright labels below a zoomed picture

/** A token in a sentence, with its number. @type {(text: string, token: number) => (string | Node)[]} */
export const numbered = (text, token) => [quoted(text), ` (${thousands(token)})`];

/** How wide each cell's labels are, {rows(i), columns(i)} in CSS pixels: its number, a gap, its text.
 * @type {(shown: Shown, element: HTMLElement, width: number) => Widths} */
export function labelWidths(shown, element, width) {
  const cap = Math.round(Math.min(120, Math.max(52, width * 0.16)));
  element.style.setProperty("--lk-att-label", `${cap}px`);
  const brush = brushOf(make("canvas"));
  brush.font = `11px ${getComputedStyle(element).getPropertyValue("--lk-sans") || "sans-serif"}`;
  const number = Math.ceil(brush.measureText(String(shown.tokens - 1)).width) + 5;
  const texts = Array.from({ length: shown.cells }, (_, i) => visibleLabel(shown.label(i * shown.pool, shown.pool), LABEL_CHARACTERS));
  const wide = texts.map((text) => Math.ceil(brush.measureText(text).width) + 2);
  return {
    rows: (i) => Math.min(cap, wide[i] + number) + ROW_GAP,
    columns: (i) => Math.min(cap, wide[i]) + COLUMN_GAP,
  };
}

/** Something written beside the picture. @type {(className: string, place: Record<string, number>, ...parts: Node[]) => HTMLElement} */
function written(className, place, ...parts) {
  const element = make("span", className);
  element.append(...parts);
  return pixels(element, place);
}

/** The labels along both sides of what is shown, for the elements `rowLabels` and `columnLabels` in `plot`.
 * @type {(shown: Shown, parts: Record<"plot" | "rowLabels" | "columnLabels", HTMLElement>) => void} */
export function drawLabels(shown, { plot, rowLabels, columnLabels }) {
  const u = shown.unit();
  const { size, seen, tokens, full } = shown;
  const along = (/** @type {number} */ start) =>
    full ? labelled(size).map((i) => i * shown.pool) : ticks(start, seen, size.side, tokens, u);
  const row = (/** @type {number} */ token) =>
    written("lk-att-row", { top: shown.middleOf(token, u, seen.top) }, ...numberedLabel(shown, token, u));
  rowLabels.replaceChildren(...along(seen.top).map(row));
  columnLabels.replaceChildren(...along(seen.left).flatMap((token) => columnLabel(shown, token, u)));
  pixels(plot, { height: size.side + (full ? 0 : STRIP) });
}

/** A cell's number and its tokens' text. @type {(shown: Shown, token: number, u: number) => HTMLElement[]} */
export function numberedLabel(shown, token, u) {
  return [make("span", "lk-att-number lk-muted", `${token} `), tokenLabel(shown.label(token, u), LABEL_CHARACTERS)];
}

/** A column's name stands where the column begins: on the diagonal, in the half that nothing can look into; where that is out of
 * sight, upright below. Nothing where it has no room.
 * @type {(shown: Shown, token: number, u: number) => HTMLElement[]} */
function columnLabel(shown, token, u) {
  const { size, seen } = shown;
  const name = tokenLabel(shown.label(token, u), LABEL_CHARACTERS);
  if (!shown.onDiagonal(token, u)) {
    const place = { top: size.side + 4, left: shown.middleOf(token, u, seen.left) };
    return token > seen.top + seen.span ? [] : [written("lk-att-upright lk-muted", place, name)];
  }
  const left = shown.endOf(token, u) + COLUMN_GAP;
  const room = size.side + size.overhang - left;
  const place = { top: shown.middleOf(token, u, seen.top), left, maxWidth: Math.ceil(room) };
  return room < SMALLEST_LABEL ? [] : [written("lk-att-column lk-muted", place, name)];
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
  pixels(rowChip, { top: y, maxWidth: size.gutter, right: size.side + Math.ceil(size.overhang) + 3 });
  if (at.column === undefined) return;
  const diagonal = shown.onDiagonal(at.column, u);
  const x = diagonal ? shown.endOf(at.column, u) + COLUMN_GAP - 3 : shown.middleOf(at.column, u, seen.left);
  columnChip.hidden = x < 0 || x > size.side + size.overhang;
  columnChip.replaceChildren(...numberedLabel(shown, at.column, u));
  const top = diagonal ? shown.middleOf(at.column, u, seen.top) : size.side + 14;
  pixels(columnChip, { top, left: size.gutter + Math.max(0, x - (diagonal ? 0 : 20)) });
}
