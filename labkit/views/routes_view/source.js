// Where one token's exact numbers come from: the kernel, which is asked, or what an exported file holds.

import { answerStore } from "../kit/ask.js";
import { codeValue } from "./logic.js";

/** @typedef {import("../kit/ask.js").Wire} Wire */
/** @typedef {{version: number, trace: number, layer: number, token: number}} Place */

/** @param {DataView} data */
const floats = (data) => Float32Array.from({ length: data.byteLength / 4 }, (_, i) => data.getFloat32(4 * i, true));

/** token(place, then) → {probabilities, weights, exact}, null until it has come. @param {Wire} wire */
export function liveRoutes(wire) {
  const store = answerStore(wire, "token", ({ buffers }) => {
    const [probabilities, weights] = buffers.map(floats);
    return { probabilities, weights, exact: true };
  });
  return { token: (/** @type {Place} */ place, /** @type {() => void} */ then) => store.get(place, then) };
}

/** The same from a file, to about two digits; undefined for a token whose probabilities it does not hold. */
export function heldRoutes(model, facts) {
  const data = model.get("probabilities");
  const codes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  const layers = facts.layers.length;
  const starts = [];
  let at = 0;
  for (const n of facts.with_probabilities) {
    starts.push(at);
    at += n * layers * facts.experts;
  }
  return {
    token({ trace, layer, token }) {
      if (token >= facts.with_probabilities[trace]) return undefined;
      const from = starts[trace] + (token * layers + layer) * facts.experts;
      const probabilities = Float32Array.from(codes.subarray(from, from + facts.experts), (code) => codeValue(code));
      return { probabilities, weights: null, exact: false };
    },
  };
}
