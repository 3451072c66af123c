import assert from "node:assert/strict";
import { test } from "node:test";
import { layout } from "../../labkit/views/attention_view/logic.js";
import {
  cellBox,
  cellUnder,
  crowd,
  isWhole,
  panned,
  revealing,
  ticks,
  tilesFor,
  unitOf,
  wholePlane,
  zoomed,
} from "../../labkit/views/attention_view/plane.js";

const TILE = 256;
const label = { rows: () => 60, columns: () => 50 };
const whole = { left: 0, top: 0, span: 100 };
const inside = ({ left, top, span }, all) => left >= 0 && top >= 0 && left + span <= all.span + 1e-9 && top + span <= all.span + 1e-9;

/** A generator of numbers of 0 to 1, the same in each run. */
function* chance(seed) {
  for (let state = seed; ; ) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    yield state / 2 ** 32;
  }
}

test("the whole plane has room for every token, in full dots", () => {
  for (const [tokens, pool] of [[1, 1], [12, 1], [1000, 1], [1500, 2], [4096, 4], [2500, 3]]) {
    const size = layout(Math.ceil(tokens / pool), { width: 700, ...label });
    const plane = wholePlane(size, pool);
    assert.ok(plane.span >= tokens && plane.span < tokens + pool * (size.q + 1));
    assert.ok(isWhole(plane, plane));
    assert.ok(!isWhole({ ...plane, span: plane.span / 2 }, plane) || plane.span === 0);
  }
});

test("zooming keeps the point that is zoomed at, stays on the plane and has its bounds", () => {
  const at = zoomed(whole, whole, 2, 0.25, 0.75);
  assert.deepEqual(at, { left: 12.5, top: 37.5, span: 50 });
  const numbers = chance(1);
  const next = () => numbers.next().value;
  let window = whole;
  for (let i = 0; i < 3000; i += 1) {
    const [factor, fx, fy] = [0.4 + 2 * next(), next(), next()];
    const before = { x: window.left + fx * window.span, y: window.top + fy * window.span };
    const after = zoomed(window, whole, factor, fx, fy);
    assert.ok(inside(after, whole), JSON.stringify(after));
    assert.ok(after.span >= 6 && after.span <= 100);
    if (factor > 1) {
      assert.ok(Math.abs(after.left + fx * after.span - before.x) < 1e-9, "closer, every point can stay");
      assert.ok(Math.abs(after.top + fy * after.span - before.y) < 1e-9);
    }
    window = i % 50 === 0 ? whole : after;
  }
  assert.equal(zoomed(whole, whole, 1e9).span, 6);
  assert.deepEqual(zoomed(zoomed(whole, whole, 3, 0.9, 0.9), whole, 1e9 ** -1), whole);
  const tiny = { left: 0, top: 0, span: 3 };
  assert.deepEqual(zoomed(tiny, tiny, 5), tiny, "three tokens are all there is");
});

test("panning moves by tokens and stops at the edges", () => {
  const window = { left: 10, top: 20, span: 30 };
  assert.deepEqual(panned(window, whole, 5, -5), { left: 15, top: 15, span: 30 });
  assert.deepEqual(panned(window, whole, -500, 500), { left: 0, top: 70, span: 30 });
});

test("a window moves as little as it takes to show a cell", () => {
  const window = { left: 10, top: 20, span: 30 };
  assert.deepEqual(revealing(window, whole, { row: 30, column: 20 }, 1), window, "it is seen already");
  assert.deepEqual(revealing(window, whole, { row: 60, column: 5 }, 1), { left: 5, top: 31, span: 30 });
  for (const unit of [1, 4]) {
    for (let row = 0; row < 100; row += unit) {
      for (let column = 0; column <= row; column += unit) {
        const { left, top, span } = revealing(window, whole, { row, column }, unit);
        assert.ok(left <= column && column + unit <= left + span && top <= row && row + unit <= top + span, `${row} ${column} ${unit}`);
      }
    }
  }
});

test("cells are the finest that have a device pixel of their own", () => {
  const window = (span) => ({ left: 0, top: 0, span });
  assert.equal(unitOf(window(4096), 4, 600), 4);
  assert.equal(unitOf(window(1201), 4, 600), 4);
  assert.equal(unitOf(window(1200), 4, 600), 2);
  assert.equal(unitOf(window(601), 4, 600), 2);
  assert.equal(unitOf(window(600), 4, 600), 1);
  assert.equal(unitOf(window(2500), 3, 600), 3);
  assert.equal(unitOf(window(1100), 3, 600), 2);
  assert.equal(unitOf(window(50), 1, 600), 1);
  assert.equal(unitOf(window(10_000), 1, 600), 1, "a text of at most 1,024 tokens is never pooled");
  assert.equal(crowd(window(600), 1, 600), 1);
  assert.equal(crowd(window(601), 1, 600), 2);
  assert.equal(crowd(window(2400), 2, 600), 2);
});

