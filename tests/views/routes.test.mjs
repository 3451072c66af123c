import assert from "node:assert/strict";
import { test } from "node:test";
import { readFileSync } from "node:fs";
import { Codes } from "../../labkit/views/kit/codes.js";
import { needsLight, rgbOf } from "../../labkit/views/kit/colour.js";
import {
  NO_COLOUR,
  afterKey,
  against,
  byChance,
  changedTokens,
  choices,
  colouredExperts,
  decodeRoutes,
  exampleToken,
  firstChoices,
  inOrder,
  number,
  stripLayout,
  stripPlace,
  tokensOf,
} from "../../labkit/views/routes_view/logic.js";
import { axisPercent, everyNth, niceTop } from "../../labkit/views/kit/column_chart.js";
import { nameOf } from "../../labkit/views/kit/token_list.js";

const CODES = new Codes(254);
const COLOURS = 8;
/** The colours that the view sends, as they stand in its Python. */
const PALETTE = readFileSync(new URL("../../labkit/views/routes_view/exported.py", import.meta.url), "utf8").match(/#[0-9a-f]{6}/g);

/** A route of choices[layer][token] = experts, all of weight code 254 / (place + 1). */
function made(all, { experts = 4, wide = false, texts = null, special = [] } = {}) {
  const layers = all.length;
  const n = all[0].length;
  const k = all[0][0].length;
  const flat = all.flat(2);
  const numbers = wide ? new Uint8Array(Uint16Array.from(flat).buffer) : Uint8Array.from(flat);
  const load = new Uint32Array(layers * experts);
  all.forEach((row, l) => row.flat().forEach((e) => (load[l * experts + e] += 1)));
  const facts = {
    layers: Array.from({ length: layers }, (_, i) => i),
    experts,
    k: [k],
    bytes: wide ? 2 : 1,
    drawn: [n],
    tokens: [n],
    counted: [n],
    bands: [[0.1, 0.4]],
    tops: [2],
    marks: [{ continued: [], called: [[1, "<0xE4>"]] }],
    special: [special],
  };
  const view = (bytes) => new DataView(bytes.buffer);
  const codes = Uint8Array.from(flat, (_, i) => Math.round(254 / ((i % k) + 1)));
  const given = [texts ? [texts] : [Array.from({ length: n }, (_, i) => `t${i}`)], view(numbers), view(codes), view(load)];
  return { facts, given, route: decodeRoutes(CODES, facts, ...given)[0] };
}

test("bytes are read back as experts, weights and loads, one byte each or two", () => {
  for (const wide of [false, true]) {
    const all = [[[0, 3], [2, 1], [2, 3]], [[1, 0], [3, 2], [1, 2]]];
    const { route } = made(all, { wide });
    all.forEach((row, l) => row.forEach((experts, t) => experts.forEach((e, j) => assert.equal(route.expert(l, t, j), e))));
    assert.equal(route.weight(0, 0, 0), 2);
    assert.equal(route.weight(0, 2, 1), 0.5);
    assert.deepEqual([...route.load(0)], [1, 1, 2, 2]);
    assert.deepEqual([...route.load(1)], [1, 2, 2, 1]);
  }
  const { route } = made([[[300, 5]]], { wide: true, experts: 301 });
  assert.equal(route.expert(0, 0), 300);
});

test("bytes that don't fit the facts are refused", () => {
  const { facts, given } = made([[[0, 3], [2, 1]]]);
  assert.throws(() => decodeRoutes(CODES, { ...facts, drawn: [1], tokens: [1] }, ...given), RangeError);
});

test("two traces stand one after the other", () => {
  const one = made([[[0]]]);
  const two = made([[[2, 3], [3, 0]]]);
  const joined = [1, 2, 3].map((i) => new DataView(Uint8Array.from([one, two].flatMap(({ given }) => [...new Uint8Array(given[i].buffer)])).buffer));
  const pair = (name) => [...one.facts[name], ...two.facts[name]];
  const facts = { ...one.facts, ...Object.fromEntries(["drawn", "k", "tokens", "counted", "bands", "tops", "marks", "special"].map((n) => [n, pair(n)])) };
  const routes = decodeRoutes(CODES, facts, [["a"], ["b", "c"]], ...joined);
  assert.deepEqual(routes.map(({ k }) => k), [1, 2]);
  assert.equal(routes[0].expert(0, 0), 0);
  assert.equal(routes[1].expert(0, 1), 3);
  assert.deepEqual([...routes[1].load(0)], [1, 0, 1, 2]);
});

test("codes are square roots; what is no number keeps its own", () => {
  assert.equal(CODES.weight(254), 1);
  assert.equal(CODES.weight(127, 2), 0.5);
  assert.equal(CODES.weight(0), 0);
  assert.ok(Number.isNaN(CODES.weight(255)));
});

test("a token whose piece shows nothing is called by its name", () => {
  const { route } = made([[[0, 1], [1, 2]]]);
  assert.equal(nameOf(route, 0), "t0");
  assert.equal(nameOf(route, 1), "<0xE4>");
});

test("experts stand by number or the most chosen first", () => {
  assert.deepEqual(inOrder([3, 9, 3, 0], "number"), [0, 1, 2, 3]);
  assert.deepEqual(inOrder([3, 9, 3, 0], "most"), [1, 0, 2, 3]);
});

test("the eight most chosen have the colours, whoever nobody chooses has none", () => {
  const load = Array.from({ length: 12 }, (_, e) => (e === 11 ? 100 : e));
  assert.deepEqual(colouredExperts(load, COLOURS), [11, 10, 9, 8, 7, 6, 5, 4]);
  assert.deepEqual(colouredExperts([0, 5, 0], COLOURS), [1, ...Array(COLOURS - 1).fill(NO_COLOUR)]);
  assert.equal(PALETTE.length, 2 * COLOURS + 2, "on light paper and on dark, and that of the others");
});

test("colours go to those who are chosen first, and among equals to the more chosen", () => {
  const { route } = made([[[4, 1], [4, 1], [2, 1], [0, 3], [3, 1]]], { experts: 5 });
  const firsts = firstChoices(route, 0);
  assert.deepEqual(inOrder(firsts, "most").slice(0, 5), [4, 3, 0, 2, 1], "1 is chosen most, and never first");
});

test("a picked expert gets a colour, and those that stay keep theirs", () => {
  const load = Array.from({ length: 12 }, (_, e) => 12 - e);
  const before = colouredExperts(load, COLOURS);
  const after = colouredExperts(load, COLOURS, [10], before);
  assert.equal(after[7], 10, "it takes the place of the least chosen");
  assert.deepEqual(after.slice(0, 7), before.slice(0, 7));
  assert.deepEqual(colouredExperts(load, COLOURS, [10], after), after);
  const typed = colouredExperts(load.toReversed(), COLOURS, [], before);
  for (const expert of typed) if (before.includes(expert)) assert.equal(typed.indexOf(expert), before.indexOf(expert));
  assert.ok(typed.includes(11));
  assert.equal(colouredExperts(load, COLOURS, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], []).includes(0), false, "the latest eight count");
  assert.equal(colouredExperts(load, COLOURS, [99]).includes(99), false);
});

