import assert from "node:assert/strict";
import { test } from "node:test";
import { Codes } from "../../labkit/views/kit/codes.js";
import { colour, fromOklch, needsLight } from "../../labkit/views/kit/colour.js";
import {
  SCALES,
  aboutWeight,
  arranged,
  cellAfterKey,
  cellCount,
  codeAt,
  decodeMap,
  dots,
  exactWeight,
  labelled,
  layout,
  lineOf,
  mapLayout,
  meanLine,
  onScale,
  packedBytes,
  palette,
  roughPercent,
  sayMeasure,
  saySharing,
  setAside,
  sharing,
  slotAfterKey,
  slotAt,
  strongest,
} from "../../labkit/views/attention_view/logic.js";
import { headNotes } from "../../labkit/views/attention_view/words.js";

const LEVELS = 254;
const NOT_A_NUMBER = 255;
const CODES = new Codes(LEVELS);
const weightOf = (code) => CODES.weight(code);
const codeOf = (weight) => CODES.of(weight);

/** A packed pattern whose cells are value(row, column). */
function packed(n, value) {
  const codes = new Uint8Array(packedBytes(n));
  let at = 0;
  for (let row = 0; row < n; row += 1) for (let column = 0; column <= row; column += 1) codes[at++] = value(row, column);
  return codes;
}

test("codes are square roots; zero and what is no number keep their own", () => {
  assert.equal(weightOf(0), 0);
  assert.equal(weightOf(LEVELS), 1);
  assert.equal(weightOf(127), 0.25);
  assert.ok(Number.isNaN(weightOf(NOT_A_NUMBER)));
});

test("each scale places weights from 0 to 1, rising, its marks among them", () => {
  for (const code of [0, 1, 100, LEVELS]) assert.ok(Math.abs(onScale(weightOf(code)) - code / LEVELS) < 1e-12);
  for (const [name, { marks }] of Object.entries(SCALES)) {
    const places = marks.map((weight) => onScale(weight, name));
    assert.ok(places.every((at, i) => i === 0 || at > places[i - 1]), `${name}: ${places}`);
    assert.equal(places[0], 0, name);
    assert.equal(places.at(-1), 1, name);
    assert.equal(onScale(2, name), 1, name);
    assert.equal(onScale(0, name), 0, name);
    assert.equal(onScale(-1, name), 0, name);
  }
  assert.equal(onScale(0.3, "linear"), 0.3);
  assert.ok(Math.abs(onScale(0.01, "log") - 0.5) < 1e-12);
  assert.equal(onScale(1e-9, "log"), 0);
});

test("a weight's code is the one it is drawn by", () => {
  for (let code = 0; code <= LEVELS; code += 1) assert.equal(codeOf(weightOf(code)), code);
  assert.equal(codeOf(NaN), NOT_A_NUMBER);
  assert.equal(codeOf(1e-30), 1, "only an exact zero may look like one");
  assert.equal(codeOf(1.0001), LEVELS);
});

test("a packed pattern is read back cell by cell, and its size from its bytes", () => {
  for (const n of [1, 2, 3, 60, 1024]) assert.equal(cellCount(packedBytes(n)), n);
  const codes = packed(7, (row, column) => 10 * row + column);
  for (let row = 0; row < 7; row += 1) {
    for (let column = 0; column < 7; column += 1) {
      assert.equal(codeAt(codes, row, column), column > row ? 0 : 10 * row + column);
    }
  }
});

test("a picture has a dot for each cell, or the highest of those that share it", () => {
  const codes = packed(5, (row, column) => 10 * row + column + 1);
  const whole = dots(codes, 5);
  for (let row = 0; row < 5; row += 1) {
    for (let column = 0; column < 5; column += 1) assert.equal(whole[5 * row + column], codeAt(codes, row, column));
  }
  assert.deepEqual([...dots(codes, 5, 2)], [12, 0, 0, 32, 34, 0, 42, 44, 45]);
  const broken = packed(4, (row, column) => (row === 3 && column === 0 ? NOT_A_NUMBER : LEVELS));
  assert.equal(dots(broken, 4, 2)[2], NOT_A_NUMBER);
});

