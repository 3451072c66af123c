// The token view's arithmetic, apart from any drawing.

import { thousands } from "../kit/common.js";

/**
 * A token's line: it belongs to the first whose lower bound `from` its probability reaches. line, wave: its thickness, in
 * pixels; deep: how much of the colour of doubt is in it, 0 to 1.
 * @typedef {{from: number, label: string, line: number, wave: number, deep: number}} Stroke
 */

/** Index into the strokes, the thinnest (sure) first. What is not a number gets the thickest. @type {(probability: number, strokes: Stroke[]) => number} */
export function stroke(probability, strokes) {
  const found = strokes.findIndex(({ from }) => probability >= from);
  return found < 0 ? strokes.length - 1 : found;
}

/** Bytes of a block of n tokens with k alternatives each. @type {(n: number, k: number) => number} */
export function blockBytes(n, k) {
  return 4 * n * (8 + 3 * k);
}

/**
 * token, piece, rank, id, logprob, sampledLogprob, entropy: n; topToken, topId, topLogprob: n·k. outside, continued: tokens
 * that are no part of the text, and that only finish a character.
 * @typedef {ReturnType<typeof decode>} Data
 */

/**
 * The view's traits as arrays. Throws RangeError when the block is not of the length that n and k ask for.
 * @param {DataView | null} block
 * @param {number} n
 * @param {number} k
 * @param {{outside: number, continued: number}} kinds
 */
export function decode(block, n, k, kinds) {
  const length = block ? block.byteLength : 0;
  if (length !== blockBytes(n, k)) throw new RangeError(`a block of ${length} bytes for ${n} tokens, ${k} alternatives`);
  let at = -4;
  const next = () => (at += 4);
  const integers = (/** @type {number} */ count) => Int32Array.from({ length: count }, () => block?.getInt32(next(), true) ?? 0);
  const floats = (/** @type {number} */ count) => Float32Array.from({ length: count }, () => block?.getFloat32(next(), true) ?? 0);
  const [token, piece, kind, rank, id] = [n, n, n, n, n].map(integers);
  const [topToken, topId] = [n * k, n * k].map(integers);
  const [logprob, sampledLogprob, entropy, topLogprob] = [n, n, n, n * k].map(floats);
  const of = (/** @type {number} */ wanted) => new Set([...kind.keys()].filter((i) => kind[i] === wanted));
  const [outside, continued] = [of(kinds.outside), of(kinds.continued)];
  return { n, k, token, piece, rank, id, topToken, topId, logprob, sampledLogprob, entropy, topLogprob, outside, continued };
}

/**
 * What a form and drafts left on n tokens. forbidden: the share of the model's probability that the form forbade, null without
 * a form; allowed(i, j): whether it allowed the j-th alternative of token i; drafted: tokens that were proposed by a draft;
 * rounds: tokens at which a round of drafting began.
 * @typedef {{forbidden: Float32Array | null, allowed: (i: number, j: number) => boolean, drafted: Set<number>, rounds: Set<number>}} Marks
 */

/** @type {(given: {n: number, k: number, forbidden?: DataView | null, allowed?: DataView | null, drafted?: number[], rounds?: number[]}) => Marks} */
export function decodeMarks({ n, k, forbidden, allowed, drafted = [], rounds = [] }) {
  const there = n > 0 && forbidden?.byteLength === 4 * n ? forbidden : null;
  const flags = allowed?.byteLength === n * k ? allowed : null;
  return {
    forbidden: there && Float32Array.from({ length: n }, (_, i) => there.getFloat32(4 * i, true)),
    allowed: (i, j) => flags === null || flags.getUint8(i * k + j) === 1,
    drafted: new Set(drafted),
    rounds: new Set(rounds),
  };
}

