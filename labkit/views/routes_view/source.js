// Where one token's exact numbers come from: the kernel, which is asked, or what an exported file holds.

import { answerStore } from "../kit/ask.js";
import { bytesOf, floatsOf } from "../kit/codes.js";

/** @typedef {{version: number, trace: number, layer: number, token: number}} Question */
/** weights: the largest first, where they are known exactly.
 * @typedef {{probabilities: Float32Array, weights: Float32Array | null, exact: boolean}} Numbers */
/**
 * get(question, then, asking): a token's numbers, null until they have come, undefined where they can't be had.
 * @typedef {{get: (question: Question, then: () => void, asking?: boolean) => Numbers | null | undefined}} Source
 */

/** @type {(wire: import("../kit/ask.js").Wire) => Source} */
export function liveRoutes(wire) {
  return answerStore(wire, "token", ({ buffers }) => {
    const [probabilities, weights] = buffers.map((each) => floatsOf(each));
    return { probabilities, weights, exact: true };
  });
}

/**
 * The same from a file, to about two digits; undefined for a token whose probabilities it does not hold.
 * @type {(data: DataView, codes: import("../kit/codes.js").Codes, facts: import("./logic.js").Facts) => Source}
 */
export function heldRoutes(data, codes, { layers, experts, with_probabilities: held }) {
  const bytes = bytesOf(data);
  return {
    get({ trace, layer, token }) {
      if (token >= held[trace]) return undefined;
      const before = held.slice(0, trace).reduce((sum, tokens) => sum + tokens, 0);
      const from = ((before + token) * layers.length + layer) * experts;
      const probabilities = Float32Array.from(bytes.subarray(from, from + experts), (code) => codes.weight(code));
      return { probabilities, weights: null, exact: false };
    },
  };
}
