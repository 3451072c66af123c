import assert from "node:assert/strict";
import { test } from "node:test";
import { restWords } from "../../labkit/views/kit/progress.js";
import { depth, differWords, klWords, meaning, scaleAt, scaleWords } from "../../labkit/views/adapter_view/logic.js";
import { barOf, lookWords, lossWords, placeOf, readBars, rowFrom } from "../../labkit/views/mask_view/logic.js";
import { chartWords } from "../../labkit/views/training_view/logic.js";

test("a row's tokens belong to its samples in their order", () => {
  const row = { samples: [{ sample: 4, looks: [0, 1] }, { sample: 9, looks: [0, 0, 2] }] };
  assert.deepEqual([0, 1, 2, 4].map((i) => [placeOf(row, i).sample.sample, placeOf(row, i).position]), [[4, 0], [4, 1], [9, 0], [9, 2]]);
  assert.equal(placeOf(row, 5), null);
});

test("a bar of the overview stands for the rows up to the next", () => {
  const bars = readBars(Float32Array.from([0, 10, 4, 3, 12, 6, 7, 8, 8]));
  assert.deepEqual(bars[1], { row: 3, tokens: 12, trained: 6 });
  assert.deepEqual([0, 2, 3, 6, 7, 90].map((row) => barOf(bars, row)), [0, 0, 1, 1, 2, 2]);
});

test("what is typed is a row, or nothing", () => {
  assert.deepEqual(["0", " 4 ", "5", "-1", "1.5", "", "x"].map((text) => rowFrom(text, 5)), [0, 4, null, null, null, null, null]);
});

test("loss is counted in words", () => {
  assert.equal(lossWords(1, 4), "1 of 4 tokens carries loss (25.0 %)");
  assert.equal(lossWords(0, 0), "0 of 0 tokens carry loss");
  assert.equal(new Set([0, 1, 2].map(lookWords)).size, 3);
});

test("a slider's positions are scales, 0 and 1 among them exactly", () => {
  const at = (position) => scaleAt(position, 20, -1, 2);
  assert.deepEqual([-20, -7, 0, 1, 20, 40].map(at), [-1, -0.35, 0, 0.05, 1, 2]);
  assert.equal(scaleAt(-27, 20, -1.3333, 2), -1.3333, "an end between two positions");
  assert.deepEqual([-0.35, 0, 1.5].map(scaleWords), ["−0.35", "0", "1.5"]);
  assert.deepEqual([-1, 0, 0.5, 1, 1.1].map(meaning), ["taken away", "off", "in part", "as trained", "overdone"]);
});

test("the shade grows with the KL up to the top, and what can't be seen has none", () => {
  assert.deepEqual([0, 0.01, 0.1, 1, 2, 9, NaN].map((kl) => depth(kl, 2)), [0, 0, 3, 25, 50, 50, 0]);
  assert.deepEqual([0, 0.0004, 0.25].map(klWords), ["0.000", "less than 0.001", "0.250"]);
});

test("how two texts differ is said", () => {
  const side = (count, differ, done) => ({ count, differ, done });
  assert.equal(differWords({ base: side(5, [], true), tuned: null }), "");
  assert.equal(differWords({ base: side(5, [], true), tuned: side(5, [], true) }), "Both texts are the same.");
  assert.equal(differWords({ base: side(5, [], true), tuned: side(2, [], false) }), "The same so far: 2 tokens.");
  assert.equal(differWords({ base: side(5, [1], true), tuned: side(4, [1], true) }), "1 token of 4 with the adapters is not in the base's text.");
});

test("a chart is said by its lines' ends, and gaps are left out", () => {
  const lines = [{ name: "KL", points: [[0, 0], [5, 0.25], [10, NaN]] }, { name: "forgetting", points: [] }];
  assert.equal(chartWords({ title: "Beside the base", y: "nats a token" }, lines), "Line chart. Beside the base in nats a token: KL from 0 at step 0 to 0.250 at step 5");
  assert.equal(chartWords({ title: "Loss", y: "" }, []), "Line chart. Loss: nothing yet");
});

test("work that knows what is left is believed", () => {
  assert.equal(restWords({ done: 1, total: 100, heard: 10, left: 20 }, 10), "about 20 s left");
  assert.equal(restWords({ done: 1, total: 100, heard: 10, left: 20 }, 15), "about 15 s left");
  assert.equal(restWords({ done: 1, total: 100, heard: 10 }, 10), "about 17 minutes left");
});