test("tokens that choose otherwise are marked, and another order is no other choice", () => {
  const one = made([[[0, 1], [0, 1], [0, 1], [2, 3]]]).route;
  const other = made([[[0, 1], [1, 0], [0, 2], [1, 3]]]).route;
  assert.deepEqual([...changedTokens(one, other, 0)], [0, 0, 1, 2]);
  assert.deepEqual([...changedTokens(other, one, 0)], [0, 0, 1, 2]);
});

test("where one route chooses fewer, a choice within the larger is no other one", () => {
  const four = made([[[0, 1, 2, 3], [0, 1, 2, 3], [4, 0, 1, 2], [0, 1, 2, 3]]], { experts: 8 }).route;
  const two = made([[[0, 1], [2, 5], [0, 5], [6, 7]]], { experts: 8 }).route;
  assert.deepEqual([...changedTokens(four, two, 0)], [0, 2, 2, 2]);
  assert.deepEqual([...changedTokens(two, four, 0)], [0, 2, 2, 2]);
  const second = made([[[0, 5], [3, 2], [4, 3], [1, 0]]], { experts: 8 }).route;
  assert.deepEqual([...changedTokens(four, second, 0)], [1, 0, 1, 0]);
});

test("an expert's tokens, those it gets first among them", () => {
  const { route } = made([[[0, 1], [1, 0], [2, 3]]]);
  assert.deepEqual([...tokensOf(route, 0, 1)], [1, 2, 0]);
  assert.deepEqual([...tokensOf(route, 0, 3)], [0, 0, 1]);
});

test("the example is a word that goes to the most chosen expert", () => {
  const all = [[[0, 1], [2, 1], [1, 3], [1, 0]]];
  assert.equal(exampleToken(made(all, { texts: ["The", ".", " a", " cat"] }).route, 0), 3);
  assert.equal(exampleToken(made(all, { texts: ["The", ".", " a", " b"] }).route, 0), 0);
  assert.equal(exampleToken(made(all, { texts: ["The", ".", " a", " b"], special: [0] }).route, 0), 0);
  assert.equal(exampleToken(made([[[0, 1]]], { texts: ["1"] }).route, 0), 0);
});