/** The tokens the model was least sure of, least sure first; those outside the text don't count. @type {(data: Data, count: number) => number[]} */
export function leastSure({ n, outside, logprob }, count) {
  const order = Array.from({ length: n }, (_, i) => i).filter((i) => !outside.has(i));
  return order.sort((a, b) => logprob[a] - logprob[b] || a - b).slice(0, count);
}

/** The example below is looked for among so many tokens at the start: they are in sight before anybody scrolls. */
const IN_SIGHT = 80;

/**
 * The token to explain while none is pointed at: of those in sight the one where the model hesitated most (highest
 * entropy). -1 when there is none.
 * @param {Data} data
 */
export function example({ n, outside, entropy }) {
  let best = -1;
  for (let i = 0; i < Math.min(n, IN_SIGHT); i += 1) {
    if (outside.has(i) || Number.isNaN(entropy[i])) continue;
    if (best < 0 || entropy[i] > entropy[best]) best = i;
  }
  return best < 0 && n > 0 ? 0 : best;
}

/**
 * A bar of a token's alternatives. rank: of the one taken, where it is not among them; allowed: by the form.
 * @typedef {{token: number, id: number, probability: number, taken: boolean, others: boolean, rank: number | null, allowed: boolean}} Bar
 */

/**
 * The bars of token i, most probable first, then the taken token when it is not among the k best, then what is left to all
 * others.
 * @type {(data: Data, i: number, allowed?: (i: number, j: number) => boolean) => Bar[]}
 */
export function bars(data, i, allowed = () => true) {
  const { k, topToken, topId, topLogprob } = data;
  const row = (/** @type {Partial<Bar>} */ given) => ({ token: -1, id: -1, probability: 0, taken: false, others: false, rank: null, allowed: true, ...given });
  const rows = Array.from({ length: k }, (_, j) => i * k + j).map((at, j) =>
    row({ token: topToken[at], id: topId[at], probability: Math.exp(topLogprob[at]), taken: topId[at] === data.id[i], allowed: allowed(i, j) }),
  );
  if (!rows.some(({ taken }) => taken)) {
    rows.push(row({ token: data.token[i], id: data.id[i], probability: Math.exp(data.logprob[i]), taken: true, rank: data.rank[i] + 1 }));
  }
  const left = 1 - rows.reduce((sum, { probability }) => sum + probability, 0);
  // float32 sums leave a rest of about 1e-7 where nothing is left.
  rows.push(row({ others: true, probability: left > 1e-6 ? left : 0 }));
  return rows;
}

/** Ordinal in words a reader knows: 1st, 2nd, 3rd, 4th, 11th, 21st. @param {number} value */
export function ordinal(value) {
  const tens = value % 100;
  const suffix = tens >= 11 && tens <= 13 ? "th" : (["", "st", "nd", "rd"][value % 10] ?? "th");
  return `${thousands(value)}${suffix || "th"}`;
}

/**
 * One step as Python sends it: what each stage, the model's own scores first, left of the distribution. kept: tokens that have a
 * chance; cut: the share that this stage took away; entropy: nats. tokens: with their probability after each stage; by: the stage
 * that cut it, -1 none. others: all that are not listed.
 * @typedef {{name: string, kept: number, cut: number, entropy: number}} Stage
 * @typedef {{text: string, id: number, shares: number[], by: number, taken: boolean}} Candidate
 * @typedef {{stages: Stage[], tokens: Candidate[], others: {count: number, shares: number[]}, note: string}} Choice
 */

/**
 * The bars of a step after one of its stages. before: the model's own share; by: the name of the stage that cut it, "" where
 * it is still there.
 * @type {(choice: Choice, stage: number) => {text: string, id: number, share: number, before: number, by: string, taken: boolean}[]}
 */
export function candidates({ stages, tokens }, stage) {
  return tokens.map(({ text, id, shares, by, taken }) => ({
    text,
    id,
    share: shares[stage],
    before: shares[0],
    by: by >= 0 && by <= stage ? stages[by].name : "",
    taken,
  }));
}
