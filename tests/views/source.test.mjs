import assert from "node:assert/strict";
import { test } from "node:test";
import { packedBytes } from "../../labkit/views/attention_view/logic.js";
import { Codes } from "../../labkit/views/kit/codes.js";
import { openWire } from "../../labkit/views/kit/ask.js";
import { codeReader, fileSource, kernelSource } from "../../labkit/views/attention_view/source.js";

const LEVELS = 254;
const NOT_A_NUMBER = 255;
const CODES = new Codes(LEVELS);
const weightOf = (code) => CODES.weight(code);
const codeOf = (weight) => CODES.of(weight);

function packed(n, value) {
  const codes = new Uint8Array(packedBytes(n));
  let at = 0;
  for (let row = 0; row < n; row += 1) for (let column = 0; column <= row; column += 1) codes[at++] = value(row, column);
  return codes;
}

test("a code is read from the whole, or from a tile of finer cells where it is here", () => {
  const pool = 4;
  const whole = packed(256, (row, column) => (row + column) % 200);
  const asked = [];
  const tile = (row, column) => {
    asked.push(`${row} ${column}`);
    if (row !== 1 || column !== 0) return null;
    return { shape: [256, 256], codes: Uint8Array.from({ length: 256 * 256 }, (_, i) => (i % 251) + 1) };
  };
  const plain = codeReader(whole, pool, pool, 256, null);
  assert.equal(plain(8, 4), 3);
  assert.equal(plain(11, 7), 3, "all tokens of a cell have its code");
  assert.equal(plain(4, 8), 0, "what comes later can't be seen");
  const fine = codeReader(whole, pool, 2, 256, tile);
  assert.equal(fine(2 * 300, 2 * 40), (((300 - 256) * 256 + 40) % 251) + 1);
  assert.equal(fine(2 * 300, 2 * 270), plain(2 * 300, 2 * 270), "that tile has not come");
  assert.deepEqual(asked, ["1 0", "1 1"]);
  assert.equal(fine(0, 2), 0);
});

/** A model as the kernel source uses it, and what it sent. */
function kernel() {
  const sent = [];
  const heard = new Map();
  const wire = openWire({
    send: (content) => sent.push(content),
    on: (name, call) => heard.set(name, call),
    off: (name) => heard.delete(name),
  });
  const answer = async (content, buffers) => {
    heard.get("msg:custom")?.(content, buffers);
    await new Promise((resolve) => setTimeout(resolve));
  };
  return { wire, sent, answer, source: kernelSource(wire) };
}

test("a tile is asked for once and kept", async () => {
  const { wire, source, sent, answer } = kernel();
  const place = { trace: 0, layer: 1, head: 2, aside: false, pool: 2, row: 3, column: 1 };
  let told = 0;
  assert.equal(source.tile(place, () => (told += 1), false), null);
  assert.equal(sent.length, 0, "a window on its way asks for nothing");
  assert.equal(source.tile(place, () => (told += 1)), null);
  assert.equal(source.tile(place, () => (told += 1)), null);
  assert.equal(sent.length, 1);
  const { id, ...question } = sent[0];
  assert.deepEqual(question, { ask: "tile", args: place });
  await answer({ answer: "somebody else's", value: [1, 1] }, [new DataView(new ArrayBuffer(1))]);
  assert.equal(told, 0);
  await answer({ answer: id, value: [1, 3] }, [new DataView(Uint8Array.of(0, 0, 7, 8, 9).buffer, 2)]);
  assert.equal(told, 1);
  const found = source.tile(place, () => {}, false);
  assert.deepEqual([found.shape, [...found.codes]], [[1, 3], [7, 8, 9]]);
  await answer({ answer: id, value: [1, 3] }, [new DataView(new ArrayBuffer(3))]);
  assert.equal(told, 1, "an answer is heard once");
  assert.equal(source.tile({ ...place, aside: true }, () => {}), null, "another question");
  assert.equal(sent.length, 2);
  wire.close();
});

