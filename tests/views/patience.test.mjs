import assert from "node:assert/strict";
import { test } from "node:test";
import { patience } from "../../labkit/views/kit/patience.js";

test("a kernel that does not answer in time is given up, once", (context) => {
  context.mock.timers.enable({ apis: ["setTimeout"] });
  let given = 0;
  const kernel = patience(() => (given += 1));
  kernel.ask(() => {});
  context.mock.timers.tick(3999);
  assert.equal(given, 0);
  kernel.expect(); // another request: the time begins anew
  context.mock.timers.tick(3999);
  kernel.answered();
  context.mock.timers.tick(10000);
  assert.equal(given, 0);
  kernel.expect();
  context.mock.timers.tick(4000);
  assert.equal(given, 1);
});

test("a request that can't be sent is given up at once, and not again", (context) => {
  context.mock.timers.enable({ apis: ["setTimeout"] });
  let given = 0;
  patience(() => (given += 1)).ask(() => {
    throw new Error("no comm");
  });
  context.mock.timers.tick(10000);
  assert.equal(given, 1);
});

test("a request that may be made again is, until it is answered or given up", (context) => {
  context.mock.timers.enable({ apis: ["setTimeout", "setInterval"] });
  let sent = 0;
  let given = 0;
  const kernel = patience(() => (given += 1));
  kernel.ask(() => (sent += 1), true);
  assert.equal(sent, 1);
  context.mock.timers.tick(2100);
  assert.equal(sent, 3);
  kernel.answered();
  context.mock.timers.tick(10000);
  assert.deepEqual([sent, given], [3, 0]);
  kernel.ask(() => (sent += 1), true);
  context.mock.timers.tick(20000);
  assert.equal(given, 1);
  assert.ok(sent >= 6 && sent <= 8);
});
