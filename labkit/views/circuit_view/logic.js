// The circuit view's arithmetic, apart from all drawing: which parts are shown, where they stand, and what is said of them.

import { decimal, significant, visibleLabel } from "../kit/common.js";

/**
 * A part of the model. layer, index, position: null where it has none; effect, direct: NaN where it is not known.
 * @typedef {{id: string, kind: string, layer: number | null, index: number | null, position: number | null, effect: number,
 *   direct: number, rank: number}} Part
 */
/** from, to: places among the parts. @typedef {{from: number, to: number, via: string, effect: number}} Link */
/**
 * What `CircuitView.facts` holds. by: what a size counts.
 * @typedef {{model: string, metric: string, unit: string, signs: [string, string], layers: number, tokens: string[], ids: string[], kinds: string[],
 *   vias: string[], by: "parts" | "edges"}} Facts
 */
/**
 * in, out: the places of the links into and out of each part, strongest first; ranked: the places of what a size counts,
 * strongest first; largest, heaviest: of effects and of links, at least a hair above 0.
 * @typedef {{parts: Part[], links: Link[], in: number[][], out: number[][], ranked: number[], largest: number,
 *   heaviest: number, by: "parts" | "edges"}} Graph
 */
/** @typedef {{parts: Set<number>, links: number[]}} Shown */

const SIZE_OF_NAN = -1;
/** @param {number} value */
const size = (value) => (Number.isNaN(value) ? SIZE_OF_NAN : Math.abs(value));
const END = new Set(["input", "output"]); // of the model: no parts that a size counts

/**
 * The graph out of the view's traits. places: kind, layer, index, position of each part, int32, -1 for none; links: sender,
 * receiver, via.
 * @type {(facts: Facts, places: DataView, effects: DataView, links: DataView, weights: DataView, direct: DataView) => Graph}
 */
export function readGraph(facts, places, effects, links, weights, direct) {
  const float = (/** @type {DataView} */ data, /** @type {number} */ i) =>
    4 * i + 4 <= data.byteLength ? data.getFloat32(4 * i, true) : NaN;
  const parts = facts.ids.map((id, i) => {
    const [kind, ...rest] = [0, 1, 2, 3].map((k) => places.getInt32(16 * i + 4 * k, true));
    const [layer, index, position] = rest.map((value) => (value < 0 ? null : value));
    return { id, kind: facts.kinds[kind], layer, index, position, effect: float(effects, i), direct: float(direct, i), rank: 0 };
  });
  const read = Array.from({ length: links.byteLength / 12 }, (_, i) => {
    const [from, to, via] = [0, 1, 2].map((k) => links.getInt32(12 * i + 4 * k, true));
    return { from, to, via: facts.vias[via], effect: float(weights, i) };
  });
  const strongest = read.map((_, i) => i).sort((a, b) => size(read[b].effect) - size(read[a].effect));
  /** @type {Graph} */
  const graph = { parts, links: read, in: parts.map(() => []), out: parts.map(() => []), ranked: [], largest: 1e-12, heaviest: 1e-12, by: facts.by };
  for (const i of strongest) {
    graph.in[read[i].to].push(i);
    graph.out[read[i].from].push(i);
  }
  const inside = parts.map((_, i) => i).filter((i) => !END.has(parts[i].kind));
  inside.sort((a, b) => size(parts[b].effect) - size(parts[a].effect));
  for (const [rank, i] of inside.entries()) parts[i].rank = rank + 1;
  graph.ranked = facts.by === "edges" ? strongest : inside;
  graph.largest = Math.max(1e-12, ...inside.map((i) => size(parts[i].effect)));
  graph.heaviest = Math.max(1e-12, ...read.map((each) => size(each.effect)));
  return graph;
}

/**
 * The sizes that the slider stops at: each of the first few, then ever further apart, and those that were measured.
 * @type {(total: number, measured: number[]) => number[]}
 */
export function stops(total, measured) {
  const found = new Set(measured.filter((each) => Number.isInteger(each) && each > 0 && each <= total));
  for (let at = 1; at < total; at = at < 24 ? at + 1 : Math.ceil(at * 1.08)) found.add(at);
  if (total > 0) found.add(total);
  return [...found].sort((a, b) => a - b);
}