const label = { rows: () => 60, columns: () => 50 };

test("a few tokens don't fill the screen, sixty are all labelled", () => {
  const few = layout(12, { width: 868, ...label });
  assert.deepEqual([few.cell, few.side, few.step], [30, 360, 1]);
  assert.deepEqual(labelled(few), Array.from({ length: 12 }, (_, i) => i));
  assert.equal(layout(1, { width: 868, ...label }).side, 30);
  const sixty = layout(60, { width: 868, ...label });
  assert.equal(sixty.step, 1);
  assert.ok(sixty.cell >= 12);
  const more = layout(256, { width: 868, ...label });
  assert.ok(more.step > 1);
  assert.ok(more.step * more.cell >= 16);
});

test("any picture fits its room with its labels and paints whole device pixels", () => {
  for (const n of [1, 2, 5, 12, 59, 60, 61, 256, 500, 1000, 1024]) {
    for (const width of [300, 392, 640, 868, 1400]) {
      for (const dpr of [1, 1.25, 1.5, 2, 3]) {
        const size = layout(n, { width, dpr, rows: (i) => 20 + (i % 40), columns: (i) => 10 + (i % 60) });
        const said = `n ${n}, width ${width}, dpr ${dpr}: ${JSON.stringify(size)}`;
        assert.ok(size.gutter + size.side + size.overhang <= width + 1e-6, said);
        const dot = (size.side * dpr) / size.m;
        assert.ok(Math.abs(dot - Math.round(dot)) < 1e-6 && dot >= 1 - 1e-6, said);
        assert.equal(size.m, Math.ceil(n / size.q), said);
        assert.ok(Math.abs(size.cell * size.q * dpr - dot) < 1e-6, said);
        assert.ok(size.side <= Math.max(720, 30) + 1e-6, said);
        for (const i of labelled(size)) {
          assert.ok(size.gutter >= 20 + (i % 40), said);
          assert.ok((i + 1) * size.cell + 10 + (i % 60) <= size.side + size.overhang + 1e-6, said);
        }
      }
    }
  }
});

test("without any room it is still a picture", () => {
  const size = layout(40, { width: 0, ...label });
  assert.ok(size.side > 0 && Number.isFinite(size.cell));
});

test("keys move within the half that can be seen", () => {
  const at = { row: 5, column: 3 };
  assert.deepEqual(cellAfterKey("ArrowUp", at, 20), { row: 4, column: 3 });
  assert.deepEqual(cellAfterKey("ArrowDown", at, 20), { row: 6, column: 3 });
  assert.deepEqual(cellAfterKey("ArrowLeft", at, 20), { row: 5, column: 2 });
  assert.deepEqual(cellAfterKey("ArrowRight", at, 20), { row: 5, column: 4 });
  assert.deepEqual(cellAfterKey("Home", at, 20), { row: 5, column: 0 });
  assert.deepEqual(cellAfterKey("End", at, 20), { row: 5, column: 5 });
  assert.deepEqual(cellAfterKey("PageDown", at, 20), { row: 15, column: 3 });
  assert.deepEqual(cellAfterKey("PageUp", at, 20), { row: 0, column: 0 });
  assert.deepEqual(cellAfterKey("ArrowRight", { row: 5, column: 5 }, 20), { row: 5, column: 5 });
  assert.deepEqual(cellAfterKey("ArrowUp", { row: 5, column: 5 }, 20), { row: 4, column: 4 });
  assert.deepEqual(cellAfterKey("ArrowDown", { row: 0, column: 0 }, 1), { row: 0, column: 0 });
  assert.equal(cellAfterKey("a", at, 20), null);
  assert.equal(cellAfterKey("toString", at, 20), null);
});

test("heads of a group share keys", () => {
  assert.deepEqual(sharing(3, 9, 3), [4, 5]);
  assert.equal(saySharing(3, 9, 3), "shares keys with heads 4, 5");
  assert.equal(saySharing(8, 9, 3), "shares keys with heads 6, 7");
  assert.equal(saySharing(1, 4, 2), "shares keys with head 0");
  assert.equal(saySharing(0, 8, 8), "");
  assert.equal(saySharing(40, 71, 1), "shares keys with all other heads");
  assert.equal(saySharing(0, 8, 0), "");
});

