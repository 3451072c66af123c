import assert from "node:assert/strict";
import { test } from "node:test";
import {
  LEVELS,
  MARKS,
  NOT_A_NUMBER,
  aboutWeight,
  cellAfterKey,
  cellAt,
  cellBox,
  cellCount,
  codeAt,
  colour,
  dots,
  exactWeight,
  fromOklch,
  labelled,
  layout,
  middle,
  onScale,
  packedBytes,
  palette,
  saySharing,
  sharing,
  weightOf,
} from "../../labkit/views/attention_view/logic.js";

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

test("the scale places a weight where its code's colour is", () => {
  for (const code of [0, 1, 100, LEVELS]) assert.ok(Math.abs(onScale(weightOf(code)) - code / LEVELS) < 1e-12);
  assert.deepEqual(MARKS.map(onScale), [...MARKS.map(onScale)].sort((a, b) => a - b));
  assert.equal(onScale(2), 1);
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

test("every cell is hit in its middle, and nothing outside", () => {
  const n = 9;
  const codes = packed(n, () => 7);
  const size = layout(n, { width: 500, dpr: 1.5, ...label });
  for (let row = 0; row < n; row += 1) {
    for (let column = 0; column < n; column += 1) {
      assert.deepEqual(cellAt(size, codes, middle(size, column), middle(size, row)), { row, column });
      const box = cellBox(size, row, column);
      assert.deepEqual(cellAt(size, codes, box.x + 0.01, box.y + 0.01), { row, column });
    }
  }
  for (const [x, y] of [[-0.1, 5], [5, -0.1], [size.side, 5], [5, size.side], [NaN, 5]]) {
    assert.equal(cellAt(size, codes, x, y), null);
  }
});

test("of the cells under one dot the strongest is hit", () => {
  const n = 1001;
  const codes = packed(n, (row, column) => (row === 501 && column === 301 ? 200 : 3));
  const size = layout(n, { width: 700, dpr: 1, ...label });
  assert.ok(size.q > 1);
  const { q } = size;
  const x = (Math.floor(301 / q) + 0.5) * (size.side / size.m);
  const y = (Math.floor(501 / q) + 0.5) * (size.side / size.m);
  assert.deepEqual(cellAt(size, codes, x, y), { row: 501, column: 301 });
  const end = size.side - 0.01;
  assert.ok(cellAt(size, codes, end, end).row < n, "the last dot holds fewer cells");
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
  assert.equal(aboutWeight(163), "about 0.41");
  assert.equal(aboutWeight(0), "exactly 0");
  assert.equal(aboutWeight(1), "under 0.0001");
  assert.equal(aboutWeight(NOT_A_NUMBER), "not a number");
  for (let code = 2; code <= LEVELS; code += 1) {
    const said = Number(aboutWeight(code).replace(/^(about|under) /u, ""));
    const half = (code + 0.5) ** 2 / LEVELS ** 2 - weightOf(code);
    assert.ok(Math.abs(said - weightOf(code)) <= Math.max(1.5 * half, 0.05 * weightOf(code), 0.00005), `${code}: ${aboutWeight(code)}`);
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
    const table = palette(dark);
    assert.equal(table.length, 1024);
    assert.deepEqual([...table.slice(0, 4)], [0, 0, 0, 0]);
    for (let code = 1; code < 256; code += 1) assert.equal(table[4 * code + 3], 255);
    const paper = oklab(dark ? [0x15, 0x18, 0x1b] : [255, 255, 255]);
    const first = oklab([...table.slice(4, 7)]);
    assert.ok(Math.hypot(...first.map((v, i) => v - paper[i])) > 0.03, "the seen half is told from the masked one");
  }
});
