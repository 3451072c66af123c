// The routes view's arithmetic, apart from any drawing.

import { cellTarget } from "../kit/keys.js";
import { passageOf } from "../kit/token_list.js";

export const NO_COLOUR = -1;

/** A router of a layer (its place among the routed ones) and a token of the text.
 * @typedef {{layer: number, token: number}} Place */

/**
 * What routes_view/__init__.py says of the traces on show; lists of one for each trace, but layers, changed and changed_first.
 * @typedef {{model: string, names: string[], layers: number[], experts: number, k: number[], bytes: number, tokens: number[],
 *   drawn: number[], counted: number[], special: number[][], marks: {continued: number[], called: [number, string][]}[],
 *   bands: ([number, number] | null)[], tops: number[], router: string, alone: boolean, same: boolean, changed: number[],
 *   changed_first: number[], can_take: boolean, with_probabilities: number[]}} Facts
 */

/** One trace of n drawn tokens, k experts chosen for each; the rest as in `Facts`.
 * @typedef {ReturnType<typeof decodeRoutes>[number]} Route */

/**
 * The view's traits as a Route for each trace. Throws RangeError when the bytes are not as many as the facts ask for.
 * @param {import("../kit/codes.js").Codes} codes
 * @param {Facts} facts
 * @param {string[][]} texts
 * @param {DataView} experts
 * @param {DataView} weights
 * @param {DataView} load
 */
export function decodeRoutes(codes, facts, texts, experts, weights, load) {
  const wide = facts.bytes === 2;
  const layers = facts.layers.length;
  const count = facts.experts;
  let at = 0;
  let loadAt = 0;
  const found = facts.drawn.map((n, which) => {
    const k = facts.k[which];
    const from = at;
    const chosen = Uint16Array.from({ length: layers * n * k }, (_, i) =>
      wide ? experts.getUint16(2 * (from + i), true) : experts.getUint8(from + i),
    );
    const loadFrom = loadAt;
    const loads = Array.from({ length: layers }, (_, l) =>
      Float64Array.from({ length: count }, (__, e) => load.getUint32(loadFrom + 4 * (l * count + e), true)),
    );
    at += chosen.length;
    loadAt += 4 * layers * count;
    const place = (/** @type {number} */ layer, /** @type {number} */ token, /** @type {number} */ j) => (layer * n + token) * k + j;
    return {
      n,
      k,
      layers,
      experts: count,
      tokens: facts.tokens[which],
      counted: facts.counted[which],
      band: facts.bands[which],
      ...passageOf({ texts: texts[which], ...facts.marks[which] }),
      special: new Set(facts.special[which]),
      expert: (/** @type {number} */ layer, /** @type {number} */ token, j = 0) => chosen[place(layer, token, j)],
      weight: (/** @type {number} */ layer, /** @type {number} */ token, j = 0) =>
        codes.weight(weights.getUint8(from + place(layer, token, j)), facts.tops[which]),
      load: (/** @type {number} */ layer) => loads[layer],
    };
  });
  const bytes = (wide ? 2 : 1) * at;
  if (experts.byteLength !== bytes || weights.byteLength !== at || load.byteLength !== loadAt) {
    throw new RangeError(`${experts.byteLength}, ${weights.byteLength} and ${load.byteLength} bytes, not ${bytes}, ${at} and ${loadAt}`);
  }
  return found;
}

/** Expert numbers as the loads stand: by "number", or the "most" chosen first.
 * @type {(load: ArrayLike<number>, order: string) => number[]} */
export function inOrder(load, order) {
  const all = Array.from(load, (_, expert) => expert);
  return order === "most" ? all.sort((a, b) => load[b] - load[a] || a - b) : all;
}

/**
 * Which experts have the colours: those picked by hand, the latest first, then those with most. An expert that had a colour
 * before keeps that one, so that nothing changes its colour while a text is typed. Returns as many expert numbers as there are
 * colours, -1 where one is left over.
 * @param {ArrayLike<number>} load
 * @param {number} colours
 * @param {number[]} picked
 * @param {number[]} before
 */
export function colouredExperts(load, colours, picked = [], before = []) {
  const byHand = picked.filter((expert) => expert < load.length).reverse();
  const most = inOrder(load, "most");
  const chosen = [...new Set([...byHand, ...most.filter((expert) => load[expert] > 0)])].slice(0, colours);
  const slots = Array.from({ length: colours }, (_, i) => (chosen.includes(before[i]) ? before[i] : NO_COLOUR));
  const left = chosen.filter((expert) => !slots.includes(expert));
  // With nothing to keep, colours go by how much an expert has, whoever was picked.
  if (left.length === chosen.length) left.sort((a, b) => most.indexOf(a) - most.indexOf(b));
  for (const expert of left) slots[slots.indexOf(NO_COLOUR)] = expert;
  return slots;
}

/**
 * How much of the text each expert would colour: the tokens that choose it first, special ones aside; among equals the
 * more chosen one counts a little more.
 * @type {(route: Route, layer: number) => number[]}
 */
export function firstChoices(route, layer) {
  const firsts = Array.from(route.load(layer), (count) => count / (1 + route.counted * route.k));
  for (let i = 0; i < route.n; i += 1) if (!route.special.has(i)) firsts[route.expert(layer, i)] += 1;
  return firsts;
}

