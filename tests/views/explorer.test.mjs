import assert from "node:assert/strict";
import { test } from "node:test";
import { ceiling, corners, decades, duration, reach, stacked, ticks } from "../../labkit/views/explorer_view/logic.js";

const roof = { peak: 1e14, bandwidth: 1e12, points: [{ phase: "token", intensity: 2, attained: 1e12, seconds: 0.02, bound: "bandwidth" }] };

test("below the ridge bandwidth bounds, above it the operations", () => {
  assert.deepEqual([1, 100, 1e4].map((x) => ceiling(x, roof)), [1e12, 1e14, 1e14]);
  assert.equal(ceiling(1e9, { ...roof, peak: null }), 1e21);
});

test("the axes hold the points, the ridge and the roof", () => {
  const { x, y } = reach(roof);
  assert.ok(x.low < 2 && x.high > 100);
  assert.ok(y.low < 1e12 * x.low * 1.01 && y.high > 1e14);
  assert.deepEqual(corners(roof, x).map(([at]) => at), [x.low, 100, x.high]);
  assert.equal(corners({ ...roof, peak: null }, x).length, 2);
});

test("parts of a bar stand side by side, and the memory ends where it ends", () => {
  const { parts, end } = stacked([60, 20], 100);
  assert.deepEqual(parts[0][1], parts[1][0]);
  assert.ok(Math.abs(end - 1 / 1.04) < 1e-12);
  assert.ok(parts[1][1] < end);
  assert.ok(stacked([60, 90], 100).end < stacked([60, 90], 100).parts[1][1]);
});

test("an axis of few decades has ticks between them", () => {
  assert.deepEqual(ticks(30, 600), [50, 100, 200, 500]);
  assert.deepEqual(ticks(3, 7), [5]);
  assert.deepEqual(ticks(1, 1000), [1, 10, 100, 1000]);
});

test("powers of ten and times are written short", () => {
  assert.deepEqual(decades(0.5, 1000), [1, 10, 100, 1000]);
  assert.deepEqual([2.5, 0.0389, 0.000139].map(duration), ["2.5 s", "38.9 ms", "139 µs"]);
});
