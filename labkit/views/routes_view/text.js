// The running text, each token in the colour of the expert that it goes to first, with that expert's number under it.

import { tokenList } from "../kit/token_list.js";
import { afterKey, tokensOf } from "./logic.js";

/**
 * actions: point(token or null), choose(token), move(layer, token), leave().
 * Returns what `tokenList` does, with fill(route), paint({layer, slot, changed}) and light(marks) of its own.
 */
export function routesText({ label, prefix, actions }) {
  let route = null;
  let layer = 0;
  const list = tokenList({
    label: `${label}: left and right move by token, up and down by layer, Enter holds, Escape lets go`,
    id: prefix,
    className: "lk-rt-text",
    framed: true,
    actions: {
      ...actions,
      keys(key, token) {
        const target = route && afterKey(key, [layer, token], route.layers, route.n);
        if (target) actions.move(...target);
        return Boolean(target);
      },
    },
  });
  return {
    ...list,
    fill(next) {
      route = next;
      list.fill([route]);
      list.mark("lk-rt-special", (i) => route.special.has(i));
      // too narrow for an expert's number: they get more room
      const digits = Math.max(2, String(route.experts - 1).length);
      list.mark("lk-rt-short", (_, word) => [...word.textContent].length < digits);
    },
    /** The colours of a layer. changed: marks by token, or null. */
    paint({ layer: now, slot, changed }) {
      layer = now;
      list.paint(
        (i) => {
          const expert = route.expert(layer, i);
          return `${expert} ${slot(expert)} ${changed?.[i] ?? 0}`;
        },
        (word, look) => {
          const [expert, colour, mark] = look.split(" ");
          word.className = `lk-tl-word lk-rt-c${colour}${mark === "0" ? "" : ` lk-rt-changed${mark}`}`;
          word.dataset.expert = expert;
        },
      );
    },
    /** Light the tokens with a mark and dim the others; null: all alike. */
    light: (marks) => list.light(marks && ((i) => marks[i] > 0)),
  };
}

/** Which tokens an expert takes, for `light`; null for none. */
export function litBy(route, layer, expert) {
  return expert === null ? null : tokensOf(route, layer, expert);
}
