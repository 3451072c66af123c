import assert from "node:assert/strict";
import { test } from "node:test";
import { decimal, equalChoices, ownKey, percent, spokenLabel, thousands, visibleLabel, visibleRuns } from "../../labkit/views/kit/common.js";

const kinds = (text, options) => visibleRuns(text, options).map((run) => run.kind);
const marks = (text) => visibleRuns(text).map((run) => run.mark);

test("runs joined give the text", () => {
  for (const text of ["", " a  b\n\tc", "\u202eabc\u202c", "e\u0301 中文 עברית 😀", "x".repeat(10000), "\0\r\u2028", "\ud800"]) {
    assert.equal(visibleRuns(text).map((run) => run.text).join(""), text);
  }
});

test("spaces, breaks and tabs have faint marks", () => {
  assert.deepEqual(kinds(" a\n\tb"), ["space", "text", "break", "tab", "text"]);
  assert.deepEqual(marks(" a\n\tb"), ["·", "", "↵", "→", ""]);
  assert.deepEqual(kinds("a b", { spaces: false }), ["text"]);
});

test("control, bidi and invisible characters are named by their code", () => {
  for (const [character, name] of [
    ["\0", "U+0000"], ["\x1b", "U+001B"], ["\r", "U+000D"], ["\x7f", "U+007F"], ["\u202e", "U+202E"],
    ["\u2066", "U+2066"], ["\u200b", "U+200B"], ["\u200f", "U+200F"], ["\ufeff", "U+FEFF"], ["\u2028", "U+2028"],
    ["\u00ad", "U+00AD"], ["\u00a0", "U+00A0"], ["\u{e0041}", "U+E0041"], ["\ue000", "U+E000"], ["\u3164", "U+3164"],
    ["\u061c", "U+061C"], ["\u180e", "U+180E"], ["\ud800", "U+D800"],
  ]) {
    assert.deepEqual(visibleRuns(character), [{ kind: "code", text: character, mark: name }]);
  }
  assert.deepEqual(marks("a\u200b\u200b\u200bb"), ["", "U+200B ×3", ""]);
});

test("emoji sequences and joining scripts keep their joiners", () => {
  assert.deepEqual(kinds("👨‍👩‍👧"), ["text"]);
  assert.deepEqual(kinds("❤️"), ["text"]);
  assert.deepEqual(kinds("می‌خواهم"), ["text"]);
  assert.deepEqual(kinds("pass\u200dword"), ["text", "code", "text"]);
  assert.deepEqual(kinds("\ufe0f"), ["code"]);
});

test("a flood of marks ends in one isolated rest", () => {
  const runs = visibleRuns("\u202ea".repeat(5000));
  assert.ok(runs.length <= 802);
  assert.equal(runs.at(-1).kind, "rest");
});

test("labels are short and on one line", () => {
  assert.equal(visibleLabel(" a\nb\u202e"), "·a↵bU+202E");
  assert.equal([...visibleLabel("😀".repeat(100), 10)].length, 10);
  assert.equal(spokenLabel(" sky"), "sky");
  assert.equal(spokenLabel("\n\n"), "line break line break");
  assert.equal(spokenLabel("  "), "space");
  assert.equal(spokenLabel(""), "empty");
});

test("percentages keep the digits that matter", () => {
  const expected = [
    [0, "0 %"], [1, "100 %"], [0.5, "50.0 %"], [0.1234, "12.3 %"], [0.00996, "1.0 %"], [0.0078, "0.78 %"],
    [0.00042, "0.042 %"], [0.000001, "1.0e−4 %"], [0.99991, "99.991 %"], [1 - 1e-9, "> 99.999 %"], [NaN, "unknown"],
  ];
  for (const [value, text] of expected) assert.equal(percent(value), text);
});

test("decimals have a true minus and no negative zero", () => {
  assert.equal(decimal(-1.234), "−1.23");
  assert.equal(decimal(-0.001), "0.00");
  assert.equal(decimal(-Infinity), "−∞");
  assert.equal(decimal(NaN), "unknown");
  assert.equal(thousands(49140), "49,140");
  assert.equal(thousands(1234567), "1,234,567");
  assert.equal(thousands(12), "12");
  assert.equal(equalChoices(Math.log(6.24)), "6.2 equal choices");
  assert.equal(equalChoices(Math.log(31330.7)), "31,331 equal choices");
});

test("keys with a modifier are the notebook's", () => {
  assert.equal(ownKey({ key: "ArrowLeft" }), true);
  for (const modifier of ["ctrlKey", "metaKey", "altKey", "shiftKey"]) assert.equal(ownKey({ [modifier]: true }), false);
});
