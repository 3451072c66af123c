// Arithmetic and words of the mask view, apart from any drawing.

import { percent, thousands } from "../kit/common.js";

export const NO_LOSS = 0;
export const LEARNT = 1;
export const ENDING = 2;

/**
 * @typedef {{sample: number, kind: string, tokens: number, trained: number, ends: boolean, ids: number[], looks: number[],
 *   pieces: {texts: string[], continued: number[], called: [number, string][]}}} Sample
 */

/** @typedef {{row: number, samples: Sample[], more: number}} Row */

/**
 * The bars of the overview: the first row of each, its tokens, those with loss.
 * @type {(values: Float32Array) => {row: number, tokens: number, trained: number}[]}
 */
export function readBars(values) {
  return Array.from({ length: values.length / 3 }, (_, i) => ({ row: values[3 * i], tokens: values[3 * i + 1], trained: values[3 * i + 2] }));
}

/** The bar in which a row is. @type {(bars: {row: number}[], row: number) => number} */
export function barOf(bars, row) {
  let at = 0;
  while (at + 1 < bars.length && bars[at + 1].row <= row) at += 1;
  return at;
}

/**
 * Which sample of a row a token belongs to, and its place there; null beyond the last.
 * @type {(row: Row, token: number) => {sample: Sample, position: number} | null}
 */
export function placeOf({ samples }, token) {
  let from = 0;
  for (const sample of samples) {
    if (token < from + sample.looks.length) return { sample, position: token - from };
    from += sample.looks.length;
  }
  return null;
}

/** "12 of 64 tokens carry loss (18.8 %)". @type {(trained: number, tokens: number) => string} */
export function lossWords(trained, tokens) {
  const verb = trained === 1 ? "carries" : "carry";
  return `${thousands(trained)} of ${thousands(tokens)} tokens ${verb} loss${tokens > 0 ? ` (${percent(trained / tokens)})` : ""}`;
}

/** What is said of a token. @param {number} look */
export function lookWords(look) {
  if (look === ENDING) return "carries loss; here the model learns to stop";
  return look === LEARNT ? "carries loss: the model learns to write it" : "carries no loss: the model only reads it";
}

/** The row that is meant by what was typed, from 1; null for none. @type {(text: string, count: number) => number | null} */
export function rowFrom(text, count) {
  const number = text.trim() === "" ? NaN : Number(text);
  return Number.isInteger(number) && number >= 0 && number < count ? number : null;
}
