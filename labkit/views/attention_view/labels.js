// Names of tokens: along the sides of a pattern, and in sentences.

import { make, visibleLabel } from "../kit/common.js";
import { labelled } from "./logic.js";
import { isWhole, ticks } from "./plane.js";

export const LABEL_CHARACTERS = 18;
export const ROW_GAP = 6; // between a label and the picture
export const COLUMN_GAP = 5;
const SMALLEST_LABEL = 14; // CSS pixels; where there is less room it is left out
const STRIP = 76; // room for upright labels below a zoomed picture

/** A token's text for a label: one line, a space before the word as a muted dot, apart from the text around it. */
export function axisLabel(text, limit) {
  const element = make("bdi", "lk-label");
  const shown = visibleLabel(text, limit);
  if (shown.length > 1 && shown.startsWith("·")) element.append(make("span", "lk-att-dim", "·"), shown.slice(1));
  else element.append(shown === "" ? "(empty)" : shown);
  return element;
}

/** A token's text in a sentence, in quotes and without the space before it. */
export function quoted(text) {
  const shown = visibleLabel(text, 40);
  const word = shown.length > 1 && shown.startsWith("·") ? shown.slice(1) : shown;
  return make("bdi", "lk-att-quoted", `"${word}"`);
}

/** How wide each cell's labels are, {rows(i), columns(i)} in CSS pixels: its number, a gap, its text. */
export function labelWidths(shown, element, width) {
  const cap = Math.round(Math.min(120, Math.max(52, width * 0.16)));
  element.style.setProperty("--lk-att-label", `${cap}px`);
  const brush = make("canvas").getContext("2d");
  brush.font = `11px ${getComputedStyle(element).getPropertyValue("--lk-sans") || "sans-serif"}`;
  const known = new Map();
  const of = (text) => {
    if (!known.has(text)) known.set(text, Math.ceil(brush.measureText(visibleLabel(text, LABEL_CHARACTERS)).width) + 2);
    return known.get(text);
  };
  const number = Math.ceil(brush.measureText(String(shown.tokens - 1)).width) + 5;
  const at = (i) => shown.label(i * shown.pool, shown.pool);
  return {
    rows: (i) => Math.min(cap, of(at(i)) + number) + ROW_GAP,
    columns: (i) => Math.min(cap, of(at(i))) + COLUMN_GAP,
  };
}

/** The labels along both sides of what is shown, for the elements `rowLabels` and `columnLabels` in `plot`. */
export function drawLabels(shown, { plot, rowLabels, columnLabels }) {
  const u = shown.unit();
  const { size, seen, tokens } = shown;
  const full = isWhole(seen, shown.whole);
  const rows = full ? labelled(size).map((i) => i * shown.pool) : ticks(seen.top, seen, size.side, tokens, u);
  const columns = full ? rows : ticks(seen.left, seen, size.side, tokens, u);
  rowLabels.replaceChildren(...rows.map((token) => rowLabel(shown, token, u)));
  const onDiagonal = columns.filter((token) => shown.onDiagonal(token, u));
  const below = columns.filter((token) => !shown.onDiagonal(token, u) && token <= seen.top + seen.span);
  columnLabels.replaceChildren(...onDiagonal.map((token) => columnLabel(shown, token, u)), ...below.map((token) => uprightLabel(shown, token, u)));
  plot.style.height = `${size.side + (full ? 0 : STRIP)}px`;
}

function rowLabel(shown, token, u) {
  const label = make("span", "lk-att-row");
  label.style.top = `${shown.middleOf(token, u, shown.seen.top)}px`;
  label.append(make("span", "lk-att-number", `${token} `), axisLabel(shown.label(token, u), LABEL_CHARACTERS));
  return label;
}

/** A column's name stands where the column begins: on the diagonal, in the half that nothing can look into. */
function columnLabel(shown, token, u) {
  const { size, seen } = shown;
  const label = make("span", "lk-att-column");
  label.style.top = `${shown.middleOf(token, u, seen.top)}px`;
  const left = ((token + u - seen.left) * size.side) / seen.span + COLUMN_GAP;
  const room = size.side + size.overhang - left;
  label.hidden = room < SMALLEST_LABEL;
  label.style.left = `${left}px`;
  label.style.maxWidth = `${Math.ceil(room)}px`;
  label.append(axisLabel(shown.label(token, u), LABEL_CHARACTERS));
  return label;
}

/** Where the diagonal is out of sight the name stands upright below. */
function uprightLabel(shown, token, u) {
  const label = make("span", "lk-att-upright");
  label.style.top = `${shown.size.side + 4}px`;
  label.style.left = `${shown.middleOf(token, u, shown.seen.left)}px`;
  label.append(axisLabel(shown.label(token, u), LABEL_CHARACTERS));
  return label;
}
