// The routes view's arithmetic, apart from any drawing.

import { passageOf } from "../kit/token_list.js";

export const COLOURED = 8; // experts with a colour of their own in each layer
export const NO_COLOUR = -1;

/** [on light paper, on dark paper]: Okabe and Ito's colours, the yellow darker where white would swallow it. */
export const PALETTE = [
  ["#0072b2", "#3f9bd8"],
  ["#e69f00", "#f0b030"],
  ["#009e73", "#1fbd8d"],
  ["#cc79a7", "#dd92bb"],
  ["#56b4e9", "#a5dcfb"],
  ["#d55e00", "#f0803c"],
  ["#d8c700", "#f5ea5a"],
  ["#4d4d4d", "#dcdcdc"],
];
export const OTHERS = ["#dde2e7", "#323941"];

const LEVELS = 254;
const NOT_A_NUMBER = 255;

/** What a code of square roots stands for, times `top`. */
export function codeValue(code, top = 1) {
  return code === NOT_A_NUMBER ? NaN : (code / LEVELS) ** 2 * top;
}

/**
 * The view's traits as one object for each trace: {n, layers, k, experts, top, expert(layer, token, j), weight(...),
 * load(layer), counted, tokens, band, kinds, names, special}. layer: its place among the routed ones.
 * Throws RangeError when the bytes are not as many as the facts ask for.
 */
export function decodeRoutes(facts, texts, experts, weights, load) {
  const wide = facts.bytes === 2;
  const layers = facts.layers.length;
  const count = facts.experts;
  let at = 0;
  let loadAt = 0;
  const found = facts.drawn.map((n, which) => {
    const k = facts.k[which];
    const size = layers * n * k;
    const chosen = Uint16Array.from({ length: size }, (_, i) =>
      wide ? experts.getUint16(2 * (at + i), true) : experts.getUint8(at + i),
    );
    const codes = new Uint8Array(weights.buffer, weights.byteOffset + at, size);
    const loads = Array.from({ length: layers }, (_, l) =>
      Float64Array.from({ length: count }, (__, e) => load.getUint32(loadAt + 4 * (l * count + e), true)),
    );
    at += size;
    loadAt += 4 * layers * count;
    const top = facts.tops[which];
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
      expert: (layer, token, j = 0) => chosen[(layer * n + token) * k + j],
      weight: (layer, token, j = 0) => codeValue(codes[(layer * n + token) * k + j], top),
      load: (layer) => loads[layer],
    };
  });
  const bytes = (wide ? 2 : 1) * at;
  if (experts.byteLength !== bytes || weights.byteLength !== at || load.byteLength !== loadAt) {
    throw new RangeError(`${experts.byteLength}, ${weights.byteLength} and ${load.byteLength} bytes, not ${bytes}, ${at} and ${loadAt}`);
  }
  return found;
}

/** Expert numbers as the loads stand: by "number", or the "most" chosen first. */
export function inOrder(load, order) {
  const all = Array.from(load, (_, expert) => expert);
  return order === "most" ? all.sort((a, b) => load[b] - load[a] || a - b) : all;
}

/**
 * Which experts have the eight colours: those picked by hand, the latest first, then those with most. An expert that had
 * a colour before keeps that one, so that nothing changes its colour while a text is typed. Returns eight expert numbers,
 * -1 where a colour is left over.
 */
export function colouredExperts(load, picked = [], before = []) {
  const wanted = [];
  for (const expert of [...picked].reverse()) if (!wanted.includes(expert) && expert < load.length) wanted.push(expert);
  for (const expert of inOrder(load, "most")) {
    if (load[expert] > 0 && !wanted.includes(expert)) wanted.push(expert);
  }
  const chosen = wanted.slice(0, COLOURED);
  const slots = Array.from({ length: COLOURED }, (_, i) => (chosen.includes(before[i]) ? before[i] : NO_COLOUR));
  const rest = chosen.filter((expert) => !slots.includes(expert));
  // With nothing to keep, colours go by how much an expert has, whoever was picked.
  if (rest.length === chosen.length) rest.sort((a, b) => load[b] - load[a] || a - b);
  for (const expert of rest) slots[slots.indexOf(NO_COLOUR)] = expert;
  return slots;
}

/**
 * How much of the text each expert would colour: the tokens that choose it first, special ones aside; among equals the
 * more chosen one counts a little more.
 */
export function firstChoices(route, layer) {
  const load = route.load(layer);
  const firsts = Array.from(load, (count) => count / (1 + route.counted * route.k));
  for (let i = 0; i < route.n; i += 1) if (!route.special.has(i)) firsts[route.expert(layer, i)] += 1;
  return firsts;
}

/**
 * Tokens that choose another set of experts in one route than in the other: a Uint8Array, 2 where the first differs. Where
 * one route chooses fewer, another set is one that is not within the larger.
 */
export function changedTokens(one, other, layer) {
  const n = Math.min(one.n, other.n);
  const marks = new Uint8Array(n);
  const [fewer, more] = one.k <= other.k ? [one, other] : [other, one];
  for (let i = 0; i < n; i += 1) {
    if (one.expert(layer, i) !== other.expert(layer, i)) marks[i] = 2;
    const there = new Set();
    for (let j = 0; j < more.k; j += 1) there.add(more.expert(layer, i, j));
    let same = true;
    for (let j = 0; j < fewer.k; j += 1) same &&= there.has(fewer.expert(layer, i, j));
    // another first of the same experts is no other choice
    if (same) marks[i] = 0;
    else marks[i] ||= 1;
  }
  return marks;
}

