import assert from "node:assert/strict";
import { test } from "node:test";
import {
  cellOf, fold, foldShown, groupLetter, layOut, lineNames, meanings, measuredAt, membersOf, nearestStop, partAt, partTarget, placeWords, readGraph, shortLabel, shownAt, signed, stops,
} from "../../labkit/views/circuit_view/logic.js";

const KINDS = ["input", "head", "mlp", "neuron", "feature", "error", "output"];

/** parts: [kind, layer, index, position, effect]; links: [from, to, effect]. */
function graphOf(parts, links, { by = "parts", layers = 4, tokens = ["a", "b", "c"] } = {}) {
  const facts = { model: "m", metric: "x", unit: "", layers, tokens, ids: parts.map((_, i) => `p${i}`), kinds: KINDS, vias: [""], by };
  const ints = (rows) => {
    const data = new DataView(new ArrayBuffer(4 * rows.flat().length));
    rows.flat().forEach((value, i) => data.setInt32(4 * i, value ?? -1, true));
    return data;
  };
  const floats = (values) => {
    const data = new DataView(new ArrayBuffer(4 * values.length));
    values.forEach((value, i) => data.setFloat32(4 * i, value, true));
    return data;
  };
  const places = ints(parts.map(([kind, ...rest]) => [KINDS.indexOf(kind), ...rest.slice(0, 3)]));
  const graph = readGraph(facts, places, floats(parts.map((part) => part[4])), ints(links.map(([a, b]) => [a, b, 0])), floats(links.map((link) => link[2])), floats([]));
  return { graph, facts };
}

const PARTS = [
  ["input", null, null, 0, 0],
  ["head", 0, 1, 0, 0.5],
  ["head", 1, 0, 2, -2],
  ["mlp", 1, null, 2, 1],
  ["head", 3, 2, 2, NaN],
  ["output", null, null, 2, 0],
];
const LINKS = [[0, 1, 0.1], [1, 2, -0.9], [2, 3, 0.5], [3, 5, 0.7], [0, 5, 3], [4, 5, 0.2]];

test("parts are ranked by size whatever their sign, what is no number last", () => {
  const { graph } = graphOf(PARTS, LINKS);
  assert.deepEqual(graph.ranked, [2, 3, 1, 4]);
  assert.deepEqual(graph.parts.map(({ rank }) => rank), [0, 3, 1, 2, 4, 0]);
  assert.equal(graph.largest, 2);
  assert.deepEqual(graph.in[5], [4, 3, 5]);
  assert.equal(graph.parts[0].layer, null);
});

test("at a size the strongest are shown, with the ends they touch and what is pinned", () => {
  const { graph } = graphOf(PARTS, LINKS);
  assert.deepEqual([...shownAt(graph, 2, []).parts].sort(), [2, 3, 5]);
  assert.deepEqual(shownAt(graph, 2, []).links, [3, 2]);
  assert.deepEqual([...shownAt(graph, 1, [1]).parts].sort(), [0, 1, 2]);
  assert.equal(shownAt(graph, 0, []).parts.size, 0);
  const edges = graphOf(PARTS, LINKS, { by: "edges" }).graph;
  assert.deepEqual([...shownAt(edges, 2, []).parts].sort(), [0, 1, 2, 5]);
  assert.deepEqual([...shownAt(graphOf(PARTS, []).graph, 1, []).parts].sort(), [0, 2, 5], "without edges the ends stay");
});

test("the slider stops at what was measured, at each of the first, and at the end", () => {
  const found = stops(500, [32, 100, 1000]);
  assert.deepEqual(found.slice(0, 3), [1, 2, 3]);
  assert.ok(found.includes(32) && found.includes(100) && !found.includes(1000));
  assert.equal(found[found.length - 1], 500);
  assert.ok(found.length < 80);
  assert.equal(found[nearestStop(found, 100)], 100);
  assert.deepEqual(stops(0, []), []);
});