test("weights are said exactly, or with as many digits as a code is good for", () => {
  assert.equal(exactWeight(0.41324), "0.4132");
  assert.equal(exactWeight(1), "1.0000");
  assert.equal(exactWeight(0), "exactly 0");
  assert.equal(exactWeight(3.2e-7), "3.2 · 10⁻⁷");
  assert.equal(exactWeight(1e-12), "1.0 · 10⁻¹²");
  assert.equal(exactWeight(null), "not a number");
  assert.equal(aboutWeight(CODES, 163), "about 0.41");
  assert.equal(aboutWeight(CODES, 0), "exactly 0");
  assert.equal(aboutWeight(CODES, 1), "under 0.0001");
  assert.equal(aboutWeight(CODES, NOT_A_NUMBER), "not a number");
  for (let code = 2; code <= LEVELS; code += 1) {
    const said = Number(aboutWeight(CODES, code).replace(/^(about|under) /u, ""));
    const half = (code + 0.5) ** 2 / LEVELS ** 2 - weightOf(code);
    assert.ok(Math.abs(said - weightOf(code)) <= Math.max(1.5 * half, 0.05 * weightOf(code), 0.00005), `${code}: ${aboutWeight(CODES, code)}`);
  }
});

test("OKLCH gives the colours it is known to give", () => {
  assert.deepEqual(fromOklch(1, 0, 0), [255, 255, 255]);
  assert.deepEqual(fromOklch(0, 0, 0), [0, 0, 0]);
  const close = (got, want) => got.forEach((v, i) => assert.ok(Math.abs(v - want[i]) <= 1, `${got} for ${want}`));
  close(fromOklch(0.62796, 0.25768, 29.234), [255, 0, 0]);
  close(fromOklch(0.45201, 0.31321, 264.052), [0, 0, 255]);
});

function oklab([red, green, blue]) {
  const [r, g, b] = [red, green, blue].map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
  const l = Math.cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b);
  const m = Math.cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b);
  const s = Math.cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b);
  return [
    0.2104542553 * l + 0.793617785 * m - 0.0040720468 * s,
    1.9779984951 * l - 2.428592205 * m + 0.4505937099 * s,
    0.0259040371 * l + 0.7827717662 * m - 0.808675766 * s,
  ];
}

test("the colour map is even: lightness runs in equal steps, from the paper's side to the ink's", () => {
  for (const dark of [false, true]) {
    const labs = Array.from({ length: 21 }, (_, i) => oklab(colour(i / 20, dark)));
    const steps = labs.slice(1).map((lab, i) => lab[0] - labs[i][0]);
    assert.ok(steps.every((step) => step > 0 === dark), "always lighter or always darker");
    const mean = steps.reduce((a, b) => a + b) / steps.length;
    for (const step of steps) assert.ok(Math.abs(step / mean - 1) < 0.2, `${dark ? "dark" : "light"}: ${steps}`);
    const apart = labs.slice(1).map((lab, i) => Math.hypot(...lab.map((v, k) => v - labs[i][k])));
    assert.ok(Math.max(...apart) / Math.min(...apart) < 1.6, `${dark ? "dark" : "light"}: ${apart}`);
  }
});

test("zero leaves the paper clear, every other code is opaque and apart from the paper", () => {
  for (const dark of [false, true]) {
    for (const scale of Object.keys(SCALES)) {
      const table = palette(CODES, dark, scale);
      assert.equal(table.length, 1024);
      assert.deepEqual([...table.slice(0, 4)], [0, 0, 0, 0]);
      for (let code = 1; code < 256; code += 1) assert.equal(table[4 * code + 3], 255);
      const paper = oklab(dark ? [0x15, 0x18, 0x1b] : [255, 255, 255]);
      const first = oklab([...table.slice(4, 7)]);
      assert.ok(Math.hypot(...first.map((v, i) => v - paper[i])) > 0.03, "the seen half is told from the masked one");
    }
  }
});