test("every cell is hit where it is drawn, also zoomed in and pooled", () => {
  for (const [tokens, unit, window] of [
    [9, 1, { left: 0, top: 0, span: 9 }],
    [40, 1, { left: 3.7, top: 12.2, span: 11.5 }],
    [40, 4, { left: 8, top: 16, span: 20 }],
    [41, 4, { left: 0, top: 0, span: 44 }],
  ]) {
    const side = 371;
    for (let row = 0; row < tokens; row += unit) {
      for (let column = 0; column <= row; column += unit) {
        const { x, y, size } = cellBox(window, side, { row, column }, unit);
        for (const share of [0.02, 0.5, 0.98]) {
          const [px, py] = [x + share * size, y + share * size];
          const inView = px >= 0 && py >= 0 && px < side && py < side;
          assert.deepEqual(cellUnder(window, side, tokens, unit, 1, () => 7, px, py), inView ? { row, column } : null);
        }
      }
    }
  }
});

test("outside the picture there is no cell; past the last token it is the last", () => {
  const window = { left: 0, top: 0, span: 12 };
  for (const [x, y] of [[-0.1, 5], [5, -0.1], [120, 5], [5, 120], [NaN, 5]]) {
    assert.equal(cellUnder(window, 120, 10, 1, 1, () => 1, x, y), null);
  }
  assert.deepEqual(cellUnder(window, 120, 10, 1, 1, () => 1, 119, 119), { row: 9, column: 9 });
});

test("of the cells under one dot the strongest is hit", () => {
  const codes = (row, column) => (row === 501 && column === 301 ? 200 : 3);
  const window = { left: 0, top: 0, span: 1002 };
  const side = 501;
  assert.deepEqual(cellUnder(window, side, 1001, 1, 2, codes, 150.5, 250.5), { row: 501, column: 301 });
  const pooled = (row, column) => (row === 504 && column === 300 ? 200 : 3);
  assert.deepEqual(cellUnder({ left: 0, top: 0, span: 4096 }, 512, 4096, 4, 2, pooled, 37.9, 63.1), { row: 504, column: 300 });
  assert.ok(cellUnder(window, side, 1001, 1, 2, codes, 500.99, 500.99).row < 1001, "the last dot holds fewer cells");
});

test("labels stand on tokens that are seen, with room between them", () => {
  for (const [start, span, tokens, unit] of [[0, 12, 12, 1], [3.5, 40, 256, 1], [700, 80, 1024, 1], [0, 1024, 1024, 1], [16, 800, 4096, 2], [0, 4096, 4096, 4]]) {
    const window = { left: start, top: start, span };
    const found = ticks(start, window, 560, tokens, unit);
    const said = `${start} ${span} ${unit}: ${found}`;
    assert.ok(found.length >= 5, said);
    for (const token of found) {
      assert.ok(token < tokens && token % unit === 0, said);
      const middle = ((token + unit / 2 - start) * 560) / span;
      assert.ok(middle >= 0 && middle <= 560, said);
    }
    const gaps = found.slice(1).map((token, i) => ((token - found[i]) * 560) / span);
    for (const gap of gaps) assert.ok(gap >= 11 && Math.abs(gap - gaps[0]) < 1e-6, said);
  }
  assert.deepEqual(ticks(0, { left: 0, top: 0, span: 10 }, 300, 4, 1).map(Math.abs), [0, 1, 2, 3], "none past the text's end");
});

test("the tiles of a window are those it touches, of the half that is seen", () => {
  assert.deepEqual(tilesFor({ left: 0, top: 0, span: 256 }, 4096, TILE), [{ row: 0, column: 0 }]);
  assert.deepEqual(tilesFor({ left: 0, top: 300, span: 300 }, 4096, TILE), [
    { row: 1, column: 0 }, { row: 1, column: 1 }, { row: 2, column: 0 }, { row: 2, column: 1 },
  ]);
  assert.deepEqual(tilesFor({ left: 600, top: 0, span: 100 }, 4096, TILE), [], "nothing looks there");
  assert.deepEqual(tilesFor({ left: 0, top: 3900, span: 300 }, 4000, TILE).map(({ row }) => row), [15, 15], "none past the end");
  const numbers = chance(3);
  for (let i = 0; i < 200; i += 1) {
    const [left, top, span] = Array.from({ length: 3 }, () => Math.floor(1500 * numbers.next().value));
    const unit = [1, 2, 4][i % 3];
    const found = tilesFor({ left, top, span: span + 6 }, 4096, TILE * unit).map(({ row, column }) => `${row} ${column}`);
    const wanted = new Set();
    for (let row = top; row < Math.min(4096, top + span + 6); row += 37) {
      for (let column = left; column <= Math.min(row, left + span + 5); column += 37) {
        wanted.add(`${Math.floor(row / (TILE * unit))} ${Math.floor(column / (TILE * unit))}`);
      }
    }
    for (const each of wanted) assert.ok(found.includes(each), `${left} ${top} ${span} ${unit}: ${each}`);
  }
});
