// Two texts side by side, token by token, the tokens marked in which they differ.

import { counted, make, section, showText } from "./common.js";

const MARKS = 40; // of what can't be seen, in one token

/**
 * A text under its heading. Returns {element, title, text, fill(tokens, marked)}; a text that is there already is left alone,
 * so that what is selected in it stays so.
 * @type {(id: string, heading: string, className: string) => {element: HTMLElement, title: HTMLElement, text: HTMLElement,
 *   fill: (tokens: string[], marked: (token: number) => boolean) => void}}
 */
export function textPane(id, heading, className) {
  const { element, title } = section(id, heading, `lk-paired ${className}`);
  const text = make("div", "lk-prose");
  text.dir = "auto";
  element.append(text);
  let drawn = "";
  return {
    element,
    title,
    text,
    fill(tokens, marked) {
      const marks = tokens.map((_, i) => marked(i));
      const now = JSON.stringify([tokens, marks]);
      if (now === drawn) return;
      drawn = now;
      text.replaceChildren(
        ...tokens.map((token, i) => {
          const piece = make(marks[i] ? "mark" : "span", "lk-paired-token");
          showText(piece, token, { limit: MARKS });
          return piece;
        }),
      );
    },
  };
}

/**
 * What two texts have in common, in a sentence. parted: the first token in which they differ, or null; counts: of their tokens;
 * done: whether both have ended.
 * @type {(parted: number | null, counts: [number, number], done: boolean) => string}
 */
export function partedText(parted, [one, other], done) {
  if (parted !== null) return parted === 0 ? "They part at the first token." : `They part after ${counted(parted, "token")}.`;
  const n = Math.min(one, other);
  if (done && one === other && n > 0) return `Both texts are the same: ${counted(n, "token")}.`;
  return n > 0 ? `The same so far: ${counted(n, "token")}.` : "";
}
