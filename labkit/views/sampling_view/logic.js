// The temperature view's arithmetic, apart from any drawing. The probabilities come from Python; here they are read.

/** @typedef {{lowest: number, highest: number, step: number}} Slider */

/**
 * A row of float32; others is the share of all tokens without a bar.
 * @typedef {{temperature: number, entropy: number, others: number, shares: number[]}} Row
 */

/** @type {(bytes: DataView, at: number, bars: number) => Row} */
export function readRow(bytes, at, bars) {
  const value = (/** @type {number} */ i) => bytes.getFloat32(at + 4 * i, true);
  return {
    temperature: value(0),
    entropy: value(1),
    others: value(2),
    shares: Array.from({ length: bars }, (_, i) => value(3 + i)),
  };
}

/**
 * What to draw at a temperature: its row of the table when it is one of the slider's positions, else the row that
 * Python sent for it; null when that has not come yet.
 * @type {(temperature: number, table: DataView, current: DataView, bars: number, slider: Slider) => Row | null}
 */
export function rowAt(temperature, table, current, bars, { lowest, step }) {
  const length = 4 * (3 + bars);
  const i = Math.round((temperature - lowest) / step);
  if (Math.abs(i * step + lowest - temperature) < 1e-6 && (i + 1) * length <= table.byteLength) {
    return readRow(table, i * length, bars);
  }
  if (current.byteLength !== length) return null;
  const row = readRow(current, 0, bars);
  return Math.abs(row.temperature - temperature) < 1e-6 ? row : null;
}

/** How a temperature is said. @param {number} temperature */
export function sayTemperature(temperature) {
  return `${temperature.toFixed(2)}${temperature === 0 ? " (greedy)" : ""}`;
}
