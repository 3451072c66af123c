// Where the attention view's numbers come from: a kernel that answers questions, or what an exported file holds.

import { codeAt, lineOf, meanLine, packedBytes, setAside } from "./logic.js";

const PATIENCE = 20000; // ms, after which what was asked for is asked again: the kernel was restarted, or is busy
const TILES_KEPT = 192; // more than two panes on a fine screen show at a time
const LINES_KEPT = 400;

const bytesOf = (data) => new Uint8Array(data.buffer, data.byteOffset, data.byteLength);

/** Keep it, and let go of what was kept longest ago where there is too much. */
function remember(cache, key, value, most) {
  cache.delete(key);
  if (cache.size >= most) cache.delete(cache.keys().next().value);
  cache.set(key, value);
  return value;
}

/** Answers come from the kernel. A head on show arrives by the model's traits; the rest is asked for. */
export function kernelSource(model) {
  const asked = new Map();
  const tiles = new Map();
  const lines = new Map();
  let count = 0;
  const own = Math.random().toString(36).slice(2); // two displays of a view share the model

  function onAnswer(answer, buffers) {
    const waiting = asked.get(answer?.id);
    if (waiting === undefined) return;
    asked.delete(answer.id);
    waiting.then(answer, buffers ?? []);
  }
  model.on("msg:custom", onAnswer);

  function ask(question, then) {
    const id = `${own} ${(count += 1)}`;
    const now = Date.now();
    for (const [old, { since }] of asked) {
      if (now - since < PATIENCE) break; // they stand in the order they were asked
      asked.delete(old);
    }
    asked.set(id, { then, since: now });
    model.send({ ...question, id });
  }

  return {
    live: true,
    /** The exact weight of a cell: then({weight, query, key, query_text, key_text}). */
    exact: (place, then) => ask({ type: "exact", ...place }, then),
    /** A tile of codes, now or later: {shape, codes}; null until then. asking: whether to ask for what is not here. */
    tile(place, then, asking = true) {
      const key = JSON.stringify(place);
      const there = tiles.get(key);
      if (there?.codes) return there;
      if (!asking || (there && Date.now() - there.asked < PATIENCE)) return null;
      remember(tiles, key, { asked: Date.now() }, TILES_KEPT);
      ask({ type: "tile", ...place }, (answer, buffers) => {
        remember(tiles, key, { shape: answer.shape, codes: bytesOf(buffers[0]) }, TILES_KEPT);
        then();
      });
      return null;
    },
    /** One token's line over some heads, codes; null until it has come. */
    line(place, then) {
      const key = JSON.stringify(place);
      const there = lines.get(key);
      if (there instanceof Uint8Array) return there;
      if (there && Date.now() - there.asked < PATIENCE) return null;
      remember(lines, key, { asked: Date.now() }, LINES_KEPT);
      ask({ type: "line", ...place }, (_answer, buffers) => {
        remember(lines, key, bytesOf(buffers[0]), LINES_KEPT);
        then();
      });
      return null;
    },
    start: () => model.send({ type: "start" }),
    ablate: (heads) => model.send({ type: "ablate", heads }),
    close: () => model.off("msg:custom", onAnswer),
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
    ablate() {},
    close() {},
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