test("on every scale a stronger weight is never nearer the paper, and NaN has a colour of its own", () => {
  for (const dark of [false, true]) {
    for (const scale of Object.keys(SCALES)) {
      const table = palette(CODES, dark, scale);
      const of = (code) => [...table.slice(4 * code, 4 * code + 3)];
      const light = Array.from({ length: LEVELS }, (_, i) => oklab(of(i + 1))[0]);
      // bytes are rounded: two neighbours may differ by less than a byte in the wrong direction
      light.slice(1).forEach((now, i) => assert.ok(dark ? now > light[i] - 0.004 : now < light[i] + 0.004, `${dark} ${scale} ${i}`));
      const [low, high] = [light[0], light.at(-1)];
      assert.ok(dark ? high - low > 0.6 : low - high > 0.6, `${dark} ${scale}`);
      const broken = oklab(of(NOT_A_NUMBER));
      for (let code = 1; code <= LEVELS; code += 1) {
        const apart = Math.hypot(...oklab(of(code)).map((v, i) => v - broken[i]));
        assert.ok(apart > 0.12, `${dark} ${scale} ${code}: ${apart}`);
      }
    }
  }
  assert.notDeepEqual([...palette(CODES, false, "log")], [...palette(CODES, false, "linear")]);
});

test("letters on a shade are light where the shade is dark", () => {
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  for (const dark of [false, true]) {
    for (let i = 0; i <= 50; i += 1) {
      const rgb = colour(i / 50, dark);
      const letters = luminance(needsLight(rgb) ? [255, 255, 255] : [0, 0, 0]);
      const paper = luminance(rgb);
      const contrast = (Math.max(letters, paper) + 0.05) / (Math.min(letters, paper) + 0.05);
      assert.ok(contrast >= 4.5, `${dark} ${i}: ${contrast}`);
    }
  }
});

// the map -------------------------------------------------------------------------------------------------------------

/** A part as Python writes it. */
function part({ aside = 0, side, rows, first, measures, thumbnails }) {
  const count = thumbnails.length / measures[0].heads;
  const bytes = new Uint8Array(20 + 4 * measures.reduce((sum, m) => sum + m.values.length, 0) + thumbnails.length * packedBytes(side) + 3);
  const data = new DataView(bytes.buffer, 3); // not at the buffer's beginning: messages come like that
  [aside, side, rows, first, count].forEach((value, i) => data.setInt32(4 * i, value, true));
  let at = 20;
  for (const { values } of measures) for (const value of values) { data.setFloat32(at, value, true); at += 4; }
  for (const codes of thumbnails) { bytes.set(codes, 3 + at); at += codes.length; }
  return data;
}

test("the map's parts are put where they belong, in any order, those of another kind left out", () => {
  const thumbnail = (seed) => packed(2, (row, column) => seed * 10 + row + column);
  const two = part({ side: 2, rows: 7, first: 1, measures: [{ heads: 2, values: [0.5, NaN, 0.25, 1] }, { heads: 2, values: [5, 6, 7, 8] }], thumbnails: [2, 3, 4, 5].map(thumbnail) });
  const other = part({ aside: 1, side: 2, rows: 7, first: 0, measures: [{ heads: 2, values: [9, 9] }, { heads: 2, values: [9, 9] }], thumbnails: [0, 1].map(thumbnail) });
  const shape = { layers: 3, heads: 2, names: ["a", "b"], aside: false };
  const map = decodeMap([two, other, undefined, new DataView(new ArrayBuffer(0))], shape);
  assert.equal(map.done, 2);
  assert.deepEqual([map.side, map.rows], [2, 7]);
  assert.deepEqual([...map.measures.get("a")], [NaN, NaN, 0.5, NaN, 0.25, 1]);
  assert.deepEqual([...map.measures.get("b")], [NaN, NaN, 5, 6, 7, 8]);
  assert.deepEqual([...map.thumbnails.keys()], [2, 3, 4, 5]);
  assert.deepEqual([...map.thumbnails.get(4)], [...thumbnail(4)]);
  const aside = decodeMap([two, other], { ...shape, aside: true });
  assert.equal(aside.done, 1);
  assert.deepEqual([...aside.measures.get("a")].slice(0, 2), [9, 9]);
  assert.deepEqual([...aside.thumbnails.keys()], [0, 1]);
});