test("lines are asked for once, and many are not kept for ever", async () => {
  const { wire, source, sent, answer } = kernel();
  const ask = (token) => source.line({ trace: 0, heads: [[0, 1]], token, into: false, aside: false }, () => {});
  ask(5);
  await answer({ answer: sent[0].id, value: null }, [new DataView(Uint8Array.of(1, 2).buffer)]);
  assert.deepEqual([...ask(5)], [1, 2]);
  assert.equal(sent.length, 1);
  for (let token = 100; token < 600; token += 1) ask(token);
  assert.equal(ask(5), null);
  assert.equal(sent.length, 502);
  wire.close();
});

test("what the kernel refuses to ablate is told", async () => {
  const { wire, source, sent, answer } = kernel();
  const asked = source.ablate([[1, 3]]);
  assert.deepEqual([sent[0].ask, sent[0].args], ["ablate", { heads: [[1, 3]] }]);
  answer({ answer: sent[0].id, refused: "There is no head 3." });
  await assert.rejects(asked, /There is no head 3\./);
  wire.close();
});

/** A file that holds two heads of one trace and one of another. */
function file({ pools = [1, 1], tokens = [3, 3] } = {}) {
  const n = tokens.map((count, i) => Math.ceil(count / pools[i]));
  const weights = (t, seed) => packed(n[t], (row, column) => codeOf(column === 0 ? 1 - 0.1 * seed * row : (0.1 * seed * row) / row));
  const heads = [[0, 0, 1], [0, 1, 2], [1, 1, 3]];
  const cells = heads.map(([t, , seed]) => weights(t, seed));
  const rests = heads.flatMap(([t, , seed]) => Array.from({ length: tokens[t] }, (_, row) => 0.1 * seed * row));
  const joined = Uint8Array.from(cells.flatMap((each) => [...each]));
  const rest = new DataView(Float32Array.from(rests).buffer);
  const state = {
    embedded: heads.map(([trace, layer]) => ({ trace, layer, head: 0, links: [] })),
    embedded_cells: new DataView(joined.buffer),
    embedded_rest: rest,
  };
  return { source: fileSource({ get: (name) => state[name] }, { tokens, pools }, CODES), cells };
}

test("a file gives the heads it holds, of either trace, and no others", () => {
  const { source, cells } = file({ tokens: [3, 5] });
  assert.deepEqual([...source.head({ trace: 0, layer: 1, head: 0, aside: false }).codes], [...cells[1]]);
  assert.deepEqual([...source.head({ trace: 1, layer: 1, head: 0, aside: false }).codes], [...cells[2]]);
  assert.equal(source.head({ trace: 1, layer: 0, head: 0, aside: false }), null);
  assert.equal(source.head({ trace: 0, layer: 0, head: 1, aside: false }), null);
  assert.equal(source.held.length, 3);
  assert.equal(source.line({ trace: 0, heads: [[0, 0], [0, 1]], token: 1, into: false, aside: false }), undefined);
});

test("in a file, too, the first token can be set aside, and a mean is that of several heads", () => {
  const { source } = file();
  const aside = source.head({ trace: 0, layer: 1, head: 0, aside: true });
  assert.equal(aside.summary.aside, true);
  const [, zero, one, none, half, other] = aside.codes;
  assert.deepEqual([zero, none], [0, 0]);
  assert.equal(one, LEVELS, "all that the second token gives to others goes to itself");
  assert.ok(Math.abs(weightOf(half) - 0.5) < 0.02 && Math.abs(weightOf(other) - 0.5) < 0.02);
  const line = source.line({ trace: 0, heads: [[0, 0], [1, 0]], token: 2, into: false, aside: false });
  [0.7, 0.15, 0.15].forEach((weight, i) => assert.ok(Math.abs(weightOf(line[i]) - weight) < 0.01));
  assert.equal(NOT_A_NUMBER in line, false);
});

test("in a long text each token has its block's line, and the first token stays", () => {
  const { source, cells } = file({ tokens: [6, 6], pools: [2, 2] });
  const line = source.line({ trace: 0, heads: [[1, 0]], token: 5, into: false, aside: true });
  assert.deepEqual([...line], [3, 3, 4, 4, 5, 5].map((i) => cells[1][i]));
  assert.equal(source.head({ trace: 0, layer: 1, head: 0, aside: true }).summary.aside, false);
});
