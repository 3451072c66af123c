import assert from "node:assert/strict";
import { test } from "node:test";
import { shownTurns, temperatureWords } from "../../labkit/views/chat_view/logic.js";

const turn = (role, text) => ({ role, text, note: "", texts: 0 });

test("a reply under way stands after the last turn, or in place of the one drawn anew", () => {
  const turns = [turn("user", "Hi"), turn("assistant", "Yes")];
  const texts = (talk) => shownTurns(turns, talk).map(({ text, writing }) => [text, writing]);
  assert.deepEqual(texts({ state: "done" }), [["Hi", false], ["Yes", false]]);
  assert.deepEqual(texts({ state: "running", draft: "N", turn: null }), [["Hi", false], ["Yes", false], ["N", true]]);
  assert.deepEqual(texts({ state: "waiting", turn: 1 }), [["Hi", false], ["", true]]);
});

test("a temperature of 0 is called greedy", () => {
  assert.deepEqual([temperatureWords(0), temperatureWords(0.7)], ["0.00 (greedy)", "0.70"]);
});