test("heads are in their places, or the highest first and those without a value last", () => {
  const values = Float32Array.of(0.2, NaN, 0.9, 0.2, -1);
  assert.deepEqual(arranged(5, "layers", values), [0, 1, 2, 3, 4]);
  assert.deepEqual(arranged(5, "highest", values), [2, 0, 3, 4, 1]);
  assert.deepEqual(arranged(3, "highest", undefined), [0, 1, 2]);
});

test("every thumbnail is hit by its own middle and its corners, and none outside", () => {
  for (const shape of [
    { layers: 30, heads: 9, kvHeads: 3 }, { layers: 2, heads: 4, kvHeads: 2 }, { layers: 1, heads: 1, kvHeads: 1 },
    { layers: 26, heads: 32, kvHeads: 8 }, { layers: 12, heads: 12, kvHeads: 12 }, { layers: 3, heads: 71, kvHeads: 1 },
  ]) {
    for (const width of [180, 330, 900]) {
      for (const order of ["layers", "highest"]) {
        const map = mapLayout({ ...shape, width, order });
        const said = JSON.stringify({ ...shape, width, order });
        assert.equal(map.rows * map.columns, shape.layers * shape.heads, said);
        for (let slot = 0; slot < map.rows * map.columns; slot += 1) {
          const x = map.x(slot % map.columns);
          const y = Math.floor(slot / map.columns) * map.rowPitch;
          assert.equal(slotAt(map, x + map.size / 2, y + map.size / 2), slot, said);
          for (const [dx, dy] of [[0.01, 0.01], [map.size - 0.01, map.size - 0.01]]) assert.equal(slotAt(map, x + dx, y + dy), slot, said);
        }
        assert.equal(slotAt(map, -0.5, 1), null);
        assert.equal(slotAt(map, 1, -0.5), null);
        assert.equal(slotAt(map, 1, map.height + 0.5), null);
        assert.equal(slotAt(map, map.width + map.pitch, 1), null);
        if (map.pitch > 7) assert.ok(map.width <= width, `${said}: ${map.width}`);
      }
    }
  }
});

test("heads that share keys stand together, but not where they are sorted", () => {
  const map = mapLayout({ layers: 2, heads: 9, kvHeads: 3, width: 600, order: "layers" });
  const steps = Array.from({ length: 8 }, (_, i) => map.x(i + 1) - map.x(i));
  assert.deepEqual(steps.map((step) => step > map.pitch), [false, false, true, false, false, true, false, false]);
  assert.equal(slotAt(map, map.x(3) - 1, 3), null, "the gap between groups is no head");
  for (const even of [
    mapLayout({ layers: 2, heads: 9, kvHeads: 3, width: 600, order: "highest" }),
    mapLayout({ layers: 2, heads: 9, kvHeads: 9, width: 600, order: "layers" }),
    mapLayout({ layers: 2, heads: 9, kvHeads: 1, width: 600, order: "layers" }),
  ]) {
    for (let i = 0; i < 8; i += 1) assert.equal(even.x(i + 1) - even.x(i), even.pitch);
  }
});

test("keys move over the map and stay on it", () => {
  const map = { columns: 4, rows: 12 };
  const moves = { ArrowUp: 18, ArrowDown: 26, ArrowLeft: 21, ArrowRight: 23, PageUp: 2, PageDown: 42, Home: 20, End: 23 };
  for (const [key, to] of Object.entries(moves)) assert.equal(slotAfterKey(key, 22, map), to, key);
  for (const key of ["ArrowUp", "ArrowLeft", "PageUp", "Home"]) assert.equal(slotAfterKey(key, 0, map), 0);
  for (const key of ["ArrowDown", "ArrowRight", "PageDown", "End"]) assert.equal(slotAfterKey(key, 47, map), 47);
  assert.equal(slotAfterKey("x", 22, map), null);
  assert.equal(slotAfterKey("constructor", 22, map), null);
});

