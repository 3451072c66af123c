// The attention view's arithmetic, apart from any drawing: packed patterns, sizes, what is under the pointer, words.

import { floatsOf } from "../kit/codes.js";
import { colour } from "../kit/colour.js";
import { cellTarget } from "../kit/keys.js";

/** @typedef {import("../kit/codes.js").Codes} Codes */
/** @typedef {import("../kit/keys.js").Cell} Cell */

const FAINTEST = -4; // power of ten where the logarithmic scale begins

/**
 * The colour scales: the weights with a mark on the legend, and where a weight of 0 to 1 lies, 0 to 1.
 * @type {Record<string, {marks: number[], at: (weight: number) => number}>}
 */
export const SCALES = {
  sqrt: { marks: [0, 0.01, 0.1, 0.25, 0.5, 1], at: (weight) => Math.sqrt(weight) },
  linear: { marks: [0, 0.25, 0.5, 0.75, 1], at: (weight) => weight },
  log: {
    marks: [0.0001, 0.001, 0.01, 0.1, 1],
    at: (weight) => (weight <= 0 ? 0 : Math.max(0, 1 - Math.log10(weight) / FAINTEST)),
  },
};

/** Where a weight lies on a colour scale, 0 to 1. @param {number} weight */
export function onScale(weight, scale = "sqrt") {
  return SCALES[scale].at(Math.min(1, Math.max(0, weight)));
}

/** What to paint for each code, (256 × 4) RGBA. Code 0, exactly zero, is left clear: the paper shows.
 * @type {(codes: Codes, dark: boolean, scale?: string) => Uint8ClampedArray} */
export function palette(codes, dark, scale = "sqrt") {
  const table = new Uint8ClampedArray(4 * (codes.levels + 2));
  for (let code = 1; code <= codes.levels; code += 1) {
    table.set([...colour(onScale(codes.weight(code), scale), dark), 255], 4 * code);
  }
  table.set(dark ? [240, 149, 61, 255] : [213, 94, 0, 255], 4 * (codes.levels + 1));
  return table;
}

// packed patterns: row by row, without the half that a causal model can't see ------------------------------------------

/** Bytes of a packed pattern of n × n cells. @param {number} n */
export function packedBytes(n) {
  return (n * (n + 1)) / 2;
}

/** n cells in a packed pattern of so many bytes. @param {number} bytes */
export function cellCount(bytes) {
  return Math.round((Math.sqrt(8 * bytes + 1) - 1) / 2);
}

/** The code of a cell; a row ends with its own token. @type {(cells: Uint8Array, row: number, column: number) => number} */
export function codeAt(cells, row, column) {
  return column > row ? 0 : cells[packedBytes(row) + column];
}

/**
 * An m × m picture of a packed pattern of n × n cells, q × q cells to a dot: the highest code of each (255, not a
 * number, is the highest of all). m = ceil(n / q).
 * @type {(cells: Uint8Array, n: number, q?: number) => Uint8Array}
 */
export function dots(cells, n, q = 1) {
  const m = Math.ceil(n / q);
  const picture = new Uint8Array(m * m);
  for (let row = 0, at = 0; row < n; row += 1) {
    const start = Math.floor(row / q) * m;
    for (let column = 0; column <= row; column += 1, at += 1) {
      const dot = start + Math.floor(column / q);
      if (cells[at] > picture[dot]) picture[dot] = cells[at];
    }
  }
  return picture;
}

/**
 * A packed pattern with the first token set aside, as far as its codes tell: each row divided by what it gives to
 * others than the first (rest, of as many rows), nothing on the first.
 * @type {(codes: Codes, cells: Uint8Array, n: number, rest: ArrayLike<number>) => Uint8Array}
 */
export function setAside(codes, cells, n, rest) {
  const result = new Uint8Array(cells.length);
  for (let row = 0, at = 0; row < n; row += 1) {
    for (let column = 0; column <= row; column += 1, at += 1) {
      if (!codes.isNumber(cells[at])) result[at] = cells[at];
      else if (column > 0 && rest[row] > 0) result[at] = codes.of(codes.weight(cells[at]) / rest[row]);
    }
  }
  return result;
}