/** The place of the stop nearest to a size. @type {(found: number[], wanted: number) => number} */
export function nearestStop(found, wanted) {
  let best = 0;
  for (const [i, stop] of found.entries()) if (Math.abs(stop - wanted) < Math.abs(found[best] - wanted)) best = i;
  return best;
}

/**
 * What is shown at a size: the strongest parts and the links among them, or the strongest links and what they join; what is
 * kept (pinned) besides. Of the tokens and logits those that are joined to something.
 * @type {(graph: Graph, size: number, kept: Iterable<number>) => Shown}
 */
export function shownAt(graph, size, kept) {
  const { parts, links, ranked } = graph;
  const chosen = new Set(kept);
  if (graph.by === "edges") {
    const taken = ranked.slice(0, size);
    for (const i of taken) chosen.add(links[i].from).add(links[i].to);
    return { parts: chosen, links: taken };
  }
  for (const i of ranked.slice(0, size)) chosen.add(i);
  const there = (/** @type {number} */ i) => chosen.has(i) || END.has(parts[i].kind);
  // a link from a token straight to the logits says nothing of the parts
  const taken = links.flatMap(({ from, to }, i) => (there(from) && there(to) && (chosen.has(from) || chosen.has(to)) ? [i] : []));
  for (const i of taken) chosen.add(links[i].from).add(links[i].to);
  if (links.length === 0) for (const [i, { kind }] of parts.entries()) if (END.has(kind)) chosen.add(i);
  taken.sort((a, b) => Math.abs(links[b].effect) - Math.abs(links[a].effect));
  return { parts: chosen, links: taken };
}

/**
 * One line of the curve. size, and whatever was measured at it.
 * @typedef {{size: number} & Record<string, number | null>} Measured
 */

/** The names of a curve's lines: its other columns are ends of intervals, and p-values. @param {Measured[]} curve */
export function lineNames(curve) {
  const names = new Set(curve.flatMap((row) => Object.keys(row)));
  return [...names].filter((name) => name !== "size" && name !== "p" && !/_(low|high)$/.test(name));
}

/** @type {Record<string, string>} */
const MEANINGS = {
  faithfulness: "what is left of the answer with these alone (1 is all)",
  completeness: "what is left without them (0 is nothing)",
  random: "the same of as many drawn at random",
  oracle: "those that patching one by one would choose",
};

/**
 * What a curve's lines mean, in a sentence; "" where none is known. shaded: whether random graphs have their band.
 * @type {(names: string[], shaded?: boolean) => string}
 */
export function meanings(names, shaded = false) {
  const more = (/** @type {string} */ name) => (shaded && name === "random" ? ", 95 % of them in the shaded band" : "");
  const said = names.flatMap((name) => (Object.hasOwn(MEANINGS, name) ? [`${name}: ${MEANINGS[name]}${more(name)}`] : []));
  return said.length > 0 ? `${said.join("; ")}.` : "";
}

/**
 * What was measured at a size, or at those on either side of it, in words; "" where nothing was.
 * @type {(curve: Measured[], size: number, name: string) => string}
 */
export function measuredAt(curve, size, name) {
  const there = curve.filter((row) => row[name] !== null && row[name] !== undefined).sort((a, b) => a.size - b.size);
  const say = (/** @type {Measured} */ row) => decimal(/** @type {number} */ (row[name]), 3);
  const title = name.replaceAll("_", " ");
  const exact = there.find((row) => row.size === size);
  if (exact) return `${title} ${say(exact)}`;
  const below = there.filter((row) => row.size < size).pop();
  const above = there.find((row) => row.size > size);
  if (below && above) return `${title} ${say(below)} at ${below.size}, ${say(above)} at ${above.size}`;
  const one = below ?? above;
  return one ? `${title} ${say(one)} at ${one.size}` : "";
}

// what parts are called ------------------------------------------------------------------------------------------------