test("measures are said with their units", () => {
  assert.equal(sayMeasure(0.5, "share"), "50 %");
  assert.equal(sayMeasure(0.051, "share"), "5.1 %");
  assert.equal(sayMeasure(0, "share"), "0.0 %");
  assert.equal(sayMeasure(1.23456, "nats"), "1.23 nats");
  assert.equal(sayMeasure(12.345, "tokens"), "12.35 tokens".replace("12.35", (12.345).toFixed(2)));
  assert.equal(sayMeasure(412.6, "tokens"), "413 tokens");
  assert.equal(sayMeasure(-0.0123, ""), "−0.012");
  assert.equal(sayMeasure(NaN, "share"), "not defined here");
  assert.equal(sayMeasure(undefined, "nats"), "not defined here");
});

// lines and the first token -------------------------------------------------------------------------------------------

test("a line out of a pattern is its row, or its column", () => {
  const codes = packed(5, (row, column) => 10 * row + column + 1);
  assert.deepEqual([...lineOf(codes, 5, 3, false)], [31, 32, 33, 34, 0]);
  assert.deepEqual([...lineOf(codes, 5, 3, true)], [0, 0, 0, 34, 44]);
});

test("a mean is that of the weights, not of their roots", () => {
  assert.deepEqual([...meanLine(CODES, [Uint8Array.of(254, 0, 0), Uint8Array.of(0, 0, 254)])], [codeOf(0.5), 0, codeOf(0.5)]);
  assert.deepEqual([...meanLine(CODES, [Uint8Array.of(7, 0, 255)])], [7, 0, NOT_A_NUMBER]);
  assert.equal(meanLine(CODES, [Uint8Array.of(255), Uint8Array.of(3)])[0], NOT_A_NUMBER);
});

test("the strongest of a line, without zeros and what is no number", () => {
  assert.deepEqual(strongest(CODES, Uint8Array.of(0, 9, 255, 30, 9, 1), 3), [{ token: 3, code: 30 }, { token: 1, code: 9 }, { token: 4, code: 9 }]);
  assert.deepEqual(strongest(CODES, new Uint8Array(3), 3), []);
});

test("setting the first token aside scales the rest of each row to what it would be without it", () => {
  const weights = [[1], [0.75, 0.25], [0.5, 0.1, 0.4], [1, 0, 0, 0]];
  const codes = packed(4, (row, column) => codeOf(weights[row][column]));
  const found = setAside(CODES, codes, 4, weights.map((row) => 1 - row[0]));
  const expected = [[0], [0, 1], [0, 0.2, 0.8], [0, 0, 0, 0]];
  expected.forEach((row, i) =>
    row.forEach((weight, j) => {
      const code = codeAt(found, i, j);
      if (weight === 0) assert.equal(code, 0);
      // half a level of the code, and half a level of what it was made from, which the division stretched
      else assert.ok(Math.abs(code / LEVELS - Math.sqrt(weight)) <= (0.5 + 0.5 / Math.sqrt(1 - weights[i][0])) / LEVELS, `${i} ${j}`);
    }),
  );
  const broken = packed(2, () => NOT_A_NUMBER);
  assert.deepEqual([...setAside(CODES, broken, 2, [NaN, NaN])], [255, 255, 255]);
});

test("shares in a sentence have no more digits than can be read", () => {
  const expected = [
    [0, "0 %"], [4.6e-7, "under 0.1 %"], [0.0009, "under 0.1 %"], [0.001, "0.1 %"], [0.0064, "0.6 %"], [0.01, "1 %"],
    [0.182, "18 %"], [0.99, "99 %"], [0.9912, "99.1 %"], [0.999, "99.9 %"], [0.99951, "over 99.9 %"],
    [1 - 1e-9, "over 99.9 %"], [1, "100 %"], [-1e-9, "0 %"], [NaN, "unknown"],
  ];
  for (const [share, text] of expected) assert.equal(roughPercent(share), text);
});

test("the notes of a head that looks at the first token alone", () => {
  const summary = { first: 0.9999991, self: 4.6e-7, others: 0.5e-7, broken_rows: 0, lowest_sum: null, layer: 1, head: 2 };
  const [shares] = headNotes(summary, { tokens: 12, pool: 1, chosen: null });
  assert.ok(shares.startsWith(
    "On average over 99.9 % of a token's attention goes to the first token, under 0.1 % to itself, under 0.1 % to the others.",
  ));
});