/** One token's line of a packed pattern of n × n: what it looks at, or (into) how much each token looks at it.
 * @type {(cells: Uint8Array, n: number, token: number, into: boolean) => Uint8Array} */
export function lineOf(cells, n, token, into) {
  return Uint8Array.from({ length: n }, (_, i) => (into ? codeAt(cells, i, token) : codeAt(cells, token, i)));
}

/** The mean of several lines. @type {(codes: Codes, lines: Uint8Array[]) => Uint8Array} */
export function meanLine(codes, lines) {
  return lines[0].map((_, i) => codes.of(lines.reduce((sum, line) => sum + codes.weight(line[i]), 0) / lines.length));
}

/** The strongest entries of a line, without zeros and what is no number.
 * @type {(codes: Codes, line: Uint8Array, count: number) => {token: number, code: number}[]} */
export function strongest(codes, line, count) {
  return Array.from(line, (code, token) => ({ token, code }))
    .filter(({ code }) => code > 0 && codes.isNumber(code))
    .sort((a, b) => b.code - a.code || a.token - b.token)
    .slice(0, count);
}

// sizes and keys -------------------------------------------------------------------------------------------------------

const SIDE = 600; // of the whole picture, in CSS pixels, where there is room
const LABELLED = 60; // up to so many tokens every label is written out
const SMALLEST_LABELLED = 12;
const LARGEST = 30;
const NARROWEST = 80;
const LABEL_HEIGHT = 11;
const LABEL_ROOM = 16; // between labels where not every token has one
const STEPS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000];

/** Every how many cells of a size can have a label. @param {number} cell */
export function labelStep(cell) {
  return STEPS.find((step) => (step === 1 ? cell >= LABEL_HEIGHT : step * cell >= LABEL_ROOM)) ?? STEPS[STEPS.length - 1];
}

/** Which tokens have a label: every step-th. @param {{n: number, step: number}} size */
export function labelled({ n, step }) {
  return Array.from({ length: Math.ceil(n / step) }, (_, i) => i * step);
}

/** @typedef {ReturnType<typeof layout>} Layout */

/**
 * The size of an n × n picture, in CSS pixels unless it says otherwise.
 *
 * width: room for everything; rows(i), columns(i): how wide token i's label is, left of the picture and right of the
 * diagonal; dpr: device pixels for each CSS pixel. Returns {n, cell, side, q, m, step, gutter, overhang}: a cell's and
 * the picture's size; q × q cells share a dot, and m × m dots are painted, each a whole number of device pixels; every
 * step-th token is labelled; gutter and overhang are the room that labels take left and right of the picture.
 * @param {number} n
 * @param {{width: number, rows?: (i: number) => number, columns?: (i: number) => number, dpr?: number}} room
 */
export function layout(n, { width, rows = () => 0, columns = () => 0, dpr = 1 }) {
  const wish = n <= LABELLED ? n * Math.min(LARGEST, Math.max(SMALLEST_LABELLED, SIDE / n)) : SIDE;
  let gutter = 0; // room for every label: those left out are shown when their row is pointed at
  for (let i = 0; i < n; i += 1) gutter = Math.max(gutter, rows(i));
  let step = 1;
  for (;;) {
    const names = labelled({ n, step });
    // A label that starts on the diagonal, part of the way along, and ends where the room ends.
    const room = Math.min(...names.map((i) => ((width - gutter - columns(i)) * n) / (i + 1)), width - gutter);
    const device = Math.floor(Math.min(Math.max(NARROWEST, room), wish) * dpr + 1e-6);
    const dot = Math.max(1, Math.floor(device / n));
    const q = n <= device ? 1 : Math.ceil(n / device);
    const m = Math.ceil(n / q);
    const cell = dot / dpr / q;
    const side = (m * dot) / dpr;
    const fits = labelStep(cell);
    if (fits <= step) {
      const overhang = Math.max(0, ...names.map((i) => (i + 1) * cell + columns(i) - side));
      return { n, cell, side, q, m, step, gutter, overhang };
    }
    step = fits;
  }
}