/** @type {Record<string, string>} */
const WORDS = { head: "head", mlp: "MLP", neuron: "neuron", feature: "feature", error: "error" };

/** "layer 3 head 5", without its position. @type {(part: Part, tokens: string[]) => string} */
export function partWords({ id, kind, layer, index, position }, tokens) {
  if (kind === "input") return position === null ? "token embeddings" : `token ${quotedToken(tokens, position)}`;
  if (kind === "output") return "logits";
  if (kind === "group") return `group “${visibleLabel(id.slice(GROUP.length), 40, { spaces: false })}”`;
  const own = `${WORDS[kind] ?? kind}${index === null ? "" : ` ${index}`}`;
  return layer === null ? own : `layer ${layer} ${own}`;
}

/** The same with its place. @type {(part: Part, tokens: string[]) => string} */
export function placeWords(part, tokens) {
  const where = part.position === null || part.kind === "input" || part.kind === "group" ? "" : ` at ${quotedToken(tokens, part.position)} (${part.position})`;
  return partWords(part, tokens) + where;
}

/** @type {(tokens: string[], position: number) => string} */
export const quotedToken = (tokens, position) => `“${visibleLabel(tokens[position] ?? "", 24) || "(empty)"}”`;

/** A label for the picture: "3.5" for head 5 of layer 3. @type {(part: Part, tokens: string[]) => string} */
export function shortLabel({ id, kind, layer, index, position }, tokens) {
  if (kind === "input") return position === null ? "tokens" : visibleLabel(tokens[position] ?? "", 8);
  if (kind === "output") return "logits";
  if (kind === "group") return visibleLabel(id.slice(GROUP.length), 14, { spaces: false });
  const own = `${layer ?? ""}${index === null ? "" : `.${index}`}`;
  return kind === "head" ? own : `${{ mlp: "MLP", neuron: "n", feature: "f", error: "err" }[kind] ?? kind} ${own}`;
}

/** "+0.42", with a sign always. @type {(value: number) => string} */
export function signed(value) {
  if (Number.isNaN(value)) return "not known";
  const small = value !== 0 && Math.abs(value) < 0.001;
  const said = small ? value.toExponential(1).replaceAll("-", "−") : significant(value);
  return `${value > 0 ? "+" : ""}${said}`;
}

/** Letters of a group's place: A, B, …, Z, A2. @param {number} i */
export const groupLetter = (i) => `${String.fromCharCode(65 + (i % 26))}${i < 26 ? "" : Math.floor(i / 26) + 1}`;

// where they stand -----------------------------------------------------------------------------------------------------

/** x, y: the middle, r: half the size, in CSS pixels. @typedef {{i: number, x: number, y: number, r: number, label: string}} Spot */
/** A layer, or several without a part. from, to: their numbers. @typedef {{top: number, bottom: number, text: string, empty: boolean}} Row */
/** position: null for that of all positions together. @typedef {{left: number, right: number, position: number | null, empty: boolean}} Column */
/** @typedef {{width: number, height: number, rows: Row[], columns: Column[], spots: Spot[], place: Map<number, Spot>}} Layout */

const SMALLEST = 3.5;
const LARGEST = 11;
const GAP = 5;
const LABEL = 12; // height of a line of labels
const EMPTY_ROW = 15;
const LEAST_ROW = 26;
const PADDING = 5;
const EMPTY_COLUMN = 14;
const LEAST_COLUMN = 30;
const MOST_LABELLED = 60;
const MOST_APART = 110;
const ACROSS = 4; // parts beside one another in a token's cell

/** How large a part is drawn: its area grows with the effect. @type {(part: Part, graph: Graph) => number} */
export function radius(part, graph) {
  if (END.has(part.kind)) return 7;
  return SMALLEST + (LARGEST - SMALLEST) * Math.sqrt(Math.min(1, Math.max(0, size(part.effect)) / graph.largest));
}

/** @type {Record<string, number>} */
const ORDER = { input: 0, head: 1, group: 1, mlp: 2, neuron: 2, feature: 2, error: 3, output: 4 };

