// The features view's arithmetic, apart from any drawing.

import { floatsOf } from "../kit/codes.js";

export const NO_FEATURE = -1;

/** Of the tone behind a word, at most this much: the word has to stay readable on it. */
const DEEPEST = 58; // per cent

/** @typedef {{feature: number, value: number}} Active */

/**
 * A text's activations from the view's traits: {n, missing (token -> why it has no features), left (unexplained shares),
 * full(token), top(token) → Active[], of(feature) → Float32Array}. of() is NaN where features are not defined. full: whether
 * the token's list is as long as lists are here, while some token has more.
 * Throws RangeError when the bytes are not as many as the facts ask for.
 * @param {{drawn: number, n: number, bytes: number, most: number, undefined: [number, string][]}} facts
 * @param {DataView} indices
 * @param {DataView} values
 * @param {DataView} unexplained
 */
export function decodeFeatures(facts, indices, values, unexplained) {
  const { drawn, n, bytes } = facts;
  const count = drawn * n;
  if (indices.byteLength !== bytes * count || values.byteLength !== 4 * count || unexplained.byteLength !== 4 * drawn) {
    throw new RangeError(`${indices.byteLength}, ${values.byteLength} and ${unexplained.byteLength} bytes for ${drawn} tokens`);
  }
  const none = 2 ** (8 * bytes) - 1;
  const numbers = Int32Array.from({ length: count }, (_, i) => {
    const found = bytes === 2 ? indices.getUint16(2 * i, true) : indices.getUint32(4 * i, true);
    return found === none ? NO_FEATURE : found;
  });
  const heights = floatsOf(values);
  const missing = new Map(facts.undefined);
  return {
    n: drawn,
    missing,
    left: floatsOf(unexplained),
    full: (/** @type {number} */ token) => facts.most > n && numbers[(token + 1) * n - 1] !== NO_FEATURE,
    top(/** @type {number} */ token) {
      /** @type {Active[]} */
      const found = [];
      for (let i = token * n; i < (token + 1) * n && numbers[i] !== NO_FEATURE; i += 1) {
        found.push({ feature: numbers[i], value: heights[i] });
      }
      return found;
    },
    of(/** @type {number} */ feature) {
      const found = new Float32Array(drawn);
      for (let i = 0; i < count; i += 1) if (numbers[i] === feature) found[Math.floor(i / n)] = heights[i];
      for (const token of missing.keys()) found[token] = NaN;
      return found;
    },
  };
}

/** An activation for a list: four digits that matter. @param {number | null} value */
export function activation(value) {
  if (value === null || !Number.isFinite(value)) return "no number";
  const size = Math.abs(value);
  return value.toFixed(size >= 1000 ? 0 : size >= 100 ? 1 : size >= 10 ? 2 : 3).replace("-", "−");
}

/**
 * How deep the tone behind a token is, in per cent: linear from 0 to the largest.
 * @type {(value: number | null, largest: number) => number}
 */
export function depth(value, largest) {
  if (value === null || !(value > 0) || !(largest > 0)) return 0;
  return Math.round(10 * DEEPEST * Math.min(1, value / largest)) / 10;
}

/**
 * The occupied bins of a histogram: [{low, high, count}], from the first to the last that has a token.
 * @type {(edges: (number | null)[], counts: number[]) => {low: number | null, high: number | null, count: number}[]}
 */
export function occupied(edges, counts) {
  const first = counts.findIndex((count) => count > 0);
  if (first < 0) return [];
  const last = counts.findLastIndex((count) => count > 0);
  return counts.slice(first, last + 1).map((count, i) => ({ low: edges[first + i], high: edges[first + i + 1], count }));
}

/**
 * The height of a histogram's bar, 0 to 1, on a logarithmic scale on which a single token is still to be seen.
 * @type {(count: number, most: number) => number}
 */
export function logHeight(count, most) {
  return count > 0 ? Math.log1p(count) / Math.log1p(most) : 0;
}

/** A number for an axis: three digits. @param {number | null} value */
export function axisNumber(value) {
  return value === null ? "?" : String(Number(value.toPrecision(3)));
}