/** The experts of a token, the largest weight first. @type {(route: Route, layer: number, token: number) => number[]} */
const chosenBy = (route, layer, token) => Array.from({ length: route.k }, (_, j) => route.expert(layer, token, j));

/**
 * Tokens that choose another set of experts in one route than in the other: a Uint8Array, 2 where the first differs. Where
 * one route chooses fewer, another set is one that is not within the larger. Another first of the same experts is no other choice.
 * @type {(one: Route, other: Route, layer: number) => Uint8Array}
 */
export function changedTokens(one, other, layer) {
  const [fewer, more] = one.k <= other.k ? [one, other] : [other, one];
  return Uint8Array.from({ length: Math.min(one.n, other.n) }, (_, i) => {
    const there = chosenBy(more, layer, i);
    if (chosenBy(fewer, layer, i).every((expert) => there.includes(expert))) return 0;
    return one.expert(layer, i) === other.expert(layer, i) ? 1 : 2;
  });
}

/** Tokens of a layer that have an expert among their choices: 2 where it is the first.
 * @type {(route: Route, layer: number, expert: number) => Uint8Array} */
export function tokensOf(route, layer, expert) {
  return Uint8Array.from({ length: route.n }, (_, i) => {
    const place = chosenBy(route, layer, i).indexOf(expert);
    return place < 0 ? 0 : place === 0 ? 2 : 1;
  });
}

/** A token worth showing while none is pointed at: the first word in sight that goes to a much chosen expert.
 * @type {(route: Route, layer: number) => number} */
export function exampleToken(route, layer) {
  const most = inOrder(route.load(layer), "most")[0];
  const word = (/** @type {number} */ i) => /\p{L}{3}/u.test(route.texts[i]) && !route.special.has(i);
  const sight = Array.from({ length: Math.min(route.n, 60) }, (_, i) => i);
  return sight.find((i) => word(i) && route.expert(layer, i) === most) ?? sight.find(word) ?? 0;
}

/** The experts of a token and their parts of its weight, the largest first.
 * @type {(route: Route, layer: number, token: number) => {expert: number, weight: number, part: number}[]} */
export function choices(route, layer, token) {
  const all = chosenBy(route, layer, token).map((expert, j) => ({ expert, weight: route.weight(layer, token, j) }));
  const sum = all.reduce((total, { weight }) => total + (weight > 0 ? weight : 0), 0);
  return all.map((each) => ({ ...each, part: sum > 0 && each.weight > 0 ? each.weight / sum : 0 }));
}

/** A weight or probability: four digits where it is exact, else about two. @type {(value: number, exact: boolean) => string} */
export function number(value, exact) {
  if (Number.isNaN(value)) return "no number";
  if (exact) return value > 0 && value < 0.00005 ? "under 0.0001" : value.toFixed(4);
  if (value <= 0) return "0";
  return value < 0.0001 ? "under 0.0001" : String(Number(value.toPrecision(2)));
}

/** The same, and that it is not exact where it isn't. @type {(value: number, exact: boolean) => string} */
export const about = (value, exact) => `${exact ? "" : "about "}${number(value, exact)}`;

/** Where a load lies against chance; "" where there is none.
 * @type {(share: number, band: [number, number] | null) => "above" | "below" | "within" | ""} */
export function against(share, band) {
  if (band === null) return "";
  if (share > band[1] + 1e-9) return "above";
  return share < band[0] - 1e-9 ? "below" : "within";
}

/** How many of so many bars chance alone would put outside a band of 95 %, in words. @param {number} experts */
export function byChance(experts) {
  const outside = experts * 0.05;
  return outside < 1 ? "hardly any" : `about ${Math.round(outside)}`;
}

/** @typedef {ReturnType<typeof stripLayout>} StripLayout */

/**
 * The layer strip's measures in CSS pixels for n tokens, so many layers and so much room: {cell, row, gap, width, height,
 * numbers}. Cells never get narrower than 2 pixels: a long text then is wider than its box and scrolls in it.
 * @param {number} n
 * @param {number} layers
 * @param {number} room
 * @param {number} experts
 */
export function stripLayout(n, layers, room, experts, ratio = 1) {
  const cell = Math.max(1, Math.floor(Math.min(26, Math.max(2, room / n)) * ratio)) / ratio;
  const row = layers <= 8 ? 20 : layers <= 16 ? 16 : layers <= 32 ? 11 : 8;
  const gap = row >= 16 ? 2 : 1;
  const wide = 7 * String(experts - 1).length + 3;
  return { cell, row, gap, width: cell * n, height: row * layers, numbers: cell >= wide && row >= 16 };
}

/** The place under a point of the strip, or null. @type {(layout: StripLayout, x: number, y: number) => Place | null} */
export function stripPlace(layout, x, y) {
  if (x < 0 || y < 0 || x >= layout.width || y >= layout.height) return null;
  return { layer: Math.floor(y / layout.row), token: Math.floor(x / layout.cell) };
}

/** Where a key moves to: by token and by layer; null when it means nothing here.
 * @type {(key: string, at: Place, layers: number, n: number) => Place | null} */
export function afterKey(key, { layer, token }, layers, n) {
  const target = cellTarget(key, { row: layer, column: token }, { rows: layers, columns: n, page: [0, 20] });
  return target && { layer: target.row, token: target.column };
}