/**
 * Where all that is shown stands, within a width where that is possible. names: labels that somebody gave, by place.
 * @type {(graph: Graph, shown: Shown, facts: Facts, width: number, names: Map<number, string>) => Layout}
 */
export function layOut(graph, shown, facts, width, names) {
  const { parts } = graph;
  const all = [...shown.parts].sort((a, b) => a - b);
  const labelled = all.length <= MOST_LABELLED;
  const boxes = new Map(
    all.map((i) => {
      const r = radius(parts[i], graph);
      const label = names.get(i) ?? (labelled || parts[i].kind === "group" ? shortLabel(parts[i], facts.tokens) : "");
      return [i, { i, r, label, wide: Math.max(2 * r, 5.6 * [...label].length) + GAP, high: 2 * r + 3 + (label ? LABEL : 0) }];
    }),
  );
  const rowOf = (/** @type {Part} */ { kind, layer }) => (kind === "input" ? -1 : kind === "output" || layer === null ? facts.layers : layer);
  /** @type {Map<string, number[]>} */
  const cells = new Map(); // "row order position"
  for (const i of all) {
    const part = parts[i];
    const key = `${rowOf(part)} ${ORDER[part.kind] ?? 2} ${part.position ?? -1}`;
    cells.set(key, [...(cells.get(key) ?? []), i]);
  }
  for (const cell of cells.values()) cell.sort((a, b) => (parts[a].index ?? 0) - (parts[b].index ?? 0));

  const columns = columnsOf(graph, facts, cells, boxes, width);
  const columnAt = new Map(columns.map((column) => [column.position ?? -1, column]));
  /** @type {Row[]} */
  const rows = [];
  /** @type {Spot[]} */
  const spots = [];
  let top = 0;
  const filled = new Map(); // row → its lines, one for each step of computing in a layer
  for (const [key, cell] of cells) {
    const [row, order, position] = key.split(" ").map(Number);
    if (!filled.has(row)) filled.set(row, new Map());
    const steps = filled.get(row);
    if (!steps.has(order)) steps.set(order, []);
    steps.get(order).push({ position, cell });
  }
  for (let row = -1; row <= facts.layers; row += 1) {
    const steps = filled.get(row);
    if (steps === undefined) {
      if (row === -1 || row === facts.layers) continue;
      let end = row;
      while (end + 1 < facts.layers && !filled.has(end + 1)) end += 1;
      rows.push({ top, bottom: (top += EMPTY_ROW), text: row === end ? String(row) : `${row}–${end}`, empty: true });
      row = end;
      continue;
    }
    const begin = top;
    top += PADDING;
    for (const order of [...steps.keys()].sort()) {
      let high = 0;
      for (const { position, cell } of steps.get(order)) {
        const column = /** @type {Column} */ (columnAt.get(position));
        let y = top;
        for (const line of linesOf(cell.map((/** @type {number} */ i) => boxes.get(i)), position < 0 ? column.right - column.left - GAP : 0)) {
          const wide = line.reduce((sum, box) => sum + box.wide, 0);
          const room = column.right - column.left - wide;
          // a row of heads has the whole width where there are no tokens: edges are told apart
          const apart = columns.length === 1 ? Math.min(MOST_APART, room / line.length) : 0;
          let x = column.left + (room - apart * (line.length - 1)) / 2;
          const tall = Math.max(...line.map((box) => box.high));
          const middle = Math.max(...line.map((box) => box.r));
          for (const { i, r, label, wide: own } of line) {
            spots.push({ i, x: x + own / 2, y: y + middle + 1, r, label });
            x += own + apart;
          }
          y += tall;
        }
        high = Math.max(high, y - top);
      }
      top += high;
    }
    top = Math.max(top + PADDING, begin + LEAST_ROW);
    rows.push({ top: begin, bottom: top, text: row === -1 ? "tokens" : row === facts.layers ? "logits" : String(row), empty: false });
  }
  const right = columns.length > 0 ? columns[columns.length - 1].right : width;
  return { width: right, height: Math.max(40, top), rows, columns, spots, place: new Map(spots.map((spot) => [spot.i, spot])) };
}

