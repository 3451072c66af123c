// The original's text and the quantized model's, side by side, with the tokens marked that the other does not have.

import { box, make, sayOrHide, setText } from "../kit/common.js";
import { isBusy } from "../kit/field.js";
import { legend } from "../kit/legend.js";
import { partedText, textPane } from "../kit/paired_texts.js";

/** @typedef {import("../kit/mount.js").Mounted} Mounted */
/** @typedef {{texts: string[], differ: number[], done: boolean, bytes: number, size: string}} Side */

const SIDES = /** @type {const} */ ({ original: "The original", quantized: "Quantized" });

/**
 * @param {Mounted} view
 * @param {"original" | "quantized"} name
 */
function pane(view, name) {
  const { element, title, text, fill } = textPane(view.id(name), SIDES[name], `lk-quant-${name}`);
  const size = make("span", "lk-muted");
  const empty = make("p", "lk-muted");
  title.append(" ", size);
  text.after(empty);
  return {
    element,
    /** @type {(side: Side | null, words: string, before: Side | null) => void} */
    draw(side, words, before) {
      setText(size, side === null ? "" : before === null || before === side ? side.size : `${side.size}, ${Math.round((100 * side.bytes) / before.bytes)} % of it`);
      const tokens = side?.texts ?? [];
      const differ = new Set(side?.differ);
      fill(tokens, (i) => differ.has(i));
      text.hidden = tokens.length === 0;
      sayOrHide(empty, tokens.length === 0 ? words : "");
    },
  };
}

/**
 * Returns {element, draw()}.
 * @param {Mounted} view
 */
export function texts(view) {
  const parted = make("p", "lk-quant-parted");
  const [one, other] = [pane(view, "original"), pane(view, "quantized")];
  const panes = box("lk-split", one.element, other.element);
  const key = legend([{ sample: "lk-paired-sample", text: "tokens that the other text does not have" }], { quiet: true });
  return {
    element: box("lk-quant-texts", parted, panes, key),
    draw() {
      const { original = null, quantized = null, parted: at = null } = view.get("texts");
      const busy = !view.exported && isBusy(view.get("text_status"));
      one.draw(original, busy ? "Not begun yet." : "Nothing was written.", original);
      other.draw(quantized, busy ? "Comes once the model is quantized." : "Nothing was written.", original);
      const done = Boolean(original?.done && quantized?.done);
      setText(parted, original && quantized ? partedText(at, [original.texts.length, quantized.texts.length], done) : "");
      panes.setAttribute("aria-busy", String(busy));
    },
  };
}
