import assert from "node:assert/strict";
import { test } from "node:test";
import { decodeMarks, candidates } from "../../labkit/views/tokens_view/logic.js";
import { partedAt, rowTarget, treeRows } from "../../labkit/views/tree_view/logic.js";

const node = (parent, at) => ({ parent, at });
// 0 ── 2 (at 1) ── 3
//   └─ 1 (at 4)
const rows = treeRows([node(-1, 0), node(0, 4), node(0, 1), node(2, 5)]);

test("each text is followed by its branches, the earliest first", () => {
  assert.deepEqual(rows.map(({ number, level, last }) => [number, level, last]), [[0, 1, true], [2, 2, false], [3, 3, true], [1, 2, true]]);
});

test("keys walk the tree: left to the parent, right to the first branch", () => {
  const from = (row, key) => rowTarget(key, row, rows);
  assert.deepEqual(["ArrowDown", "ArrowUp", "ArrowLeft", "ArrowRight", "Home", "End"].map((key) => from(1, key)), [2, 0, 0, 2, 0, 3]);
  assert.deepEqual([from(3, "ArrowLeft"), from(3, "ArrowRight"), from(3, "ArrowDown"), from(0, "ArrowLeft")], [0, 3, 3, 0]);
  assert.equal(from(0, "x"), null);
  assert.equal(rowTarget("Home", 0, []), null);
});

test("texts part at the first token in which they differ, or where one ends", () => {
  assert.deepEqual([partedAt(["a", "b"], ["a", "c"]), partedAt(["a"], ["a", "b"]), partedAt(["a"], ["a"])], [1, 1, null]);
});

test("marks are read from their bytes, and are none without a form", () => {
  const bytes = new DataView(new Float32Array([0, 0.75]).buffer);
  const flags = new DataView(new Uint8Array([1, 0, 0, 1]).buffer);
  const marks = decodeMarks({ n: 2, k: 2, forbidden: bytes, allowed: flags, drafted: [1] });
  assert.deepEqual([[...marks.forbidden], marks.allowed(0, 1), marks.allowed(1, 1), marks.drafted.has(1)], [[0, 0.75], false, true, true]);
  const none = decodeMarks({ n: 2, k: 2, forbidden: null, allowed: null });
  assert.deepEqual([none.forbidden, none.allowed(0, 1), none.rounds.size], [null, true, 0]);
});

test("a token that was cut stays so in every later stage", () => {
  const stages = ["the model", "top-k 2", "top-p 0.9"].map((name) => ({ name }));
  const choice = { stages, tokens: [{ text: "a", id: 1, shares: [0.3, 0, 0], by: 1, taken: false }] };
  assert.deepEqual([0, 1, 2].map((stage) => candidates(choice, stage)[0].by), ["", "top-k 2", "top-k 2"]);
});