test("between two measured sizes both are said", () => {
  const curve = [{ size: 4, good: 0.5 }, { size: 8, good: null }, { size: 16, good: 0.75 }];
  assert.equal(measuredAt(curve, 4, "good"), "good 0.500");
  assert.equal(measuredAt(curve, 8, "good"), "good 0.500 at 4, 0.750 at 16");
  assert.equal(measuredAt(curve, 99, "good"), "good 0.750 at 16");
  assert.equal(measuredAt(curve, 4, "none"), "");
});

test("layers go downward, heads before MLPs, and nothing overlaps or leaves the picture", () => {
  const { graph, facts } = graphOf(PARTS, LINKS);
  const layout = layOut(graph, shownAt(graph, 4, []), facts, 600, new Map([[2, "a long name"]]));
  const y = (i) => layout.place.get(i).y;
  assert.ok(y(0) < y(1) && y(1) < y(2) && y(2) < y(3) && y(3) < y(4) && y(4) < y(5));
  assert.deepEqual(layout.rows.map(({ text }) => text), ["tokens", "0", "1", "2", "3", "logits"]);
  assert.ok(layout.rows[3].empty && layout.columns[1].empty);
  for (const spot of layout.spots) {
    assert.ok(spot.x - spot.r >= 0 && spot.x + spot.r <= layout.width && spot.y + spot.r <= layout.height);
    assert.equal(partAt(layout, spot.x + 1, spot.y - 1), spot.i);
  }
  assert.equal(partAt(layout, 1, layout.height - 1), null);
});

test("many parts in one cell stand side by side", () => {
  const many = Array.from({ length: 90 }, (_, i) => ["head", i % 2, i, null, (i % 7) - 3.5]);
  const { graph, facts } = graphOf(many, []);
  const layout = layOut(graph, shownAt(graph, 90, []), facts, 400, new Map());
  const spots = layout.spots;
  for (let a = 0; a < spots.length; a += 1) {
    for (let b = 0; b < a; b += 1) assert.ok(Math.hypot(spots[a].x - spots[b].x, spots[a].y - spots[b].y) >= spots[a].r + spots[b].r);
  }
  assert.ok(spots.every(({ x, r }) => x - r >= 0 && x + r <= 400));
});

