// Where the attention view's numbers come from: a kernel that answers questions, or what an exported file holds.

import { answerStore } from "../kit/ask.js";
import { codeAt, lineOf, meanLine, packedBytes, setAside } from "./logic.js";

const PATIENCE = 20000; // ms, after which what was asked for is asked again: the kernel was restarted, or is busy
const TILES_KEPT = 192; // more than two panes on a fine screen show at a time
const LINES_KEPT = 400;

/** @type {(data: DataView) => Uint8Array} */
const bytesOf = (data) => new Uint8Array(data.buffer, data.byteOffset, data.byteLength);

/** Answers come from the kernel. A head on show arrives by the model's traits; the rest is asked for. @param {import("../kit/ask.js").Wire} wire */
export function kernelSource(wire) {
  const tiles = answerStore(wire, "tile", ({ value, buffers }) => ({ shape: value, codes: bytesOf(buffers[0]) }), { most: TILES_KEPT, patience: PATIENCE });
  const lines = answerStore(wire, "line", ({ buffers }) => bytesOf(buffers[0]), { most: LINES_KEPT, patience: PATIENCE });
  return {
    live: true,
    /** The exact weight of a cell: then({weight, query, key, query_text, key_text}). */
    exact(place, then) {
      wire.ask("exact", place, { patience: PATIENCE }).then(({ value }) => then(value), () => {});
    },
    /** A tile of codes, now or later: {shape, codes}; null until then. asking: whether to ask for what is not here. */
    tile: (place, then, asking = true) => (asking ? tiles.get(place, then) : tiles.peek(place)),
    /** One token's line over some heads, codes; null until it has come. */
    line: (place, then) => lines.get(place, then),
    start: () => wire.ask("start", {}, { repeat: true }).catch(() => {}),
    /** Fails with the sentence to be shown. */
    ablate: (heads) => wire.ask("ablate", { heads }),
  };
}

/** What an exported file holds. */
export function fileSource(model, facts) {
  const held = new Map();
  const cells = bytesOf(model.get("embedded_cells"));
  const rest = model.get("embedded_rest");
  let at = 0;
  let restAt = 0;
  for (const summary of model.get("embedded")) {
    const tokens = facts.tokens[summary.trace];
    const length = packedBytes(Math.ceil(tokens / facts.pools[summary.trace]));
    const rests = Float32Array.from({ length: tokens }, (_, i) => rest.getFloat32(restAt + 4 * i, true));
    held.set(`${summary.trace} ${summary.layer} ${summary.head}`, {
      summary,
      plain: cells.subarray(at, at + length),
      rests,
      aside: null,
    });
    at += length;
    restAt += 4 * tokens;
  }

  /** {summary, codes} of a head, or null where the file does not hold it. */
  function head({ trace, layer, head: number, aside }) {
    const found = held.get(`${trace} ${layer} ${number}`);
    if (found === undefined) return null;
    if (!aside || facts.pools[trace] > 1) return { summary: { ...found.summary, aside: false }, codes: found.plain };
    found.aside ??= setAside(found.plain, facts.tokens[trace], found.rests);
    // The strongest links are those of the whole pattern.
    return { summary: { ...found.summary, aside: true, links: [] }, codes: found.aside };
  }

  return {
    live: false,
    held: [...held.values()].map(({ summary }) => summary),
    head,
    exact() {},
    tile: () => null,
    line({ trace, heads, token, into, aside }) {
      const found = heads.map(([layer, number]) => head({ trace, layer, head: number, aside }));
      if (found.includes(null)) return undefined;
      const pool = facts.pools[trace];
      const n = Math.ceil(facts.tokens[trace] / pool);
      const line = meanLine(found.map(({ codes }) => lineOf(codes, n, Math.floor(token / pool), into)));
      if (pool === 1) return line;
      return Uint8Array.from({ length: facts.tokens[trace] }, (_, i) => line[Math.floor(i / pool)]);
    },
    start() {},
    ablate: async () => {},
  };
}

/** The code of a cell by its first tokens: from the packed whole, or from a tile of finer cells. */
export function codeReader(codes, pool, unit, tile) {
  return (row, column) => {
    if (column > row) return 0;
    if (unit < pool) {
      const [r, c] = [Math.floor(row / unit), Math.floor(column / unit)];
      const found = tile(Math.floor(r / 256), Math.floor(c / 256));
      if (found) return found.codes[(r % 256) * found.shape[1] + (c % 256)] ?? 0;
    }
    return codeAt(codes, Math.floor(row / pool), Math.floor(column / pool));
  };
}
