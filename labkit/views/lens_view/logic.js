// The lens view's arithmetic, apart from all drawing.

import { bytesOf } from "../kit/codes.js";

/** @typedef {{model: string, title: string, kinds: string[], layers: number[], k: number, depth: number, extent: string}} Facts */
/** kl: NaN where it is not known. @typedef {{tokens: string[], probabilities: number[], kl: number}} Cell */
/**
 * All cells, and the numbers that they are found by. columns: of tokens.
 * @typedef {{columns: number, cell: (column: number, kind: number, row: number) => Cell | null, top: (column: number, kind: number, row: number) => number,
 *   first: (column: number, kind: number, row: number) => number, kl: (column: number, kind: number, row: number) => number, largest: number}} Cells
 */

/**
 * The cells out of the view's traits. top(): the place of the most probable token, -1 where there is none; first(): its
 * probability; largest: of all divergences.
 * @type {(facts: Facts, texts: string[], places: DataView, probabilities: DataView, divergences: DataView) => Cells}
 */
export function readCells({ kinds, layers, k }, texts, places, probabilities, divergences) {
  const each = kinds.length * layers.length;
  const ints = new Int32Array(bytesOf(places).slice().buffer);
  const floats = new Float32Array(bytesOf(probabilities).slice().buffer);
  const far = new Float32Array(bytesOf(divergences).slice().buffer);
  const at = (/** @type {number} */ column, /** @type {number} */ kind, /** @type {number} */ row) => column * each + kind * layers.length + row;
  const columns = each > 0 ? far.length / each : 0;
  return {
    columns,
    top: (column, kind, row) => ints[at(column, kind, row) * k] ?? -1,
    first: (column, kind, row) => floats[at(column, kind, row) * k],
    kl: (column, kind, row) => far[at(column, kind, row)],
    largest: far.reduce((most, value) => (Number.isFinite(value) ? Math.max(most, value) : most), 0),
    cell(column, kind, row) {
      const from = at(column, kind, row) * k;
      if (column >= columns || (ints[from] ?? -1) < 0) return null;
      const there = [...ints.subarray(from, from + k)].filter((place) => place >= 0);
      return {
        tokens: there.map((place) => texts[place]),
        probabilities: [...floats.subarray(from, from + there.length)],
        kl: far[at(column, kind, row)],
      };
    },
  };
}

/**
 * How deep a cell is tinted, 0 to 1: by the probability of its token, or by how near it is to what the model says itself.
 * @type {(cells: Cells, colour: string, column: number, kind: number, row: number) => number}
 */
export function depth(cells, colour, column, kind, row) {
  if (colour === "probability") return Math.min(1, Math.max(0, cells.first(column, kind, row) || 0));
  const kl = cells.kl(column, kind, row);
  if (Number.isNaN(kl)) return 0;
  return cells.largest > 0 ? 1 - Math.sqrt(Math.min(1, kl / cells.largest)) : 1;
}

export const HIGH = 21; // of a cell, CSS pixels
const WIDEST = 92;
const NARROWEST = 58;

/** How wide a cell is where so many stand in a width. @type {(columns: number, width: number) => number} */
export function cellWidth(columns, width) {
  return Math.floor(Math.min(WIDEST, Math.max(NARROWEST, width / Math.max(1, columns))));
}

/**
 * Cells by layers, all rows of one height.
 * @type {(x: number, y: number, wide: number, columns: number, rows: number) => {column: number, row: number} | null}
 */
export function cellAt(x, y, wide, columns, rows) {
  const [column, row] = [Math.floor(x / wide), Math.floor(y / HIGH)];
  return column >= 0 && column < columns && row >= 0 && row < rows ? { column, row } : null;
}
