// Arithmetic and words of the adapter view, apart from any drawing.

import { counted, decimal } from "../kit/common.js";

/**
 * One text, as `_side` in Python makes it.
 * @typedef {{pieces: {texts: string[], continued: number[], called: [number, string][]}, differ: number[], count: number,
 *   done: boolean}} Side
 */

/**
 * @typedef {{prompt: string, state: "writing" | "done" | "stopped", base: Side | null, tuned: Side | null, of: number[],
 *   old: boolean, top?: number, mean?: number | null}} Shown
 */

/** A scale with as many digits as it has: "0.35", "−1". @param {number} value */
export const scaleWords = (value) => String(Number(value.toPrecision(6))).replace("-", "−");

/** What a scale means. @param {number} value */
export function meaning(value) {
  if (value === 0) return "off";
  if (value === 1) return "as trained";
  if (value < 0) return "taken away";
  return value < 1 ? "in part" : "overdone";
}

/** The scale at a position of the slider. @type {(position: number, steps: number, low: number, high: number) => number} */
export function scaleAt(position, steps, low, high) {
  return Math.min(high, Math.max(low, Number((position / steps).toPrecision(6))));
}

/** How deep the shade is behind a KL, in per cent; 0 for what is not known or too small to be seen.
 * @type {(kl: number, top: number) => number} */
export function depth(kl, top) {
  const share = Math.min(1, kl / top);
  return share >= 0.01 ? Math.max(2, Math.round(50 * share)) : 0;
}

/** A KL in nats. @param {number} value */
export const klWords = (value) => (value > 0 && value < 0.001 ? "less than 0.001" : decimal(value, 3));

/** How the two differ, in a sentence. @type {(shown: Shown) => string} */
export function differWords({ base, tuned }) {
  if (base === null || tuned === null) return "";
  const n = tuned.differ.length;
  if (base.differ.length === 0 && n === 0) {
    if (tuned.count === 0) return "";
    return tuned.done && base.done ? "Both texts are the same." : `The same so far: ${counted(tuned.count, "token")}.`;
  }
  return `${counted(n, "token")} of ${tuned.count} with the adapters ${n === 1 ? "is" : "are"} not in the base's text.`;
}
