// Where the arrow keys lead in a list of tokens and in a grid, and what of a list stays when it grows.

/**
 * Where a key moves the active one to among n; null when the key means nothing here.
 * @type {(key: string, active: number, n: number) => number | null}
 */
export function keyTarget(key, active, n) {
  if (n === 0) return null;
  const from = Math.max(0, active);
  /** @type {Record<string, number>} */
  const targets = { ArrowRight: from + 1, ArrowLeft: from - 1, Home: 0, End: n - 1 };
  return Object.hasOwn(targets, key) ? Math.min(n - 1, Math.max(0, targets[key])) : null;
}

/** How many items at the start two lists have alike. @type {(before: string[], after: string[]) => number} */
export function commonStart(before, after) {
  const end = Math.min(before.length, after.length);
  let i = 0;
  while (i < end && before[i] === after[i]) i += 1;
  return i;
}

/** @typedef {{left: number, right: number, top: number, bottom: number}} Box */

/**
 * The token above (step -1) or below (step 1) the active one, nearest in x. boxAt(i): where a token's first line is. The
 * active token itself when there is no such line.
 * @type {(active: number, step: number, n: number, boxAt: (token: number) => Box) => number}
 */
export function lineTarget(active, step, n, boxAt) {
  const from = boxAt(active);
  const middle = (from.left + from.right) / 2;
  let line = null;
  let best = active;
  let distance = Infinity;
  for (let i = active + step; i >= 0 && i < n; i += step) {
    const box = boxAt(i);
    const height = (box.top + box.bottom) / 2;
    const off = step > 0 ? height > from.bottom : height < from.top;
    if (!off) continue;
    if (line === null) line = box;
    else if (height > line.bottom || height < line.top) break;
    const gap = Math.max(box.left - middle, middle - box.right, 0);
    if (gap < distance) {
      distance = gap;
      best = i;
    }
  }
  return best;
}

/** @typedef {{row: number, column: number}} Cell */

/**
 * Where a key moves from a cell of a grid, within its rows and columns; null when the key means nothing here. page: how far
 * the page keys move, down and across.
 * @type {(key: string, at: Cell, grid: {rows: number, columns: number, page: [number, number]}) => Cell | null}
 */
export function cellTarget(key, { row, column }, { rows, columns, page: [down, across] }) {
  /** @type {Record<string, [number, number]>} */
  const targets = {
    ArrowUp: [row - 1, column],
    ArrowDown: [row + 1, column],
    ArrowLeft: [row, column - 1],
    ArrowRight: [row, column + 1],
    PageUp: [row - down, column - across],
    PageDown: [row + down, column + across],
    Home: [row, 0],
    End: [row, columns - 1],
  };
  if (!Object.hasOwn(targets, key)) return null;
  const within = (/** @type {number} */ value, /** @type {number} */ count) => Math.min(count - 1, Math.max(0, value));
  return { row: within(targets[key][0], rows), column: within(targets[key][1], columns) };
}
