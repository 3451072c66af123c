// The plane a head is drawn on: which part of it is seen, where a cell lies, what is under the pointer. All in tokens.

const SMALLEST_SPAN = 6; // tokens
const TICK_STEPS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000];
const TICK_HEIGHT = 11;
const TICK_ROOM = 16;

/** The whole plane: a window {left, top, span} in tokens. size: of `layout`; pool: tokens to a cell. */
export function wholePlane(size, pool) {
  return { left: 0, top: 0, span: size.m * size.q * pool };
}

/** The cell of unit × unit tokens that a cell, or only a row of it, lies in. */
export function aligned(at, unit) {
  const start = (token) => Math.floor(token / unit) * unit;
  return at.column === undefined ? { row: start(at.row) } : { row: start(at.row), column: start(at.column) };
}

/** Whether a window shows everything. */
export function isWhole(window, whole) {
  return window.span >= whole.span;
}

function within({ left, top, span }, whole) {
  const clip = (value) => Math.min(whole.span - span, Math.max(0, value));
  return { left: clip(left), top: clip(top), span };
}

/** A window zoomed by a factor (over 1: closer); the point at shares (fx, fy) of it stays where it is. */
export function zoomed(window, whole, factor, fx = 0.5, fy = 0.5) {
  const span = Math.min(whole.span, Math.max(Math.min(SMALLEST_SPAN, whole.span), window.span / factor));
  return within(
    { left: window.left + fx * (window.span - span), top: window.top + fy * (window.span - span), span },
    whole,
  );
}

/** A window moved by so many tokens. */
export function panned(window, whole, dx, dy) {
  return within({ ...window, left: window.left + dx, top: window.top + dy }, whole);
}

/** The window, moved as little as it takes to show a cell of unit × unit tokens. */
export function revealing(window, whole, { row, column }, unit) {
  const into = (start, at) => Math.min(at, Math.max(start, at + unit - window.span));
  return within({ ...window, left: into(window.left, column), top: into(window.top, row) }, whole);
}

/**
 * Tokens along a side of the cells that are drawn and pointed at: the finest that has a device pixel of its own, out of
 * the pool, the powers of two below it, and 1.
 */
export function unitOf(window, pool, devicePixels) {
  const units = [];
  for (let unit = 1; unit < pool; unit *= 2) units.push(unit);
  return [...units, pool].find((unit) => unit * devicePixels >= window.span) ?? pool;
}

/** Cells (of unit tokens) that share a device pixel, along a side. */
export function crowd(window, unit, devicePixels) {
  return Math.max(1, Math.ceil(window.span / unit / devicePixels - 1e-6));
}

/** Where a cell of unit × unit tokens is drawn: {x, y, size} in CSS pixels of a picture of that side. */
export function cellBox(window, side, { row, column }, unit) {
  const pixel = side / window.span;
  return { x: (column - window.left) * pixel, y: (row - window.top) * pixel, size: Math.max(1, unit * pixel) };
}

/**
 * The cell under a point of the picture, {row, column} its first tokens, or null. Where several cells share a dot it is
 * the one with the highest code, the one that is seen. codeOfCell(row, column): of a cell, by its first tokens.
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

/** Tokens whose labels have room along a window's edge: the first of every step-th cell. */
export function ticks(start, window, side, tokens, unit) {
  const pixel = (side / window.span) * unit;
  const step = TICK_STEPS.find((s) => (s === 1 ? pixel >= TICK_HEIGHT : s * pixel >= TICK_ROOM)) ?? TICK_STEPS.at(-1);
  const found = [];
  const every = step * unit;
  for (let i = Math.ceil((start - unit / 2) / every) * every; i < start + window.span && i < tokens; i += every) {
    if (i + unit / 2 >= start && i + unit / 2 <= start + window.span) found.push(i);
  }
  return found;
}

export const TILE = 256; // cells along a side

/** The tiles that a window needs: [{row, column}] at so many tokens to a cell, those of the half that is seen. */
export function tilesFor(window, tokens, unit) {
  const span = TILE * unit;
  const range = (start) => {
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
