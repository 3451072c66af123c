import assert from "node:assert/strict";
import { test } from "node:test";
import { patience } from "../../labkit/views/patience.js";

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
