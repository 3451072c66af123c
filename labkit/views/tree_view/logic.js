// How texts hang together in a tree: arithmetic apart from any drawing.

/**
 * A text as Python sends it. parent: the number of the one it branched off, -1 for the first; at: the first token in which they
 * differ; token, instead: its own there, and its parent's; pieces: what each token adds to the text.
 * @typedef {{parent: number, at: number, name: string, token: string, instead: string, pieces: string[], ended: boolean, saved: string}} Node
 */

/** @typedef {{number: number, level: number, last: boolean}} Row last: no sibling comes after it */

/** The texts from above to below: each followed by those that branched off it, the earliest branch first. @type {(nodes: Node[]) => Row[]} */
export function treeRows(nodes) {
  /** @type {Row[]} */
  const rows = [];
  /** @type {(parent: number, level: number) => void} */
  const add = (parent, level) => {
    const children = nodes.flatMap((node, i) => (node.parent === parent ? [i] : []));
    children.sort((a, b) => nodes[a].at - nodes[b].at || a - b);
    children.forEach((number, i) => {
      rows.push({ number, level, last: i === children.length - 1 });
      add(number, level + 1);
    });
  };
  add(-1, 1);
  return rows;
}

/**
 * Where a key leads from a row: up and down by row, left to the parent, right to its first branch; null when the key means nothing.
 * @type {(key: string, row: number, rows: Row[]) => number | null}
 */
export function rowTarget(key, row, rows) {
  const level = rows[row]?.level ?? 1;
  /** @type {Record<string, () => number>} */
  const targets = {
    ArrowDown: () => Math.min(rows.length - 1, row + 1),
    ArrowUp: () => Math.max(0, row - 1),
    ArrowRight: () => (rows[row + 1]?.level > level ? row + 1 : row),
    ArrowLeft: () => Math.max(0, rows.findLastIndex((each, i) => i < row && each.level < level)),
    Home: () => 0,
    End: () => rows.length - 1,
  };
  return rows.length > 0 && Object.hasOwn(targets, key) ? targets[key]() : null;
}

/** The first token in which two texts differ; null where they are the same. @type {(one: string[], other: string[]) => number | null} */
export function partedAt(one, other) {
  const end = Math.min(one.length, other.length);
  for (let i = 0; i < end; i += 1) if (one[i] !== other[i]) return i;
  return one.length === other.length ? null : end;
}
