import assert from "node:assert/strict";
import { test } from "node:test";
import { significant } from "../../labkit/views/kit/common.js";
import { partedText } from "../../labkit/views/kit/paired_texts.js";
import { fromCurve, megabytes, placeOf, powers } from "../../labkit/views/mix_view/logic.js";
import { cellAt, cellWords, errorsOf, heights, shareText } from "../../labkit/views/quantization_view/logic.js";

function cells() {
  const data = new DataView(new ArrayBuffer(24));
  [[7, 0.5, 0.25], [11, -1, -1]].forEach(([place, weight, value], i) => {
    data.setUint32(12 * i, place, true);
    data.setFloat32(12 * i + 4, weight, true);
    data.setFloat32(12 * i + 8, value, true);
  });
  return data;
}

test("a cell says its row, column, weight, value and error", () => {
  const cell = cellAt(cells(), 0, 4);
  assert.deepEqual(cell, { row: 1, column: 3, weight: 0.5, value: 0.25 });
  assert.equal(cellWords(cell, false), "row 1, column 3: 0.5000 became 0.2500, error −0.250");
  assert.match(cellWords(cell, true), /^the largest error here: /);
  assert.deepEqual([...errorsOf(cells())], [0.25, 0]);
});

test("numbers are written with the digits that matter", () => {
  assert.deepEqual([0, 0.012345, 0.00012345, -1e-9].map((value) => significant(value)), ["0", "0.0123", "0.000123", "−1.00e−9"]);
  assert.deepEqual([0.101, 0.0123].map(shareText), ["10.1 %", "1.2 %"]);
  assert.deepEqual(heights([0, 1, 4]), [0, 0.5, 1]);
  assert.deepEqual([3_420_000, 13_420_000].map(megabytes), ["3.420 MB", "13.4 MB"]);
  assert.deepEqual(powers(0.005, 2), [0.01, 0.1, 1]);
});

test("texts part where they part", () => {
  assert.equal(partedText(null, [4, 4], true), "Both texts are the same: 4 tokens.");
  assert.equal(partedText(null, [4, 1], false), "The same so far: 1 token.");
  assert.equal(partedText(1, [4, 4], true), "They part after 1 token.");
  assert.equal(partedText(0, [4, 4], true), "They part at the first token.");
});

test("a file's slider takes the mix of the curve that fits", () => {
  assert.deepEqual([5, 10, 15, 99].map((budget) => placeOf([10, 20, 30], budget)), [0, 0, 0, 2]);
  const curve = { budgets: [10, 20], sizes: [9, 18], predicted: [2, 1], bits: [2, 4] };
  assert.deepEqual(fromCurve(curve, new Uint8Array([0, 1, 2, 3]), 25), { budget: 25, size: 18, predicted: 1, bits: 4, chosen: [2, 3] });
});