/** Where a key moves from a cell among n rows, in the half that is seen; null when the key means nothing here.
 * @type {(key: string, at: Cell, n: number) => Cell | null} */
export function cellAfterKey(key, at, n) {
  const target = cellTarget(key, at, { rows: n, columns: n, page: [10, 0] });
  return target && { row: target.row, column: Math.min(target.row, target.column) };
}

// words ----------------------------------------------------------------------------------------------------------------

/** Heads that share this one's keys and values, without itself.
 * @type {(head: number, heads: number, kvHeads: number) => number[]} */
export function sharing(head, heads, kvHeads) {
  const group = kvHeads > 0 ? Math.floor(heads / kvHeads) : 1;
  const first = Math.floor(head / group) * group;
  return Array.from({ length: group }, (_, i) => first + i).filter((h) => h !== head && h < heads);
}

/** In words: "shares keys with heads 4, 5"; "" when it shares them with none.
 * @type {(head: number, heads: number, kvHeads: number) => string} */
export function saySharing(head, heads, kvHeads) {
  const others = sharing(head, heads, kvHeads);
  if (others.length === 0) return "";
  if (others.length === heads - 1) return "shares keys with all other heads";
  return `shares keys with head${others.length > 1 ? "s" : ""} ${others.join(", ")}`;
}

/** An exact weight, four decimals or, where they would all be zeros, as a power of ten. @param {number | null} weight */
export function exactWeight(weight) {
  if (weight === null || Number.isNaN(weight)) return "not a number";
  if (weight === 0) return "exactly 0";
  if (weight >= 0.00005) return weight.toFixed(4);
  const [digits, power] = weight.toExponential(1).split("e");
  return `${digits} · 10${[...power.replace("+", "")].map((c) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)]).join("")}`;
}

/** A weight read back from its code: as many digits as the code is good for. @type {(codes: Codes, code: number) => string} */
export function aboutWeight(codes, code) {
  const weight = codes.weight(code);
  if (Number.isNaN(weight)) return "not a number";
  if (code === 0) return "exactly 0";
  if (weight < 0.0001) return "under 0.0001";
  return `about ${weight.toFixed(weight >= 0.1 ? 2 : weight >= 0.01 ? 3 : 4)}`;
}

/** A share in percent for a sentence: whole, with a digit more close to 0 and to 1, and no digits beyond that.
 * @param {number} share */
export function roughPercent(share) {
  if (!Number.isFinite(share)) return "unknown";
  if (share <= 0) return "0 %";
  if (share >= 1) return "100 %";
  if (share < 0.001) return "under 0.1 %";
  if (share > 0.999) return "over 99.9 %";
  return `${(100 * share).toFixed(share < 0.01 || share > 0.99 ? 1 : 0)} %`;
}

/** A measure's value in words, with its unit. @type {(value: number | undefined, unit: string) => string} */
export function sayMeasure(value, unit) {
  if (value === undefined || Number.isNaN(value)) return "not defined here";
  if (unit === "share") return `${(100 * value).toFixed(value < 0.0995 ? 1 : 0)} %`;
  const digits = Math.abs(value) < 0.995 ? 3 : Math.abs(value) < 99.5 ? 2 : 0;
  return `${value.toFixed(digits).replace("-", "−")}${unit ? ` ${unit}` : ""}`;
}

// the map --------------------------------------------------------------------------------------------------------------

const HEADER = 20; // bytes: five int32

/**
 * The map's parts, decoded: {done, side, rows, thumbnails, measures}. thumbnails: place → codes of a head, place = layer's
 * place in the list × heads + head; measures: name → Float32Array by place, NaN where it has not come yet. Parts that are
 * of another kind (aside or not) than asked for are left out.
 * @param {(DataView | undefined)[]} parts
 * @param {{layers: number, heads: number, names: string[], aside: boolean}} shape
 */
