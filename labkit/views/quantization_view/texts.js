// The original's text and the quantized model's, side by side, with the tokens marked that the other does not have.

import { appendRuns, make, setText, visibleRuns } from "../kit/common.js";
import { isBusy } from "../kit/field.js";
import { legend } from "../kit/legend.js";
import { partedText } from "./logic.js";

/** @typedef {import("../kit/mount.js").Mounted} Mounted */
/** @typedef {{texts: string[], differ: number[], done: boolean, bytes: number, size: string}} Side */

const SIDES = /** @type {const} */ ({ original: "The original", quantized: "Quantized" });

/**
 * @param {Mounted} view
 * @param {"original" | "quantized"} name
 */
function pane(view, name) {
  const element = make("section", `lk-quant-text-pane lk-quant-${name}`);
  const title = make("h3", "", SIDES[name]);
  title.id = view.id(name);
  element.setAttribute("aria-labelledby", title.id);
  const size = make("span", "lk-muted");
  const head = make("div", "lk-quant-text-head");
  head.append(title, " ", size);
  const text = make("div", "lk-quant-text");
  text.dir = "auto";
  element.append(head, text);
  let drawn = "";
  return {
    element,
    /** @type {(side: Side | null, words: string, before: Side | null) => void} */
    draw(side, words, before) {
      setText(size, side === null ? "" : before === null || before === side ? side.size : `${side.size}, ${Math.round((100 * side.bytes) / before.bytes)} % of it`);
      const now = JSON.stringify([side, words]);
      if (now === drawn) return; // what is selected stays so
      drawn = now;
      if (side === null || side.texts.length === 0) {
        text.replaceChildren(make("span", "lk-muted", words));
        return;
      }
      const differ = new Set(side.differ);
      text.replaceChildren(
        ...side.texts.map((token, i) => {
          const piece = make(differ.has(i) ? "mark" : "span", differ.has(i) ? "lk-quant-other" : "");
          appendRuns(piece, visibleRuns(token, { limit: 40 }));
          return piece;
        }),
      );
    },
  };
}

/**
 * Returns {element, draw()}.
 * @param {Mounted} view
 */
export function texts(view) {
  const element = make("div", "lk-quant-texts");
  const parted = make("p", "lk-quant-parted");
  const panes = make("div", "lk-quant-text-panes");
  const [one, other] = [pane(view, "original"), pane(view, "quantized")];
  panes.append(one.element, other.element);
  const key = legend([{ sample: "lk-quant-other", text: "tokens that the other text does not have" }]);
  key.classList.add("lk-muted", "lk-small");
  element.append(parted, panes, key);
  return {
    element,
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
