// A guess and what came out, side by side.

import { appendRuns, make, makeRoot, visibleRuns } from "../../views/kit/common.js";
import { createCurve } from "./curve.js";

function render({ model, el }) {
  const spec = model.get("spec");
  const guess = model.get("guessed");
  const result = model.get("result");
  const made = guess.value !== undefined;
  const root = makeRoot("lk-predict lk-compare");
  root.setAttribute("role", "group");
  root.setAttribute("aria-label", "Prediction and result");
  const question = make("p", "lk-predict-question");
  appendRuns(question, visibleRuns(spec.question, { spaces: false }));
  root.append(question);

  if (spec.kind === "curve") {
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
  appendRuns(words, visibleRuns(model.get("words"), { spaces: false }));
  root.append(words);
  el.append(root);
}

export default { render };
