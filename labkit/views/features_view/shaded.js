// Running text shaded by one feature's activation: the text itself, and the examples of a dashboard.

import { tokenList } from "../kit/token_list.js";
import { depth } from "./logic.js";

/**
 * A token list with `shade(values, largest)`: an activation for each token; NaN and null are drawn as no number, not as zero.
 * @param {Parameters<typeof tokenList>[0]} given
 */
export function shadedText(given) {
  const list = tokenList(given);
  return {
    ...list,
    /** @type {(values: ArrayLike<number | null>, largest: number) => void} */
    shade(values, largest) {
      list.paint(
        (i) => ((values[i] ?? 0) > 0 ? `${depth(values[i], largest)}%` : ""),
        (word, deep) => {
          word.classList.toggle("lk-fv-on", deep !== "");
          word.style.setProperty("--lk-fv-deep", deep || "0%");
        },
      );
    },
  };
}
