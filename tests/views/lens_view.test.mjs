import assert from "node:assert/strict";
import { test } from "node:test";
import { cellAt, cellWidth, depth, HIGH, readCells } from "../../labkit/views/lens_view/logic.js";

const facts = { model: "m", title: "", kinds: ["a", "b"], layers: [0, 1], k: 2, depth: 1 };
const view = (array) => new DataView(array.buffer);
/** Two tokens, two lenses, two layers, two places in each cell; the second lens does not read the first layer. */
function cells() {
  const places = Int32Array.of(0, 1, 1, 0, -1, -1, 2, -1, 2, 0, 0, 1, -1, -1, 1, 2);
  const probabilities = Float32Array.of(0.5, 0.25, 0.75, 0.125, 0, 0, 1, 0, 0.5, 0.5, 0.25, 0.25, 0, 0, 0.875, 0);
  const far = Float32Array.of(4, 0, NaN, 1, NaN, 0, NaN, 0);
  return readCells(facts, ["x", "y", "z"], view(places), view(probabilities), view(far));
}

test("a cell has its own tokens, and none where a lens does not read", () => {
  const all = cells();
  assert.equal(all.columns, 2);
  assert.deepEqual(all.cell(0, 0, 0), { tokens: ["x", "y"], probabilities: [0.5, 0.25], kl: 4 });
  assert.deepEqual(all.cell(0, 1, 1).tokens, ["z"]);
  assert.equal(all.cell(1, 1, 0), null);
  assert.equal(all.cell(2, 0, 0), null);
  assert.deepEqual([all.top(1, 1, 1), all.first(1, 1, 1), all.largest], [1, 0.875, 4]);
});

test("the tint grows with the probability, or with how near the output is", () => {
  const all = cells();
  assert.equal(depth(all, "probability", 0, 0, 1), 0.75);
  assert.deepEqual([0, 1].map((row) => depth(all, "divergence", 0, 0, row)), [0, 1]);
  assert.equal(depth(all, "divergence", 0, 1, 1), 0.5);
  assert.equal(depth(all, "divergence", 1, 0, 0), 0, "what is not known is not tinted");
});

test("cells are found under a point, and as wide as there is room", () => {
  assert.deepEqual(cellAt(61, HIGH + 1, 60, 3, 2), { column: 1, row: 1 });
  assert.equal(cellAt(181, 1, 60, 3, 2), null);
  assert.equal(cellAt(1, 2 * HIGH + 1, 60, 3, 2), null);
  assert.deepEqual([cellWidth(4, 800), cellWidth(64, 800), cellWidth(10, 700), cellWidth(0, 700)], [92, 58, 70, 92]);
});