test("a token's parts of its weight add up", () => {
  const { route } = made([[[0, 1], [1, 0]]]);
  const all = choices(route, 0, 0);
  assert.deepEqual(all.map(({ expert }) => expert), [0, 1]);
  assert.ok(Math.abs(all[0].part + all[1].part - 1) < 1e-12);
  assert.ok(Math.abs(all[0].part - 0.8) < 1e-12);
});

test("axes end at round shares", () => {
  for (const [value, top] of [[0.0312, 0.04], [0.11, 0.15], [0.2, 0.2], [0.95, 1], [3, 1], [0, 1], [NaN, 1], [0.0041, 0.005]]) {
    assert.ok(Math.abs(niceTop(value) - top) < 1e-12, `${value}: ${niceTop(value)}`);
  }
  assert.equal(axisPercent(0.15), "15 %");
  assert.equal(axisPercent(0.025), "2.5 %");
});

test("exact numbers have four digits, others about two", () => {
  assert.equal(number(0.41327, true), "0.4133");
  assert.equal(number(0.41327, false), "0.41");
  assert.equal(number(0.00001, true), "under 0.0001");
  assert.equal(number(0, true), "0.0000");
  assert.equal(number(NaN, true), "no number");
  assert.equal(number(2.512, false), "2.5");
});

test("a load lies above, below or within chance", () => {
  assert.equal(against(0.1, [0.02, 0.06]), "above");
  assert.equal(against(0.06, [0.02, 0.06]), "within");
  assert.equal(against(0.01, [0.02, 0.06]), "below");
  assert.equal(against(0.5, null), "");
  assert.equal(byChance(32), "about 2");
  assert.equal(byChance(8), "hardly any");
});

test("labels don't touch", () => {
  assert.equal(everyNth(8, 200, 20), 1);
  assert.equal(everyNth(32, 300, 20), 4);
  assert.ok((256 / everyNth(256, 300, 27)) * 27 <= 300 + 27);
});

test("the strip is as wide as its box until its cells would get too narrow", () => {
  const few = stripLayout(12, 6, 600, 32);
  assert.deepEqual([few.cell, few.row, few.numbers], [26, 20, true]);
  assert.equal(few.width, 312);
  const many = stripLayout(1024, 6, 600, 32);
  assert.deepEqual([many.cell, many.width, many.numbers], [2, 2048, false]);
  const deep = stripLayout(100, 61, 600, 256, 2);
  assert.deepEqual([deep.cell, deep.height], [6, 488]);
  assert.ok(stripLayout(40, 6, 600, 256).numbers === false, "three digits need more room");
});

test("a point of the strip is a layer and a token", () => {
  const layout = stripLayout(12, 6, 600, 32);
  for (let layer = 0; layer < 6; layer += 1) {
    for (let token = 0; token < 12; token += 1) {
      assert.deepEqual(stripPlace(layout, (token + 0.5) * layout.cell, (layer + 0.5) * layout.row), { layer, token });
    }
  }
  for (const [x, y] of [[-1, 5], [5, -1], [layout.width, 5], [5, layout.height]]) assert.equal(stripPlace(layout, x, y), null);
});

test("keys move by token and layer and stop at the edges", () => {
  assert.deepEqual(afterKey("ArrowRight", { layer: 2, token: 3 }, 6, 12), { layer: 2, token: 4 });
  assert.deepEqual(afterKey("ArrowUp", { layer: 0, token: 3 }, 6, 12), { layer: 0, token: 3 });
  assert.deepEqual(afterKey("ArrowDown", { layer: 2, token: 3 }, 6, 12), { layer: 3, token: 3 });
  assert.deepEqual(afterKey("End", { layer: 2, token: 3 }, 6, 12), { layer: 2, token: 11 });
  assert.deepEqual(afterKey("Home", { layer: 2, token: 3 }, 6, 12), { layer: 2, token: 0 });
  assert.deepEqual(afterKey("PageUp", { layer: 2, token: 3 }, 6, 12), { layer: 2, token: 0 });
  for (const key of ["x", "__proto__", "toString"]) assert.equal(afterKey(key, { layer: 0, token: 0 }, 2, 2), null);
});

test("numbers on a colour read well", () => {
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  for (const colour of PALETTE) {
    const l = luminance(rgbOf(colour));
    const contrast = needsLight(rgbOf(colour)) ? 1.05 / (l + 0.05) : (l + 0.05) / 0.05;
    assert.ok(contrast >= 4.5, `${colour}: ${contrast}`);
  }
});
