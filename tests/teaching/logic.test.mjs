import assert from "node:assert/strict";
import { test } from "node:test";

import { nextStep, paragraphs, sayState, stateKind } from "../../labkit/teaching/card/logic.js";
import { along, axis, boundsProblem, nearest, parseNumber, say, shownLabels, stroke, ticks } from "../../labkit/teaching/prediction/logic.js";

test("task text becomes paragraphs with code", () => {
  assert.deepEqual(paragraphs("a `b` c\n\n`d`"), [
    [{ code: false, text: "a " }, { code: true, text: "b" }, { code: false, text: " c" }],
    [{ code: true, text: "d" }],
  ]);
});

test("hints come before the solution", () => {
  assert.equal(nextStep(0, 2, false).label, "Show a hint");
  assert.equal(nextStep(1, 2, true).kind, "hint");
  assert.equal(nextStep(2, 2, false).kind, "solution");
  assert.equal(nextStep(2, 2, true), null);
});

test("states in words", () => {
  const state = (more) => ({ tried: 0, solved: false, unaided: false, solution_seen: false, ...more });
  assert.equal(sayState(state({})), "not tried yet");
  assert.equal(sayState(state({ tried: 2 })), "tried, not solved yet");
  assert.equal(sayState(state({ tried: 2, solution_seen: true })), "solution seen");
  assert.equal(sayState(state({ solved: true })), "solved, with the solution seen");
  assert.equal(sayState(state({ solved: true, unaided: true })), "solved");
  assert.equal(stateKind(state({ tried: 1 })), "open");
});

test("numbers as they are typed", () => {
  for (const [text, value] of [["12", 12], [" −2 ", -2], ["0,5", 0.5], ["1,000", 1000], ["1,234,567.5", 1234567.5], ["1.5e3", 1500], ["40 %", 40], [".5", 0.5]]) {
    assert.equal(parseNumber(text, "%"), value, text);
  }
  for (const text of ["", "many", "1 2", "0x10", "Infinity", "1e999", "--1", "%"]) assert.equal(parseNumber(text, "%"), null, text);
  assert.equal(boundsProblem(101, 0, 100), "At most 100 is asked for.");
  assert.equal(boundsProblem(-1, 0, null), "At least 0 is asked for.");
  assert.equal(boundsProblem(50, 0, 100), "");
  assert.deepEqual([12345, 0.00012, -3, 1234.5, 0, 0.00001].map(say), ["12,345", "0.00012", "−3", "1235", "0", "1.00e-5"]);
});

test("axes there and back", () => {
  for (const log of [false, true]) {
    const scale = axis(1, 1000, log);
    for (const value of [1, 10, 250, 1000]) assert.ok(Math.abs(scale.value(scale.share(value)) - value) < 0.01 * value);
    assert.equal(scale.value(-1), 1);
    assert.equal(scale.value(2), 1000);
  }
  assert.equal(axis(1, 100, true).share(10), 0.5);
  assert.deepEqual(ticks(0, 100, false), [0, 25, 50, 75, 100]);
  assert.deepEqual(ticks(0, 1, false), [0, 0.25, 0.5, 0.75, 1]);
  assert.deepEqual(ticks(1, 1000, true), [1, 10, 100, 1000]);
  assert.deepEqual(ticks(2, 5, true), [2, 5]);
});

test("a quick stroke leaves no point out", () => {
  const even = [0, 0.25, 0.5, 0.75, 1];
  assert.equal(nearest(0.24, even), 1);
  assert.equal(nearest(9, even), 4);
  assert.equal(nearest(0.4, [0, 0.1, 1]), 1);
  const passed = stroke({ place: 0, share: 0 }, { place: 1, share: 1 }, even);
  assert.deepEqual(passed, [{ index: 1, share: 0.25 }, { index: 2, share: 0.5 }, { index: 3, share: 0.75 }, { index: 4, share: 1 }]);
  assert.deepEqual(stroke({ place: 1, share: 1 }, { place: 0.5, share: 0 }, even).map((p) => p.index), [3, 2]);
  assert.deepEqual(stroke({ place: 0.5, share: 0.2 }, { place: 0.5, share: 0.3 }, even), [{ index: 2, share: 0.3 }]);
  assert.deepEqual(stroke({ place: 0, share: 0 }, { place: 1, share: 1 }, [0, 0.1, 1]).map((p) => p.share), [0.1, 1]);
});

test("x stand to scale, on a logarithmic axis where that is more even", () => {
  const tell = (x) => { const { places, scale } = along(x); return [scale, places.map((p) => Number(p.toFixed(4)))]; };
  assert.deepEqual(tell([0, 1, 2, 4]), ["", [0, 0.25, 0.5, 1]]);
  assert.deepEqual(tell([1, 2, 3, 5]), ["", [0, 0.25, 0.5, 1]]);
  assert.deepEqual(tell([512, 1024, 4096]), ["logarithmic", [0, 0.3333, 1]]);
  assert.deepEqual(tell([0, 1, 3, 15]), ["log(1 + x)", [0, 0.25, 0.5, 1]]);
  assert.deepEqual(tell([-4, 0, 1, 16]), ["", [0, 0.2, 0.25, 1]]);
  assert.deepEqual(tell([1, 100, 101]), ["", [0, 0.99, 1]]);
  assert.deepEqual(tell([3, 7]), ["", [0, 1]]);
  assert.deepEqual(shownLabels([0, 0.1, 0.2, 0.6, 1], 5), [true, false, false, true, true]);
  assert.deepEqual(shownLabels([0, 0.25, 0.5, 0.75, 1], 5), [true, true, true, true, true]);
});
