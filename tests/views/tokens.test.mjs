import assert from "node:assert/strict";
import { test } from "node:test";
import { bars, blockBytes, decode, example, leastSure, ordinal, stroke } from "../../labkit/views/tokens_view/logic.js";
import { commonStart, keyTarget, lineTarget } from "../../labkit/views/kit/keys.js";

const [OUTSIDE, CONTINUED] = [1, 2];
const kinds = { outside: OUTSIDE, continued: CONTINUED };
const strokes = [0.9, 0.5, 0.2, 0.05, 0].map((from) => ({ from }));

/** A block as Python writes it: int32 columns, then float32 columns, at an odd offset of its buffer. */
function block({ token, piece, kind, rank, id, topToken, topId, logprob, sampledLogprob, entropy, topLogprob }) {
  const integers = [token, piece, kind, rank, id, topToken, topId].flat();
  const floats = [logprob, sampledLogprob, entropy, topLogprob].flat();
  const view = new DataView(new ArrayBuffer(3 + 4 * (integers.length + floats.length)), 3);
  integers.forEach((value, i) => view.setInt32(4 * i, value, true));
  floats.forEach((value, i) => view.setFloat32(4 * (integers.length + i), value, true));
  return view;
}

const fields = {
  token: [0, 1], piece: [0, 1], kind: [0, 0], rank: [0, 7], id: [10, 11],
  topToken: [0, 2, 3, 4], topId: [10, 12, 13, 14],
  logprob: [Math.log(0.5), Math.log(0.125)], sampledLogprob: [-0.25, -0.5], entropy: [1, 3],
  topLogprob: [0.5, 0.25, 0.25, 0.25].map(Math.log),
};
const data = decode(block(fields), 2, 2, kinds);

test("a block decodes to its columns whatever its alignment", () => {
  const special = decode(block({ ...fields, kind: [CONTINUED, OUTSIDE] }), 2, 2, kinds);
  assert.deepEqual([[...special.continued], [...special.outside]], [[0], [1]]);
  const { kind, ...columns } = fields;
  for (const [name, values] of Object.entries(columns)) {
    assert.deepEqual([...data[name]], [...values].map((v) => (name.includes("ogprob") ? Math.fround(v) : v)), name);
  }
});

test("a block of the wrong length is refused", () => {
  assert.throws(() => decode(block(fields), 2, 1, kinds), RangeError);
  assert.throws(() => decode(new DataView(new ArrayBuffer(4)), 0, 0, kinds), RangeError);
  assert.equal(decode(null, 0, 5, kinds).n, 0);
  assert.equal(blockBytes(2, 2), block(fields).byteLength);
});

test("strokes: thinner when surer, and every bound belongs to the thinner one", () => {
  assert.deepEqual([1, 0.9, 0.899, 0.5, 0.2, 0.05, 0.049, 0].map((probability) => stroke(probability, strokes)), [0, 0, 1, 1, 2, 3, 4, 4]);
  assert.equal(stroke(NaN, strokes), strokes.length - 1);
});

test("bars hold the alternatives, the taken token and the rest, and sum to one", () => {
  const first = bars(data, 0);
  assert.deepEqual(first.map((row) => Boolean(row.taken)), [true, false, false]);
  assert.ok(Math.abs(first.at(-1).probability - 0.25) < 1e-6);
  const second = bars(data, 1);
  assert.equal(second.length, 4);
  assert.deepEqual({ taken: second[2].taken, rank: second[2].rank, id: second[2].id }, { taken: true, rank: 8, id: 11 });
  for (const rows of [first, second]) {
    assert.ok(Math.abs(rows.reduce((sum, row) => sum + row.probability, 0) - 1) < 1e-6);
  }
});

test("least sure first; the example is the most open; tokens outside the text don't count", () => {
  assert.deepEqual(leastSure(data, 5), [1, 0]);
  assert.equal(example(data), 1);
  const special = decode(block({ ...fields, kind: [0, OUTSIDE] }), 2, 2, kinds);
  assert.deepEqual(leastSure(special, 5), [0]);
  assert.equal(example(special), 0);
  assert.equal(example(decode(null, 0, 0, kinds)), -1);
});

test("the common start of two lists", () => {
  assert.equal(commonStart([], ["a"]), 0);
  assert.equal(commonStart(["a", "b"], ["a", "b", "c"]), 2);
  assert.equal(commonStart(["a", "b", "c"], ["a", "x", "c"]), 1);
});

test("arrows stay within the tokens", () => {
  assert.equal(keyTarget("ArrowRight", 4, 5), 4);
  assert.equal(keyTarget("ArrowLeft", 0, 5), 0);
  assert.equal(keyTarget("ArrowRight", 1, 5), 2);
  assert.equal(keyTarget("Home", 3, 5), 0);
  assert.equal(keyTarget("End", 3, 5), 4);
  assert.equal(keyTarget("a", 3, 5), null);
  assert.equal(keyTarget("End", 0, 0), null);
});

test("up and down go to the nearest token of the next line", () => {
  const boxes = [0, 1, 2, 3, 4, 5].map((i) => {
    const column = i % 3;
    const line = Math.floor(i / 3);
    return { left: column * 50, right: column * 50 + 40, top: line * 30, bottom: line * 30 + 20 };
  });
  const go = (i, step) => lineTarget(i, step, boxes.length, (j) => boxes[j]);
  assert.equal(go(1, 1), 4);
  assert.equal(go(5, -1), 2);
  assert.equal(go(4, 1), 4);
  assert.equal(go(0, -1), 0);
});

test("ordinals", () => {
  assert.deepEqual([1, 2, 3, 4, 11, 12, 13, 21, 102, 1111, 12345].map(ordinal), [
    "1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "102nd", "1,111th", "12,345th",
  ]);
});
