// Where the attention view's numbers come from: a kernel that answers questions, or what an exported file holds.

import { answerStore } from "../kit/ask.js";
import { bytesOf, floatsOf } from "../kit/codes.js";
import { codeAt, lineOf, meanLine, packedBytes, setAside } from "./logic.js";

const TILES_KEPT = 192; // more than two panes on a fine screen show at a time
const LINES_KEPT = 400;
const EXACT_KEPT = 5000;

/** @typedef {[number, number]} Head its layer and its number */
/** @typedef {{trace: number, layer: number, head: number, aside: boolean}} HeadPlace */
/** A cell or a tile, counted in those of pool × pool tokens. @typedef {HeadPlace & {row: number, column: number, pool: number}} CellPlace */
/** @typedef {{query: number, key: number, query_text: string, key_text: string, weight: number}} Link */
/** What reading.py says of a head, and of which trace it is.
 * @typedef {{trace: number, layer: number, head: number, aside: boolean, links: Link[], [more: string]: any}} Summary */
/** Codes by row. @typedef {{shape: number[], codes: Uint8Array}} Tile */
/** @typedef {{trace: number, heads: Head[], token: number, into: boolean, aside: boolean}} LineQuestion */
/** null until it has come; then(): it has. Without `asking`, it is not asked for.
 * @template Question, Value @typedef {(question: Question, then: () => void, asking?: boolean) => Value} Asked */

/** Where numbers come from. @typedef {ReturnType<typeof kernelSource>} Source */

/** Answers come from the kernel. The heads on show arrive by the model's traits; the rest is asked for.
 * @param {import("../kit/ask.js").Wire} wire @param {(name: string) => any} get */
export function kernelSource(wire, get) {
  return {
    /** Whether there is a kernel. */
    live: true,
    /** The heads of a file. @type {Summary[]} */
    held: [],
    /** A head on show, its codes and what is said of it; prefix: of the traits that have it. null: it is not there.
     * @type {(place: HeadPlace, prefix: string) => {summary: Summary, codes: Uint8Array} | null} */
    head(_place, prefix) {
      const codes = bytesOf(get(`${prefix}cells`));
      return codes.length === 0 ? null : { codes, summary: get(`${prefix}summary`) };
    },
    /** The exact weight of a cell. @type {Asked<CellPlace, Link | null>} */
    exact: answerStore(wire, "exact", ({ value }) => value, { most: EXACT_KEPT }).get,
    /** A tile of codes. @type {Asked<CellPlace, Tile | null>} */
    tile: answerStore(wire, "tile", ({ value, buffers }) => ({ shape: value, codes: bytesOf(buffers[0]) }), { most: TILES_KEPT }).get,
    /** One token's line over some heads, codes; undefined where it can't be had.
     * @type {Asked<LineQuestion, Uint8Array | null | undefined>} */
    line: answerStore(wire, "line", ({ buffers }) => bytesOf(buffers[0]), { most: LINES_KEPT }).get,
    start: () => void wire.ask("start", {}, { repeat: true }).catch(() => {}),
    /** Fails with the sentence to be shown. @type {(heads: Head[]) => Promise<unknown>} */
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
  /** @type {Summary[]} */
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

  /** @type {(place: HeadPlace, prefix?: string) => {summary: Summary, codes: Uint8Array} | null} */
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
    exact: () => null,
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
