import assert from "node:assert/strict";
import { test } from "node:test";
import { Dropped, NO_ANSWER, NoAnswer, Refused, answerStore, openWire, unlessDropped } from "../../labkit/views/kit/ask.js";

/** A model that keeps what was sent, and hands over what a kernel would answer. */
function fakeModel() {
  const held = new Set();
  const values = new Map();
  return {
    sent: [],
    saved: [],
    get: (name) => values.get(name),
    set: (name, value) => values.set(name, value),
    save_changes() {
      this.saved.push(Object.fromEntries(values));
    },
    send(content) {
      this.sent.push(content);
    },
    on: (_event, callback) => held.add(callback),
    off: (_event, callback) => held.delete(callback),
    answer(i, more = {}, buffers = []) {
      for (const callback of [...held]) callback({ answer: this.sent[i].id, value: null, ...more }, buffers);
    },
    listeners: () => held.size,
  };
}

test("a question is sent by name and its answer comes with its bytes", async () => {
  const model = fakeModel();
  const wire = openWire(model);
  const asked = wire.ask("token", { layer: 3 });
  assert.deepEqual([model.sent[0].ask, model.sent[0].args], ["token", { layer: 3 }]);
  const bytes = new DataView(new ArrayBuffer(4));
  model.answer(0, { value: { k: 2 } }, [bytes]);
  assert.deepEqual(await asked, { value: { k: 2 }, buffers: [bytes] });
});

test("answers find their questions in any order, and those of another display are none of ours", async () => {
  const model = fakeModel();
  const [one, other] = [openWire(model), openWire(model)];
  const [first, second] = [one.ask("a"), other.ask("a")];
  model.answer(1, { value: "second" });
  model.answer(0, { value: "first" });
  assert.deepEqual([(await first).value, (await second).value], ["first", "second"]);
  model.answer(0, { value: "again" }); // nobody waits for it
});

test("a refused question says why", async () => {
  const model = fakeModel();
  const asked = openWire(model).ask("tile");
  model.answer(0, { refused: "There is no such tile." });
  await assert.rejects(asked, (error) => error instanceof Refused && error.message === "There is no such tile.");
});

test("a kernel that does not answer in time is given up, once", async (context) => {
  context.mock.timers.enable({ apis: ["setTimeout", "setInterval"] });
  const model = fakeModel();
  const asked = openWire(model).ask("stop");
  let state = "open";
  asked.catch((error) => (state = error.message));
  context.mock.timers.tick(3999);
  await Promise.resolve();
  assert.equal(state, "open");
  context.mock.timers.tick(1);
  await assert.rejects(asked, NoAnswer);
  assert.equal(state, NO_ANSWER);
  assert.equal(model.sent.length, 1);
});

test("a question that may be repeated is, until it is answered", async (context) => {
  context.mock.timers.enable({ apis: ["setTimeout", "setInterval"] });
  const model = fakeModel();
  const asked = openWire(model).ask("hello", {}, { repeat: true });
  context.mock.timers.tick(2100);
  assert.equal(model.sent.length, 3);
  assert.equal(new Set(model.sent.map(({ id }) => id)).size, 1, "it is one question");
  model.answer(0);
  await asked;
  context.mock.timers.tick(10000);
  assert.equal(model.sent.length, 3);
});

test("what can't be sent is no answer at once", async () => {
  const model = fakeModel();
  model.send = () => {
    throw new Error("no comm");
  };
  await assert.rejects(openWire(model).ask("stop"), NoAnswer);
});

test("a newer question of its kind takes the place of one, and no other", async () => {
  const model = fakeModel();
  const wire = openWire(model);
  const [first, beside] = [wire.ask("find", { text: "a" }, { latest: "find" }), wire.ask("tile")];
  const second = wire.ask("find", { text: "ab" }, { latest: "find" });
  await assert.rejects(first, Dropped);
  model.answer(0, { value: "late" });
  model.answer(2, { value: "found" });
  model.answer(1);
  assert.equal((await second).value, "found");
  await beside;
});

test("to tell the kernel something is to hear that it is there", async () => {
  const model = fakeModel();
  const told = openWire(model).tell({ typed: "a text", held: 3 });
  assert.deepEqual(model.saved, [{ typed: "a text", held: 3 }]);
  assert.equal(model.sent[0].ask, "ping");
  model.answer(0);
  await told;
});

test("closing drops what waits and stops listening", async () => {
  const model = fakeModel();
  const wire = openWire(model);
  const asked = wire.ask("tile");
  wire.close();
  await assert.rejects(asked, Dropped);
  assert.equal(model.listeners(), 0);
  let failed = 0;
  await asked.catch(unlessDropped(() => (failed += 1)));
  assert.equal(failed, 0);
});

test("a store asks once, keeps what came, and lets the oldest go", async () => {
  const model = fakeModel();
  let drawn = 0;
  const store = answerStore(openWire(model), "token", ({ value }) => value * 2, { most: 2 });
  const get = (layer) => store.get({ layer }, () => (drawn += 1));
  assert.equal(get(0), null);
  assert.equal(get(0), null);
  assert.equal(model.sent.length, 1);
  model.answer(0, { value: 21 });
  await new Promise(setImmediate);
  assert.deepEqual([get(0), drawn], [42, 1]);
  get(1);
  get(2);
  assert.equal(get(0), null);
  assert.equal(model.sent.length, 4, "the first was let go and is asked for again");
});

test("a store asks again where no answer came, and not where it was refused", async (context) => {
  context.mock.timers.enable({ apis: ["setTimeout", "setInterval"] });
  const model = fakeModel();
  const store = answerStore(openWire(model), "token", ({ value }) => value, { patience: 20000 });
  const get = (layer) => store.get({ layer }, () => {});
  get(0);
  context.mock.timers.tick(19999);
  get(0);
  assert.equal(model.sent.length, 1);
  context.mock.timers.tick(1);
  for (let i = 0; i < 5; i += 1) await Promise.resolve();
  get(0);
  assert.equal(model.sent.length, 2);
  model.answer(1, { refused: "There is none." });
  for (let i = 0; i < 5; i += 1) await Promise.resolve();
  assert.equal(get(0), null);
  assert.equal(model.sent.length, 2);
});
