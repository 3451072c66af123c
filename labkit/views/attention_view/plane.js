// The plane a head is drawn on: which part of it is seen, where a cell lies, what is under the pointer. All in tokens.

import { labelStep } from "./logic.js";

/** @typedef {{left: number, top: number, span: number}} Window a square part of the plane, in tokens */
/** @typedef {{row: number, column?: number}} Place first tokens of a cell, or of a row of cells */
/** @typedef {import("../kit/keys.js").Cell} Cell */

const SMALLEST_SPAN = 6; // tokens

/** The whole plane. size: of `layout`; pool: tokens to a cell. @type {(size: {m: number, q: number}, pool: number) => Window} */
export function wholePlane(size, pool) {
  return { left: 0, top: 0, span: size.m * size.q * pool };
}

/** The cell of unit × unit tokens that a cell, or only a row of it, lies in.
 * @type {<At extends Place>(at: At, unit: number) => At} */
export function aligned(at, unit) {
  const start = (/** @type {number} */ token) => Math.floor(token / unit) * unit;
  return at.column === undefined ? { ...at, row: start(at.row) } : { ...at, row: start(at.row), column: start(at.column) };
}

/** Whether a window shows everything. @type {(window: Window, whole: Window) => boolean} */
export function isWhole(window, whole) {
  return window.span >= whole.span;
}

/** @type {(window: Window, whole: Window) => Window} */
function within({ left, top, span }, whole) {
  const clip = (/** @type {number} */ value) => Math.min(whole.span - span, Math.max(0, value));
  return { left: clip(left), top: clip(top), span };
}

/** A window zoomed by a factor (over 1: closer); the point at shares (fx, fy) of it stays where it is.
 * @type {(window: Window, whole: Window, factor: number, fx?: number, fy?: number) => Window} */
export function zoomed(window, whole, factor, fx = 0.5, fy = 0.5) {
  const span = Math.min(whole.span, Math.max(Math.min(SMALLEST_SPAN, whole.span), window.span / factor));
  return within(
    { left: window.left + fx * (window.span - span), top: window.top + fy * (window.span - span), span },
    whole,
  );
}

/** A window moved by so many tokens. @type {(window: Window, whole: Window, dx: number, dy: number) => Window} */
export function panned(window, whole, dx, dy) {
  return within({ ...window, left: window.left + dx, top: window.top + dy }, whole);
}

/** The window, moved as little as it takes to show a cell of unit × unit tokens.
 * @type {(window: Window, whole: Window, at: Cell, unit: number) => Window} */
export function revealing(window, whole, { row, column }, unit) {
  const into = (/** @type {number} */ start, /** @type {number} */ at) => Math.min(at, Math.max(start, at + unit - window.span));
  return within({ ...window, left: into(window.left, column), top: into(window.top, row) }, whole);
}

/**
 * Tokens along a side of the cells that are drawn and pointed at: the finest that has a device pixel of its own, out of
 * the pool, the powers of two below it, and 1.
 * @type {(window: Window, pool: number, devicePixels: number) => number}
 */
export function unitOf(window, pool, devicePixels) {
  const units = [];
  for (let unit = 1; unit < pool; unit *= 2) units.push(unit);
  return [...units, pool].find((unit) => unit * devicePixels >= window.span) ?? pool;
}

/** Cells (of unit tokens) that share a device pixel, along a side.
 * @type {(window: Window, unit: number, devicePixels: number) => number} */
export function crowd(window, unit, devicePixels) {
  return Math.max(1, Math.ceil(window.span / unit / devicePixels - 1e-6));
}

/** Where a cell of unit × unit tokens is drawn: {x, y, size} in CSS pixels of a picture of that side.
 * @type {(window: Window, side: number, at: Cell, unit: number) => {x: number, y: number, size: number}} */
export function cellBox(window, side, { row, column }, unit) {
  const pixel = side / window.span;
  return { x: (column - window.left) * pixel, y: (row - window.top) * pixel, size: Math.max(1, unit * pixel) };
}

/**
 * The cell under a point of the picture, {row, column} its first tokens, or null. Where several cells share a dot it is
 * the one with the highest code, the one that is seen. codeOfCell(row, column): of a cell, by its first tokens.
 * @type {(window: Window, side: number, tokens: number, unit: number, q: number, codeOfCell: (row: number, column: number) => number, x: number, y: number) => Cell | null}
 */
export function cellUnder(window, side, tokens, unit, q, codeOfCell, x, y) {
  if (!(x >= 0 && y >= 0 && x < side && y < side)) return null;
  const dot = unit * q;
  const last = Math.floor((tokens - 1) / unit) * unit;
  const top = Math.floor((window.top + (y * window.span) / side) / dot) * dot;
  const left = Math.floor((window.left + (x * window.span) / side) / dot) * dot;
  let best = { row: Math.min(last, top), column: Math.min(last, left) };
  for (let row = top; row < top + dot && row <= last; row += unit) {
    for (let column = left; column < left + dot && column <= Math.min(last, row); column += unit) {
      if (codeOfCell(row, column) > codeOfCell(best.row, best.column)) best = { row, column };
    }
  }
  return best;
}

/** Tokens whose labels have room along a window's edge: the first of every step-th cell.
 * @type {(start: number, window: Window, side: number, tokens: number, unit: number) => number[]} */
export function ticks(start, window, side, tokens, unit) {
  const found = [];
  const every = labelStep((side / window.span) * unit) * unit;
  for (let i = Math.ceil((start - unit / 2) / every) * every; i < start + window.span && i < tokens; i += every) {
    if (i + unit / 2 >= start && i + unit / 2 <= start + window.span) found.push(i);
  }
  return found;
}

/** The tiles that a window needs, of so many tokens along a side, those of the half that is seen.
 * @type {(window: Window, tokens: number, span: number) => Cell[]} */
export function tilesFor(window, tokens, span) {
  const range = (/** @type {number} */ start) => {
    const first = Math.floor(start / span);
    const last = Math.min(Math.ceil(tokens / span), Math.ceil((start + window.span) / span)) - 1;
    return Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => first + i);
  };
  return range(window.top).flatMap((row) =>
    range(window.left)
      .filter((column) => column <= row)
      .map((column) => ({ row, column })),
  );
}
