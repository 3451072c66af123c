// Arithmetic of the quantization view, apart from all drawing.

import { decimal, significant, thousands } from "../kit/common.js";

/** One cell of the error map: the weight in it that is furthest off. @typedef {{row: number, column: number, weight: number, value: number}} Cell */

const CELL_BYTES = 12; // uint32 place, float32 weight, float32 value

/** @type {(cells: DataView, i: number, columns: number) => Cell} */
export function cellAt(cells, i, columns) {
  const place = cells.getUint32(CELL_BYTES * i, true);
  return {
    row: Math.floor(place / columns),
    column: place % columns,
    weight: cells.getFloat32(CELL_BYTES * i + 4, true),
    value: cells.getFloat32(CELL_BYTES * i + 8, true),
  };
}

/** |error| of every cell. @type {(cells: DataView) => Float64Array} */
export function errorsOf(cells) {
  const count = cells.byteLength / CELL_BYTES;
  return Float64Array.from({ length: count }, (_, i) => Math.abs(cells.getFloat32(CELL_BYTES * i + 8, true) - cells.getFloat32(CELL_BYTES * i + 4, true)));
}

/** A share in per cent: "10.1 %". @param {number} share */
export const shareText = (share) => `${share >= 0.0995 ? decimal(100 * share, 1) : significant(100 * share, 2)} %`;

/** What is said of a weight under the pointer. @type {(cell: Cell, pooled: boolean) => string} */
export function cellWords({ row, column, weight, value }, pooled) {
  const lead = pooled ? "the largest error here: " : "";
  return `${lead}row ${thousands(row)}, column ${thousands(column)}: ${significant(weight, 4)} became ${significant(value, 4)}, error ${significant(value - weight)}`;
}

/** Where the bars of a histogram stand and how high, on a square-root scale: 0 to 1. @type {(counts: number[]) => number[]} */
export function heights(counts) {
  const top = Math.sqrt(Math.max(1, ...counts));
  return counts.map((count) => Math.sqrt(count) / top);
}

/** "18,432 bytes". @param {number} bytes */
export const byteText = (bytes) => `${thousands(bytes)} byte${bytes === 1 ? "" : "s"}`;