/** @typedef {{i: number, r: number, label: string, wide: number, high: number}} PartBox */

/** Parts of a cell in lines: of a width, or of so many. @type {(boxes: PartBox[], width: number) => PartBox[][]} */
function linesOf(boxes, width) {
  /** @type {PartBox[][]} */
  const lines = [];
  let left = 0;
  for (const box of boxes) {
    const line = lines[lines.length - 1];
    if (line === undefined || (width > 0 ? box.wide > left : line.length >= ACROSS)) {
      lines.push([box]);
      left = width - box.wide;
    } else {
      line.push(box);
      left -= box.wide;
    }
  }
  return lines;
}

/** @type {(graph: Graph, facts: Facts, cells: Map<string, number[]>, boxes: Map<number, PartBox>, width: number) => Column[]} */
function columnsOf(graph, facts, cells, boxes, width) {
  const placed = graph.parts.some(({ position, kind }) => position !== null && kind !== "output");
  const together = graph.parts.some(({ position }) => position === null);
  /** @type {Map<number, number>} */
  const needs = new Map();
  for (const [key, cell] of cells) {
    const position = Number(key.split(" ")[2]);
    const widest = Math.max(...linesOf(cell.map((i) => /** @type {PartBox} */ (boxes.get(i))), 0).map((line) => line.reduce((sum, box) => sum + box.wide, 0)));
    needs.set(position, Math.max(needs.get(position) ?? 0, widest + GAP));
  }
  /** @type {{position: number | null, wide: number, empty: boolean}[]} */
  const wanted = [];
  if (placed) {
    for (const position of facts.tokens.keys()) {
      const need = needs.get(position);
      wanted.push({ position, wide: need === undefined ? EMPTY_COLUMN : Math.max(LEAST_COLUMN, need), empty: need === undefined });
    }
  }
  if (together) wanted.push({ position: null, wide: placed ? Math.max(70, needs.get(-1) ?? 0) : Math.max(160, width), empty: false });
  const spare = width - wanted.reduce((sum, { wide }) => sum + wide, 0);
  const share = Math.min(60, Math.max(0, spare / Math.max(1, wanted.length)));
  let left = 0;
  return wanted.map(({ position, wide, empty }) => {
    const right = left + wide + (placed ? share : 0);
    const column = { left, right, position, empty };
    left = right;
    return column;
  });
}

/** The part under a point: of several the nearest; null where there is none. @type {(layout: Layout, x: number, y: number) => number | null} */
export function partAt({ spots }, x, y) {
  let best = null;
  let least = 1;
  for (const spot of spots) {
    const far = Math.hypot(spot.x - x, spot.y - y) / (spot.r + 5);
    if (far < least) [best, least] = [spot.i, far];
  }
  return best;
}

/**
 * Where a key leads from a part: along its line, or to the nearest one above or below; null when the key means nothing.
 * @type {(layout: Layout, key: string, from: number | null) => number | null}
 */
export function partTarget({ spots, place }, key, from) {
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1], Home: [0, 0], End: [0, 0] };
  if (!Object.hasOwn(steps, key) || spots.length === 0) return null;
  const order = [...spots].sort((a, b) => a.y - b.y || a.x - b.x);
  const at = from === null ? undefined : place.get(from);
  if (key === "End") return order[order.length - 1].i;
  if (key === "Home" || at === undefined) return order[0].i;
  const [dx, dy] = steps[/** @type {keyof typeof steps} */ (key)];
  let [best, least] = [at.i, Infinity];
  for (const spot of spots) {
    const [ahead, aside] = dx === 0 ? [dy * (spot.y - at.y), spot.x - at.x] : [dx * (spot.x - at.x), spot.y - at.y];
    if (spot.i === at.i || ahead <= 0.5) continue;
    // along a line its neighbours come first; up and down the nearest line does
    const far = dx === 0 ? ahead + 0.35 * Math.abs(aside) : ahead + 6 * Math.abs(aside);
    if (far < least) [best, least] = [spot.i, far];
  }
  return best;
}

