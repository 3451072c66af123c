// The steering view's words for strengths, and where a slider's positions are.

/** @typedef {{key: string, label: string, typical: number, high: number, steps: number}} Feature */

/** A strength with its sign, as exact as it is: "+12.5", "−3", "0". @param {number} value */
export function strengthWords(value) {
  if (value === 0) return "0";
  return `${value > 0 ? "+" : "−"}${Number(Math.abs(value).toPrecision(10))}`;
}

/** @type {(value: number, typical: number) => string} */
export function timesWords(value, typical) {
  return value === 0 ? "off" : `${strengthWords(Number((value / typical).toPrecision(3)))} × its highest`;
}

/**
 * The strength at a position of a slider, with as many digits as are shown.
 * @type {(position: number, feature: Feature) => number}
 */
export function strengthAt(position, { high, steps }) {
  if (Math.abs(position) === steps) return Math.sign(position) * high;
  return Number(((position / steps) * high).toPrecision(4));
}
