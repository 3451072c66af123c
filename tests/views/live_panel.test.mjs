import assert from "node:assert/strict";
import { test } from "node:test";
import { axis, extent, linePath, readLines, share, spread, tickText } from "../../labkit/views/kit/plot.js";
import { announcement, doneShare, duration, farWords, progressWords, restWords } from "../../labkit/views/kit/progress.js";
import { chartWords } from "../../labkit/views/live_panel/logic.js";

function doubles(...values) {
  const view = new DataView(new ArrayBuffer(8 * values.length));
  values.forEach((value, i) => view.setFloat64(8 * i, value, true));
  return view;
}

test("lines are read one after the other, and no further than the bytes go", () => {
  const series = [{ name: "a", n: 2 }, { name: "b", n: 1 }];
  assert.deepEqual(readLines(series, doubles(1, 2, 3, 4, 5, 6)), [
    { name: "a", points: [[1, 2], [3, 4]] },
    { name: "b", points: [[5, 6]] },
  ]);
  assert.deepEqual(readLines(series, doubles(1, 2))[1].points, []);
});

test("extent leaves gaps out", () => {
  const lines = [{ points: [[1, 5], [NaN, NaN]] }, { points: [[3, -2]] }];
  assert.deepEqual(extent(lines, 0), [1, 3]);
  assert.deepEqual(extent(lines, 1), [-2, 5]);
  assert.equal(extent([{ points: [[NaN, NaN]] }], 1), null);
});

test("an axis has round ticks inside its range", () => {
  assert.deepEqual(axis([0, 10], 5).ticks, [0, 2, 4, 6, 8, 10]);
  assert.deepEqual(axis([3, 9], 3, { zero: true }).ticks, [0, 5]);
  assert.deepEqual(axis([1, 3], 8, { whole: true }).ticks, [1, 2, 3]);
  for (const range of [[0.1, 0.7], [-5, 5], [1e-9, 3e-9], [-1e300, 1e300], [-1.7e308, 1.7e308], [1e6, 1e6 + 3]]) {
    const { low, high, ticks } = axis(range, 4);
    assert.ok(ticks.length >= 2 && ticks.length <= 10, `${range}: ${ticks}`);
    for (const tick of ticks) assert.ok(tick >= low - (high / 1e6 - low / 1e6) && tick <= high + (high / 1e6 - low / 1e6));
  }
});

test("a range of nothing is widened", () => {
  for (const value of [0, 5, -3, 1e12]) {
    const made = axis([value, value], 4);
    assert.ok(made.low < value && made.high > value);
    assert.ok(Math.abs(share(value, made) - 0.5) < 1e-9);
  }
  assert.equal(axis([0, 0], 4, { zero: true }).low, 0);
});

test("a share of a range as wide as numbers go stays a number", () => {
  assert.equal(share(0, { low: -1.7e308, high: 1.7e308 }), 0.5);
});

test("ticks say no more digits than their step", () => {
  assert.equal(tickText(0.5, 0.5), "0.5");
  assert.equal(tickText(2, 1), "2");
  assert.equal(tickText(-0.25, 0.05), "−0.25");
  assert.equal(tickText(2e6, 1e6), "2e6");
  assert.equal(tickText(0, 1e6), "0");
});

test("a gap lifts the pen, a point alone is a dot", () => {
  assert.equal(linePath([[0, 0], [1, 1], [NaN, NaN], [3, 3]]), "M0.0 0.0L1.0 1.0M3.0 3.0h0");
  assert.equal(linePath([[NaN, NaN]]), "");
});

test("labels keep their distance and their order", () => {
  assert.deepEqual(spread([10, 11, 50], 14, 0, 100), [10, 24, 50]);
  assert.deepEqual(spread([98, 99], 14, 0, 100), [86, 100]);
  assert.deepEqual(spread([50, 20], 14, 0, 100), [50, 20]);
});

test("durations are said as a person would", () => {
  const said = [0, 4.13, 41.2, 200, 240, 7500, 7200].map(duration);
  assert.deepEqual(said, ["0.0 s", "4.1 s", "41 s", "3 min 20 s", "4 min", "2 h 5 min", "2 h"]);
});

test("what is left follows from the pace so far", () => {
  const at = (done, heard, now = heard) => restWords({ done, total: 100, heard }, now);
  assert.equal(at(50, 20), "about 20 s left");
  assert.equal(at(10, 20), "about 3 minutes left");
  assert.equal(at(50, 60), "about a minute left");
  assert.equal(at(1, 200), "about 6 hours left");
  assert.equal(at(50, 5), "a few seconds left");
  assert.equal(at(50, 5, 9), "a moment left");
  assert.equal(at(50, 5, 30), "longer than expected");
  for (const status of [{ done: 0, total: 10, heard: 1 }, { done: null, total: 10, heard: 1 }, { done: 5, total: null, heard: 1 }, { done: 9, total: 9, heard: 1 }]) {
    assert.equal(restWords(status, 1), "");
  }
});

test("progress is said in one line", () => {
  const running = { begun: true, state: "running", stopping: false, done: 1034, total: 2700, heard: 10 };
  assert.equal(progressWords(running, 10), "1,034 of 2,700 · 10 s · about 15 s left");
  assert.equal(progressWords({ ...running, stopping: true }, 10), "1,034 of 2,700 · 10 s · stopping …");
  assert.equal(progressWords({ ...running, done: null }, 10), "10 s");
  assert.equal(farWords({ done: 3, total: null }), "3 done");
  const stopped = { ...running, state: "stopped", message: "stopped after 3 of 9; what was done is kept" };
  assert.equal(progressWords(stopped, 2), "stopped after 3 of 9; what was done is kept · 2.0 s");
  assert.equal(progressWords({ begun: false }, 0), "not started");
});

test("a share is known only with a total", () => {
  assert.equal(doneShare({ done: 3, total: 6 }), 0.5);
  assert.equal(doneShare({ done: 7, total: 6 }), 1);
  assert.equal(doneShare({ done: 0, total: 0 }), null);
  assert.equal(doneShare({ done: 3, total: null }), null);
});

test("a screen reader hears quarters and the end, not every event", () => {
  const heard = [];
  let key = null;
  const say = (status) => {
    const next = announcement({ state: "running", stopping: false, total: 100, message: "", ...status }, key);
    key = next.heard;
    if (next.text !== null) heard.push(next.text);
  };
  for (let done = 1; done <= 60; done += 1) say({ done });
  say({ done: 60, stopping: true });
  say({ done: 60, state: "stopped", message: "stopped after 60 of 100" });
  say({ done: 60, state: "stopped", message: "stopped after 60 of 100" });
  assert.deepEqual(heard, ["running: 1 of 100", "running: 25 of 100", "running: 50 of 100", "stopping", "stopped after 60 of 100"]);
});

test("the chart is told in words", () => {
  const words = chartWords([{}, {}], { chart: "line", x: "step", y: "loss", unit: "nats" }, { values: [["a", "1"], ["b", "not a number"]], pooled: true });
  assert.equal(words, "Line chart of loss in nats against step: latest a 1, b not a number; drawn in stretches");
  assert.equal(chartWords([], { chart: "bars", x: "", y: "", unit: "" }, { values: [] }), "Bar chart of values: nothing yet");
});