/** The code of a cell of a pattern, packed below its diagonal or whole. @type {(codes: Uint8Array, n: number, query: number, key: number) => number} */
export function cellOf(codes, n, query, key) {
  if (codes.length === n * n) return codes[query * n + key];
  return key > query ? 0 : codes[(query * (query + 1)) / 2 + key];
}

/** Before its name, the id of a group that is folded; as in __init__.py. */
export const GROUP = "group ";

/**
 * A graph in which groups are one part each, after all others; what is in them stays in its place, joined to nothing.
 * home: of each part in a folded group the place of that; others are at home themselves. links: of each link of the graph
 * before the place of the one it is summed in, null for those within a group. members: of each folded group its parts.
 * @typedef {{graph: Graph, home: (i: number) => number, links: (number | null)[], members: Map<number, number[]>}} Folded
 */

/**
 * Groups folded: a group's effects, direct effects and edges are the sums of its parts', and it stands where the one with the
 * largest effect does. members: of each group to fold its name and parts.
 * @type {(graph: Graph, groups: [string, number[]][]) => Folded}
 */
export function fold(graph, groups) {
  const parts = [...graph.parts];
  /** @type {Map<number, number>} */
  const homes = new Map();
  /** @type {Map<number, number[]>} */
  const members = new Map();
  for (const [name, within] of groups) {
    if (within.length === 0) continue;
    const strongest = within.reduce((best, i) => (size(graph.parts[i].effect) > size(graph.parts[best].effect) ? i : best));
    const sum = (/** @type {"effect" | "direct"} */ of) => within.reduce((total, i) => total + graph.parts[i][of], 0);
    const { layer, position } = graph.parts[strongest];
    members.set(parts.length, within);
    for (const i of within) homes.set(i, parts.length);
    parts.push({ id: GROUP + name, kind: "group", layer, index: null, position, effect: sum("effect"), direct: sum("direct"), rank: 0 });
  }
  const home = (/** @type {number} */ i) => homes.get(i) ?? i;
  /** @type {Link[]} */
  const links = [];
  /** @type {Map<string, number>} */
  const known = new Map();
  const places = graph.links.map(({ from, to, via, effect }) => {
    const [start, end] = [home(from), home(to)];
    if (start === end) return null;
    const by = members.has(end) ? "" : via; // of a group no input of one head
    const folds = members.has(start) || members.has(end);
    const key = `${start} ${end} ${by}`;
    const there = folds ? known.get(key) : undefined;
    if (there !== undefined) {
      links[there].effect += effect;
      return there;
    }
    known.set(key, links.length);
    links.push({ from: start, to: end, via: by, effect });
    return links.length - 1;
  });
  /** @type {Graph} */
  const found = { ...graph, parts, links, in: parts.map(() => []), out: parts.map(() => []) };
  for (const i of links.map((_, i) => i).sort((a, b) => size(links[b].effect) - size(links[a].effect))) {
    found.in[links[i].to].push(i);
    found.out[links[i].from].push(i);
  }
  found.largest = Math.max(1e-12, ...parts.flatMap(({ kind, effect }, i) => (END.has(kind) || homes.has(i) ? [] : [size(effect)])));
  found.heaviest = Math.max(1e-12, ...links.map((each) => size(each.effect)));
  return { graph: found, home, links: places, members };
}

/** What is shown of a folded graph, where this is shown of the one before. @type {(shown: Shown, folded: Folded) => Shown} */
export function foldShown({ parts, links }, { home, links: places, graph }) {
  const own = new Set(links.flatMap((i) => places[i] ?? []));
  return {
    parts: new Set([...parts].map(home)),
    links: [...own].sort((a, b) => size(graph.links[b].effect) - size(graph.links[a].effect)),
  };
}

/** Groups in the order of their names. @type {(groups: Record<string, string>) => [string, string[]][]} */
export function membersOf(groups) {
  /** @type {Map<string, string[]>} */
  const found = new Map();
  for (const [id, name] of Object.entries(groups)) found.set(name, [...(found.get(name) ?? []), id]);
  return [...found].sort(([a], [b]) => (a < b ? -1 : 1));
}
