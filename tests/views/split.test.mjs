import assert from "node:assert/strict";
import { test } from "node:test";
import { bitsPerByte, depth, hex, kindWords, lossWords, rankWords, readNumbers, shade } from "../../labkit/views/split_view/logic.js";

const data = new DataView(new ArrayBuffer(60));
[[7, 3, 0, 2], [8, -1, 5, 0], [9, 0, 0, 4]].forEach((row, i) => {
  row.forEach((value, j) => data.setInt32(20 * i + 4 * j, value, true));
  data.setFloat32(20 * i + 16, [Math.LN2 * 4, NaN, Math.LN2 * 4][i], true);
});

test("numbers are read text by text, and bytes counted through", () => {
  const [one, two] = readNumbers(data, [2, 1]);
  assert.deepEqual(one.map(({ id, rank, size, from }) => [id, rank, size, from]), [[7, 3, 2, 0], [8, -1, 0, 2]]);
  assert.deepEqual([two[0].id, two[0].from], [9, 2]);
  assert.ok(Math.abs(bitsPerByte(one[0]) - 2) < 1e-6);
  assert.ok(Number.isNaN(bitsPerByte(one[1])));
  assert.ok(Math.abs(bitsPerByte(two[0]) - 1) < 1e-6);
});

test("the shade follows what is asked for", () => {
  assert.deepEqual([0, 4, 8, 20, NaN].map((value) => depth(value, 8)), [0, 25, 50, 50, 0]);
  const token = { id: 0, rank: 99, flags: 0, size: 1, from: 0, loss: 8 * Math.LN2 };
  assert.equal(shade("loss", token, 8, 100), 50);
  assert.equal(shade("borders", token, 8, 100), 0);
  assert.ok(shade("order", token, 8, 100) > shade("order", { ...token, rank: 1 }, 8, 100));
  assert.ok(shade("order", { ...token, rank: 0 }, 8, 100) > 0);
  assert.equal(shade("order", { ...token, rank: -1 }, 8, 100), 0);
});

test("words say what is known and what is not", () => {
  const named = { special: 1, added: 2, unknown: 4, changed: 8 };
  assert.equal(kindWords(0, named), "a piece of the text");
  assert.match(kindWords(3, named), /special token, put around/);
  assert.equal(rankWords(1203, 48900), "merge 1,204 of 48,900");
  assert.match(rankWords(-1, 10), /from the start/);
  assert.match(rankWords(-1, 0), /not known/);
  assert.equal(hex(10), "0A");
  assert.match(lossWords({ id: 0, rank: 0, flags: 0, size: 2, from: 0, loss: Math.LN2 * 4 }), /^2\.773 nats, 2\.000 bits per byte$/);
  assert.match(lossWords({ id: 0, rank: 0, flags: 0, size: 2, from: 0, loss: NaN }), /^none/);
});