/** Tokens of a layer that have an expert among their choices: a Uint8Array, 2 where it is the first. */
export function tokensOf(route, layer, expert) {
  const marks = new Uint8Array(route.n);
  for (let i = 0; i < route.n; i += 1) {
    for (let j = 0; j < route.k; j += 1) {
      if (route.expert(layer, i, j) === expert) {
        marks[i] = j === 0 ? 2 : 1;
        break;
      }
    }
  }
  return marks;
}

/** A token worth showing while none is pointed at: the first word in sight that goes to a much chosen expert. */
export function exampleToken(route, layer) {
  const most = inOrder(route.load(layer), "most")[0];
  const word = (i) => /\p{L}{3}/u.test(route.texts[i]) && !route.special.has(i);
  const sight = Array.from({ length: Math.min(route.n, 60) }, (_, i) => i);
  return sight.find((i) => word(i) && route.expert(layer, i) === most) ?? sight.find(word) ?? 0;
}

/** A round number at or above a value, for the top of an axis of shares; at most 1. */
export function niceTop(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  const steps = [1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10];
  return Math.min(1, (steps.find((step) => step * power >= value * 0.9999) ?? 10) * power);
}

/** A share as a percentage for an axis: no more digits than it needs. */
export function axisPercent(share) {
  return `${Number((100 * share).toPrecision(2))} %`;
}

/** A share for a sentence: one digit after the point, two below 1 %. */
export function sharePercent(share) {
  return `${(100 * share).toFixed(share > 0 && share < 0.00995 ? 2 : 1)} %`;
}

/** A weight or probability: four digits where it is exact, else about two. */
export function number(value, exact) {
  if (Number.isNaN(value)) return "no number";
  if (exact) return value > 0 && value < 0.00005 ? "under 0.0001" : value.toFixed(4);
  if (value <= 0) return "0";
  if (value < 0.0001) return "under 0.0001";
  return String(Number(value.toPrecision(2)));
}

/** Where a load lies against chance: "above", "below", "within", or "" where there is none. */
export function against(share, band) {
  if (band === null) return "";
  if (share > band[1] + 1e-9) return "above";
  return share < band[0] - 1e-9 ? "below" : "within";
}

/** Every how many labels of a width can be written, so that they don't touch. */
export function everyNth(count, room, width) {
  const fit = Math.max(1, Math.floor(room / width));
  const least = Math.ceil(count / fit);
  return [1, 2, 4, 5, 8, 10, 16, 20, 32, 50, 64, 100].find((step) => step >= least) ?? least;
}

/**
 * The layer strip's measures in CSS pixels for n tokens, so many layers and so much room: {cell, row, gap, width, height,
 * numbers}. Cells never get narrower than 2 pixels: a long text then is wider than its box and scrolls in it.
 */
export function stripLayout(n, layers, room, experts, ratio = 1) {
  const whole = (value) => Math.max(1, Math.floor(value * ratio)) / ratio;
  const cell = whole(Math.min(26, Math.max(2, room / n)));
  const row = layers <= 8 ? 20 : layers <= 16 ? 16 : layers <= 32 ? 11 : 8;
  const gap = row >= 16 ? 2 : 1;
  const wide = 7 * String(experts - 1).length + 3;
  return { cell, row, gap, width: cell * n, height: row * layers, numbers: cell >= wide && row >= 16 };
}

/** [layer, token] under a point of the strip, or null. */
export function stripCell(layout, x, y) {
  if (x < 0 || y < 0 || x >= layout.width || y >= layout.height) return null;
  return [Math.floor(y / layout.row), Math.floor(x / layout.cell)];
}

/**
 * Where a key moves [layer, token] to; null when the key means nothing here.
 * @param {string} key
 * @param {number[]} at [layer, token]
 * @param {number} layers
 * @param {number} n tokens
 */
export function afterKey(key, [layer, token], layers, n) {
  const moves = {
    ArrowLeft: [layer, token - 1],
    ArrowRight: [layer, token + 1],
    ArrowUp: [layer - 1, token],
    ArrowDown: [layer + 1, token],
    Home: [layer, 0],
    End: [layer, n - 1],
    PageUp: [layer, token - 20],
    PageDown: [layer, token + 20],
  };
  if (!Object.hasOwn(moves, key)) return null;
  const [l, t] = moves[key];
  return [Math.min(layers - 1, Math.max(0, l)), Math.min(n - 1, Math.max(0, t))];
}

/** [red, green, blue] of "#rrggbb". */
export function rgbOf(colour) {
  return [1, 3, 5].map((at) => Number.parseInt(colour.slice(at, at + 2), 16));
}

/**
 * Whether white reads better than black on a colour.
 * @param {number[]} rgb 0 to 255 each
 */
export function wantsWhite([red, green, blue]) {
  const linear = (v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
  return 0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue) < 0.179;
}

/** The experts of a token and their parts of its weight: [{expert, weight, part}], the largest first. */
export function choices(route, layer, token) {
  const all = Array.from({ length: route.k }, (_, j) => ({ expert: route.expert(layer, token, j), weight: route.weight(layer, token, j) }));
  const sum = all.reduce((total, { weight }) => total + (weight > 0 ? weight : 0), 0);
  return all.map((each) => ({ ...each, part: sum > 0 && each.weight > 0 ? each.weight / sum : 0 }));
}

/** How many of so many bars chance alone would put outside a band of 95 %, in words. */
export function byChance(experts) {
  const outside = experts * 0.05;
  return outside < 1 ? "hardly any" : `about ${Math.round(outside)}`;
}