export function decodeMap(parts, { layers, heads, names, aside }) {
  const measures = new Map(names.map((name) => [name, new Float32Array(layers * heads).fill(NaN)]));
  /** @type {Map<number, Uint8Array>} */
  const thumbnails = new Map();
  const found = { done: 0, side: 0, rows: 0, thumbnails, measures };
  for (const data of parts) {
    if (!data || data.byteLength < HEADER) continue;
    const [isAside, side, rows, first, count] = [0, 4, 8, 12, 16].map((at) => data.getInt32(at, true));
    if (Boolean(isAside) !== aside) continue;
    Object.assign(found, { side, rows, done: found.done + count });
    let at = HEADER;
    for (const values of measures.values()) {
      values.set(floatsOf(data, count * heads, at), first * heads);
      at += 4 * count * heads;
    }
    const bytes = packedBytes(side);
    for (let i = 0; i < count * heads; i += 1, at += bytes) {
      thumbnails.set(first * heads + i, new Uint8Array(data.buffer, data.byteOffset + at, bytes));
    }
  }
  return found;
}

/** Places of heads in the order they are drawn: layer by layer, or the highest value first, what has none last.
 * @type {(count: number, order: string, values: ArrayLike<number> | undefined) => number[]} */
export function arranged(count, order, values) {
  const places = Array.from({ length: count }, (_, i) => i);
  if (order !== "highest" || !values) return places;
  const height = (/** @type {number} */ i) => (Number.isNaN(values[i]) ? -Infinity : values[i]);
  return places.sort((a, b) => height(b) - height(a) || a - b);
}

export const LARGEST_PITCH = 24; // of a thumbnail and the gap after it

/** @typedef {ReturnType<typeof mapLayout>} MapLayout */

/**
 * Sizes of the map in CSS pixels: {size, columns, rows, pitch, rowPitch, width, height}. size: a thumbnail's side; x(i): where
 * column i begins; heads that share keys stand together.
 * @param {{layers: number, heads: number, kvHeads: number, width: number, order: string}} shape
 */
export function mapLayout({ layers: rows, heads, kvHeads, width, order }) {
  const group = kvHeads > 0 && order !== "highest" ? Math.max(1, Math.floor(heads / kvHeads)) : heads;
  const groups = Math.ceil(heads / group);
  const extra = group > 1 && groups > 1 ? 5 : 0;
  const pitch = Math.max(7, Math.min(LARGEST_PITCH, Math.floor((width - (groups - 1) * extra) / heads)));
  const size = pitch - (pitch > 12 ? 3 : 1);
  const x = (/** @type {number} */ column) => column * pitch + Math.floor(column / group) * extra;
  const bar = pitch > 12 ? 4 : 2;
  const caption = order === "highest" && pitch >= 20 ? 9 : 0; // where a head's place no longer says which it is
  const rowPitch = pitch + bar + caption;
  return { size, bar, caption, pitch, rowPitch, x, columns: heads, rows, width: x(heads - 1) + size, height: rows * rowPitch };
}

/** The slot (row · columns + column) of the map under a point, or null.
 * @type {(map: MapLayout, x: number, y: number) => number | null} */
export function slotAt(map, x, y) {
  const row = Math.floor(y / map.rowPitch);
  const column = Array.from({ length: map.columns }, (_, i) => i).findLast((i) => x >= map.x(i));
  if (column === undefined || row < 0 || row >= map.rows || x >= map.x(column) + map.pitch) return null;
  return row * map.columns + column;
}

/** Where a key moves from a slot of the map; null when the key means nothing here.
 * @type {(key: string, slot: number, grid: {columns: number, rows: number}) => number | null} */
export function slotAfterKey(key, slot, { columns, rows }) {
  const at = { row: Math.floor(slot / columns), column: slot % columns };
  const target = cellTarget(key, at, { rows, columns, page: [5, 0] });
  return target && target.row * columns + target.column;
}
