// Where the attention view's numbers come from: a kernel that answers questions, or what an exported file holds.

import { answerStore } from "../kit/ask.js";
import { bytesOf, floatsOf } from "../kit/codes.js";
import { codeAt, lineOf, meanLine, packedBytes, setAside } from "./logic.js";

const PATIENCE = 20000; // ms, after which what was asked for is asked again: the kernel was restarted, or is busy
const TILES_KEPT = 192; // more than two panes on a fine screen show at a time
const LINES_KEPT = 400;

/** @typedef {[number, number]} Head its layer and its number */
/** @typedef {{trace: number, layer: number, head: number, aside: boolean}} HeadPlace */
/** @typedef {{query: number, key: number, query_text: string, key_text: string, weight: number}} Link */
/** What reading.py says of a head.
 * @typedef {{layer: number, head: number, aside: boolean, links: Link[], [more: string]: any}} Summary */
/** Codes by row; drawn, palette: in colour, and by which.
 * @typedef {{shape: number[], codes: Uint8Array, drawn?: HTMLCanvasElement, palette?: Uint8ClampedArray}} Tile */
/** @typedef {{trace: number, heads: Head[], token: number, into: boolean, aside: boolean}} LineQuestion */

/**
 * live: whether there is a kernel; held: the heads of a file; head: one of these, null where it is not there.
 * exact: the exact weight of a cell, handed to then(). tile: a tile of codes, null until it has come (asking: ask for it).
 * line: one token's line over some heads, codes; null until it has come, undefined where it can't be had.
 * ablate fails with the sentence to be shown.
 * @typedef {object} Source
 * @property {boolean} live
 * @property {(Summary & {trace: number})[]} held
 * @property {(place: HeadPlace) => {summary: Summary, codes: Uint8Array} | null} head
 * @property {(place: HeadPlace & {row: number, column: number, pool: number}, then: (found: Link) => void) => void} exact
 * @property {(place: HeadPlace & {row: number, column: number, pool: number}, then: () => void, asking?: boolean) => Tile | null} tile
 * @property {(question: LineQuestion, then: () => void) => Uint8Array | null | undefined} line
 * @property {() => void} start
 * @property {(heads: Head[]) => Promise<unknown>} ablate
 */

/** Answers come from the kernel. A head on show arrives by the model's traits; the rest is asked for.
 * @type {(wire: import("../kit/ask.js").Wire) => Source} */
export function kernelSource(wire) {
  /** @type {{get: (place: object, then: () => void) => Tile | null, peek: (place: object) => Tile | null}} */
  const tiles = answerStore(wire, "tile", ({ value, buffers }) => ({ shape: value, codes: bytesOf(buffers[0]) }), { most: TILES_KEPT, patience: PATIENCE });
  const lines = answerStore(wire, "line", ({ buffers }) => bytesOf(buffers[0]), { most: LINES_KEPT, patience: PATIENCE });
  return {
    live: true,
    held: [],
    head: () => null,
    exact(place, then) {
      wire.ask("exact", place, { patience: PATIENCE }).then(({ value }) => then(value), () => {});
    },
    tile: (place, then, asking = true) => (asking ? tiles.get(place, then) : tiles.peek(place)),
    line: (question, then) => lines.get(question, then),
    start: () => void wire.ask("start", {}, { repeat: true }).catch(() => {}),
    ablate: (heads) => wire.ask("ablate", { heads }),
  };
}

/**
 * What an exported file holds.
 * @param {{get: (name: string) => any}} state
 * @param {{tokens: number[], pools: number[]}} facts
 * @param {import("../kit/codes.js").Codes} codes
 * @returns {Source}
 */
export function fileSource(state, { tokens, pools }, codes) {
  const cells = bytesOf(state.get("embedded_cells"));
  const rest = state.get("embedded_rest");
  let at = 0;
  let restAt = 0;
  /** @type {(Summary & {trace: number})[]} */
  const held = state.get("embedded");
  const heads = held.map((summary) => {
    const count = tokens[summary.trace];
    const plain = cells.subarray(at, (at += packedBytes(Math.ceil(count / pools[summary.trace]))));
    const rests = floatsOf(rest, count, restAt);
    restAt += 4 * count;
    /** Made once it is asked for. @type {Uint8Array | null} */
    const aside = null;
    return { summary, plain, rests, aside };
  });

  /** @type {Source["head"]} */
  function head({ trace, layer, head: number, aside }) {
    const found = heads.find(({ summary: each }) => each.trace === trace && each.layer === layer && each.head === number);
    if (found === undefined) return null;
    if (!aside || pools[trace] > 1) return { summary: { ...found.summary, aside: false }, codes: found.plain };
    const made = (found.aside ??= /** @type {any} */ (setAside(codes, found.plain, tokens[trace], found.rests)));
    // The strongest links are those of the whole pattern.
    return { summary: { ...found.summary, aside: true, links: [] }, codes: made };
  }

  return {
    live: false,
    held,
    head,
    exact() {},
    tile: () => null,
    line({ trace, heads: wanted, token, into, aside }) {
      const pool = pools[trace];
      const n = Math.ceil(tokens[trace] / pool);
      const lines = wanted.flatMap(([layer, number]) => {
        const found = head({ trace, layer, head: number, aside });
        return found ? [lineOf(found.codes, n, Math.floor(token / pool), into)] : [];
      });
      if (lines.length < wanted.length) return undefined;
      const line = meanLine(codes, lines);
      return pool === 1 ? line : Uint8Array.from({ length: tokens[trace] }, (_, i) => line[Math.floor(i / pool)]);
    },
    start() {},
    ablate: async () => {},
  };
}

/**
 * The code of a cell by its first tokens: from the packed whole, or where a cell is to be finer (unit < pool), from a tile of
 * side × side such cells.
 * @type {(cells: Uint8Array, pool: number, unit: number, side: number, tile: (row: number, column: number) => Tile | null) => (row: number, column: number) => number}
 */
export function codeReader(cells, pool, unit, side, tile) {
  return (row, column) => {
    if (column > row) return 0;
    if (unit < pool) {
      const [r, c] = [Math.floor(row / unit), Math.floor(column / unit)];
      const found = tile(Math.floor(r / side), Math.floor(c / side));
      if (found) return found.codes[(r % side) * found.shape[1] + (c % side)] ?? 0;
    }
    return codeAt(cells, Math.floor(row / pool), Math.floor(column / pool));
  };
}