test("arrow keys reach every part", () => {
  const many = Array.from({ length: 40 }, (_, i) => ["head", i % 4, i, (i * 7) % 3, 1 + i]);
  const { graph, facts } = graphOf(many, []);
  const layout = layOut(graph, shownAt(graph, 40, []), facts, 500, new Map());
  const seen = new Set([partTarget(layout, "Home", null)]);
  for (const at of seen) for (const key of ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"]) seen.add(partTarget(layout, key, at));
  assert.equal(seen.size, 40);
  assert.equal(partTarget(layout, "x", 0), null);
  assert.equal(partTarget({ spots: [], place: new Map() }, "Home", null), null);
});

test("names, numbers and groups in words", () => {
  const { graph, facts } = graphOf(PARTS, LINKS);
  assert.equal(placeWords(graph.parts[2], facts.tokens), "layer 1 head 0 at “c” (2)");
  assert.equal(placeWords(graph.parts[0], facts.tokens), "token “a”");
  assert.equal(shortLabel(graph.parts[3], facts.tokens), "MLP 1");
  assert.deepEqual([0.5, -0.25, 0, NaN, -0.0000642].map(signed), ["+0.500", "−0.250", "0", "not known", "−6.4e−5"]);
  assert.deepEqual(membersOf({ a: "z", b: "y", c: "z" }), [["y", ["b"]], ["z", ["a", "c"]]]);
  assert.deepEqual([0, 25, 26].map(groupLetter), ["A", "Z", "A2"]);
});

test("a pattern is read packed or whole", () => {
  assert.equal(cellOf(Uint8Array.of(1, 2, 3), 2, 1, 0), 2);
  assert.equal(cellOf(Uint8Array.of(1, 2, 3), 2, 0, 1), 0);
  assert.equal(cellOf(Uint8Array.of(1, 9, 2, 3), 2, 0, 1), 9);
});

test("ends of intervals and p-values are no lines", () => {
  assert.deepEqual(lineNames([{ size: 1, good: 0.5, random: 0.1, random_low: 0, random_high: 0.2, p: 0.05 }]), ["good", "random"]);
});

test("a folded group is one part: its effects, direct effects and edges are sums, and it stands with its strongest", () => {
  const { graph, facts } = graphOf(PARTS, [...LINKS, [1, 3, 0.25]]);
  const folded = fold(graph, [["ours", [2, 3]]]);
  const at = graph.parts.length;
  const { parts, links } = folded.graph;
  assert.deepEqual([parts.length, parts[at].kind, parts[at].effect, parts[at].layer, parts[at].position], [at + 1, "group", -1, 1, 2]);
  const edges = links.map(({ from, to, effect }) => [from, to, Number(effect.toFixed(3))]);
  assert.deepEqual(edges, [[0, 1, 0.1], [1, at, -0.65], [at, 5, 0.7], [0, 5, 3], [4, 5, 0.2]], "1 to 2 and 1 to 3 are one edge, 2 to 3 none");
  assert.deepEqual([folded.graph.in[at], folded.graph.out[at]], [[1], [2]]);
  assert.deepEqual([folded.graph.in[2], folded.graph.out[3]], [[], []], "what is in it is joined to nothing");
  assert.equal(shortLabel(parts[at], facts.tokens), "ours");
  assert.equal(placeWords(parts[at], facts.tokens), "group “ours”");
  const direct = fold({ ...graph, parts: graph.parts.map((part, i) => ({ ...part, direct: i / 4 })) }, [["ours", [2, 3]]]);
  assert.equal(direct.graph.parts[at].direct, 1.25);
  const apart = fold(graph, [["ours", [1, 2]]]).graph.parts[at];
  assert.deepEqual([apart.layer, apart.position], [1, 2], "of 0.5 in layer 0 and -2 in layer 1");
  // with one of its parts the group is shown, with all of its edges' sum
  const shown = foldShown(shownAt(graph, 1, []), folded);
  assert.ok(shown.parts.has(at) && !shown.parts.has(2) && !shown.parts.has(3));
  const layout = layOut(folded.graph, foldShown(shownAt(graph, 4, []), folded), facts, 600, new Map());
  assert.ok(layout.place.has(at) && !layout.place.has(2));
  // nothing folded: as it was
  const plain = fold(graph, []);
  assert.deepEqual([plain.graph.links, plain.graph.in, plain.graph.heaviest], [graph.links, graph.in, graph.heaviest]);
  assert.deepEqual(foldShown(shownAt(graph, 3, []), plain), shownAt(graph, 3, []));
});

test("what a curve's lines mean is said of those that are known", () => {
  assert.equal(meanings(["random", "mine"]), "random: the same of as many drawn at random.");
  assert.match(meanings(["faithfulness", "random"], true), /drawn at random, 95 % of them in the shaded band\.$/);
  assert.equal(meanings(["mine"]), "");
});

test("two folded groups are joined by the sum of what joins their parts", () => {
  const { graph } = graphOf(PARTS, [[1, 2, 0.5], [1, 3, -0.2], [2, 4, 0.1]]);
  const { graph: folded, links } = fold(graph, [["a", [1]], ["b", [2, 3, 4]]]);
  assert.deepEqual(folded.links.map(({ from, to, effect }) => [from, to, Number(effect.toFixed(3))]), [[6, 7, 0.3]]);
  assert.deepEqual(links, [0, 0, null]);
  assert.ok(Number.isNaN(folded.parts[7].effect), "with a part that is not known the sum is not");
});
