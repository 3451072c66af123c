// Where the arrow keys lead in a list of tokens.

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
