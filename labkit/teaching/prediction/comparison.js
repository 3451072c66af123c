// A guess and what came out, side by side.

import { appendRuns, make, visibleRuns } from "../../views/kit/common.js";
import { mount } from "../../views/kit/mount.js";
import { createCurve } from "./curve.js";

/** @typedef {import("./curve.js").Spec} Spec */
/** @typedef {{value?: any, text: string}} Shown */

/** @param {{model: import("../../views/kit/mount.js").Model, el: HTMLElement}} widget */
function render(widget) {
  const { root, get, unmount } = mount(widget, "lk-predict lk-compare");
  /** @type {Spec} */
  const spec = get("spec");
  /** @type {Shown} */
  const guess = get("guessed");
  /** @type {Shown} */
  const result = get("result");
  const made = guess.value !== undefined;
  root.setAttribute("role", "group");
  root.setAttribute("aria-label", "Prediction and result");
  const question = make("p", "lk-predict-question");
  appendRuns(question, visibleRuns(spec.question, { spaces: false }));
  root.append(question);

  if (spec.kind === "curve") {
    /** @type {import("./curve.js").Line[]} */
    const lines = [{ values: result.value, kind: "result" }];
    if (made) lines.push({ values: guess.value, kind: "guess" });
    const said = `Result: ${result.text}.${made ? ` Your guess: ${guess.text}.` : ""}`;
    const key = make("p", "lk-compare-key");
    for (const [kind, text] of [["result", "what came out"], ...(made ? [["guess", "your guess"]] : [])]) {
      const item = make("span", "lk-compare-item");
      item.append(make("span", `lk-compare-sign lk-compare-${kind}`), text);
      key.append(item);
    }
    root.append(key, createCurve(spec, { lines, label: said }).element);
  } else {
    const pair = make("dl", "lk-compare-pair");
    for (const [label, text, kind] of [
      ["your guess", made ? guess.text : "none", "guess"],
      ["what came out", result.text, "result"],
    ]) {
      const item = make("div", `lk-compare-value lk-compare-value-${kind}`);
      const value = make("dd");
      appendRuns(value, visibleRuns(text, { spaces: false }));
      item.append(make("dt", "", label), value);
      pair.append(item);
    }
    root.append(pair);
  }
  const words = make("p", "lk-compare-words");
  appendRuns(words, visibleRuns(get("words"), { spaces: false }));
  root.append(words);
  return unmount;
}

export default { render };
