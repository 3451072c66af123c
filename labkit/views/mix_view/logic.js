// Arithmetic of the mix view, apart from all drawing.

import { decimal } from "../kit/common.js";

/** @typedef {{budgets: number[], sizes: number[], predicted: number[], bits: number[]}} Curve */
/** @typedef {{budget: number, size: number, predicted: number, bits: number, chosen: number[]}} Shown */
/** @typedef {{row: number, column: number, in: ([number, number, number] | null)[]}} MatrixCell */

/** The place of the largest budget of a rising list that is not above this one. @type {(budgets: number[], budget: number) => number} */
export function placeOf(budgets, budget) {
  let place = 0;
  while (place + 1 < budgets.length && budgets[place + 1] <= budget) place += 1;
  return place;
}

/** The mix of a file for a budget: that of the curve which fits. @type {(curve: Curve, chosen: Uint8Array, budget: number) => Shown} */
export function fromCurve(curve, chosen, budget) {
  const place = placeOf(curve.budgets, budget);
  const count = chosen.length / curve.budgets.length;
  return {
    budget,
    size: curve.sizes[place],
    predicted: curve.predicted[place],
    bits: curve.bits[place],
    chosen: [...chosen.subarray(place * count, (place + 1) * count)],
  };
}

/** "3.42 MB", a million bytes each. @param {number} bytes */
export const megabytes = (bytes) => `${decimal(bytes / 1e6, bytes < 1e7 ? 3 : 1)} MB`;

/** Powers of ten between two positive values, both included. @type {(low: number, high: number) => number[]} */
export function powers(low, high) {
  const found = [];
  for (let power = Math.ceil(Math.log10(low) - 1e-9); power <= Math.log10(high) + 1e-9; power += 1) found.push(10 ** power);
  return found;
}
