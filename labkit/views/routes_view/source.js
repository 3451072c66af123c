// Where one token's exact numbers come from: the kernel, which is asked, or what an exported file holds.

import { codeValue } from "./logic.js";

const PATIENCE = 20000; // ms, after which what was asked for is asked again: the kernel was restarted, or is busy
const KEPT = 600;

/** token({version, trace, layer, token}, then) → {probabilities, weights, exact}, null until it has come. */
export function liveRoutes(model) {
  const asked = new Map();
  const kept = new Map();
  const own = Math.random().toString(36).slice(2); // two displays of a view share the model
  let count = 0;

  function onAnswer(answer, buffers) {
    const waiting = asked.get(answer?.id);
    if (waiting === undefined) return;
    asked.delete(answer.id);
    const [probabilities, weights] = buffers.map((data) =>
      Float32Array.from({ length: data.byteLength / 4 }, (_, i) => data.getFloat32(4 * i, true)),
    );
    kept.set(waiting.key, { probabilities, weights, exact: true });
    if (kept.size > KEPT) kept.delete(kept.keys().next().value);
    waiting.then();
  }
  model.on("msg:custom", onAnswer);

  return {
    live: true,
    token(place, then) {
      const key = JSON.stringify([place.version, place.trace, place.layer, place.token]);
      const there = kept.get(key);
      if (there?.exact) return there;
      if (there && Date.now() - there.since < PATIENCE) return null;
      kept.set(key, { since: Date.now() });
      const id = `${own} ${(count += 1)}`;
      asked.set(id, { key, then });
      if (asked.size > KEPT) asked.delete(asked.keys().next().value);
      model.send({ type: "token", ...place, id });
      return null;
    },
    close: () => model.off("msg:custom", onAnswer),
  };
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
    live: false,
    token({ trace, layer, token }) {
      if (token >= facts.with_probabilities[trace]) return undefined;
      const from = starts[trace] + (token * layers + layer) * facts.experts;
      const probabilities = Float32Array.from(codes.subarray(from, from + facts.experts), (code) => codeValue(code));
      return { probabilities, weights: null, exact: false };
    },
    close() {},
  };
}
