// The running text, each token in the colour of the expert that it goes to first, with that expert's number under it.

import { tokenList } from "../kit/token_list.js";
import { tint } from "./colours.js";
import { afterKey } from "./logic.js";

/**
 * Returns what `tokenList` does, with fill(), paint(), the colours of the layer on show, and light() of its own.
 * @param {import("./state.js").Focus} focus
 * @param {string} id
 * @param {import("../kit/token_list.js").TokenActions & {move: (to: import("./logic.js").Place) => void}} actions
 */
export function routesText(focus, id, actions) {
  const { shared } = focus;
  const list = tokenList({
    label: "Tokens of the text: left and right move by token, up and down by layer, Enter holds, Escape lets go",
    id,
    className: "lk-tl-scrolled lk-rt-text",
    framed: true,
    actions: {
      ...actions,
      keys(key, token) {
        const target = afterKey(key, { layer: shared.layer, token }, focus.route.layers, focus.route.n);
        if (target) actions.move(target);
        return target !== null;
      },
    },
  });
  return {
    ...list,
    fill() {
      const { route } = focus;
      list.fill([route]);
      list.mark("lk-rt-special", (i) => route.special.has(i));
      // too narrow for an expert's number: they get more room
      const digits = Math.max(2, String(route.experts - 1).length);
      list.mark("lk-rt-short", (_, word) => [...(word.textContent ?? "")].length < digits);
    },
    paint() {
      const { layer, changes } = shared;
      list.paint(
        (i) => {
          const expert = focus.route.expert(layer, i);
          return `${expert} ${shared.slot(layer, expert)} ${changes?.[layer][i] ?? 0}`;
        },
        (word, look) => {
          const [expert, slot, changed] = look.split(" ");
          word.className = `lk-tl-word lk-rt-c${slot}${changed === "0" ? "" : ` lk-rt-changed${changed}`}`;
          tint(word, slot);
          word.dataset.expert = expert;
        },
      );
    },
    light() {
      const { lit } = focus;
      list.light(lit && ((i) => lit[i] > 0));
    },
  };
}
