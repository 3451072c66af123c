import assert from "node:assert/strict";
import { test } from "node:test";
import { readRow, rowAt, sayTemperature } from "../../labkit/views/sampling_view/logic.js";

function floats(...values) {
  const view = new DataView(new ArrayBuffer(4 * values.length));
  values.forEach((value, i) => view.setFloat32(4 * i, value, true));
  return view;
}

const slider = { lowest: 0, highest: 2, step: 0.05 };
const table = floats(...Array.from({ length: 41 }, (_, i) => [i * 0.05, i, 0.25, 0.5, 0.25]).flat());

test("every position of the slider finds its row", () => {
  for (let i = 0; i < 41; i += 1) {
    const temperature = Number((i * 0.05).toFixed(2));
    assert.equal(rowAt(temperature, table, floats(), 2, slider).temperature, Math.fround(i * 0.05));
    assert.equal(rowAt(temperature, table, floats(), 2, slider).entropy, i);
  }
});

test("between the positions it takes Python's row, and only for that temperature", () => {
  const current = floats(0.333, 1.5, 0.25, 0.5, 0.25);
  assert.equal(rowAt(0.333, table, current, 2, slider).entropy, 1.5);
  assert.equal(rowAt(0.444, table, current, 2, slider), null);
  assert.equal(rowAt(0.444, table, floats(), 2, slider), null);
});

test("a row is temperature, entropy, others, shares", () => {
  assert.deepEqual(readRow(floats(9, 1, 2, 0.25, 0.5, 0.125), 4, 2), {
    temperature: 1, entropy: 2, others: 0.25, shares: [0.5, 0.125],
  });
});

test("greedy is said", () => {
  assert.equal(sayTemperature(0), "0.00 (greedy)");
  assert.equal(sayTemperature(0.7), "0.70");
});
