// What a cell of a pattern says, in a sentence: about at once, exactly once the kernel has answered.

import { aloud } from "../kit/aloud.js";
import { make, spokenLabel, thousands } from "../kit/common.js";
import { quoted } from "../kit/token_list.js";
import { numbered } from "./labels.js";
import { aboutWeight, exactWeight } from "./logic.js";

const EXACT_DELAY = 60; // ms; a pointer on its way over many cells asks for none of them

/** @typedef {import("../kit/keys.js").Cell} Cell */

/** Returns {element, spoken, draw(), ask(), saySoon()}. @param {import("./shown.js").Shown} shown */
export function footLine(shown) {
  const element = make("p", "lk-foot lk-att-foot");
  const { source, codes, view } = shown.shared;
  const spoken = aloud(view);
  const soon = view.later(EXACT_DELAY);

  /** The question for a cell's exact weight. @type {(at: Cell, u: number) => import("./source.js").CellPlace} */
  const question = (at, u) => ({ ...shown.place(), row: at.row / u, column: at.column / u, pool: u });
  /** @type {(query: (string | Node)[], key: (string | Node)[], same: boolean, value: Node) => (string | Node)[]} */
  const sentence = (query, key, same, value) => [...query, " looks at ", ...(same ? ["itself"] : key), ": ", value];

  /** @type {(token: number, u: number) => (string | Node)[]} */
  function named(token, u) {
    if (u === 1) return numbered(shown.labels[token], token);
    return [quoted(shown.label(token, u)), ` (${thousands(token)} to ${thousands(Math.min(shown.tokens, token + u) - 1)})`];
  }

  function draw() {
    const { row, column } = shown.cell(shown.focus) ?? {};
    element.replaceChildren(...(row === undefined || column === undefined ? [hint()] : wordsOf({ row, column }, shown.unit())));
  }

  const hint = () =>
    shown.tokens > 1 ? "Point at a cell, or move with the arrow keys, to read its weight." : "One token can only look at itself.";

  /** @type {(at: Cell, u: number) => (string | Node)[]} */
  function wordsOf(at, u) {
    const [query, key] = [named(at.row, u), named(at.column, u)];
    const reach = shown.summary.window;
    if (at.column > at.row) return [...query, " can't look at ", ...key, ", which comes later."];
    if (reach && at.row - at.column >= reach + u - 1) {
      return [...query, " can't look at ", ...key, `: this layer looks back at most ${thousands(reach)} tokens.`];
    }
    const found = source.exact(question(at, u), draw, false);
    const value = make("strong", "", found ? exactWeight(found.weight) : aboutWeight(codes, shown.reader(u)(at.row, at.column)));
    if (u === 1) return sentence(query, key, at.row === at.column, value);
    if (!found) return [...query, " look at ", ...(at.row === at.column ? ["themselves"] : key), ": highest ", value];
    const pair = [numbered(found.query_text, found.query), numbered(found.key_text, found.key)];
    return ["Highest in this cell: ", ...sentence(pair[0], pair[1], found.query === found.key, value)];
  }

  /** Ask for the exact weight of the cell that is pointed at, soon. */
  function ask() {
    soon(() => {
      const at = shown.sized ? shown.cell(shown.pointed ?? shown.held) : null;
      if (at !== null && at.column <= at.row) source.exact(question(at, shown.unit()), draw);
    });
  }

  /** @param {Cell} cell */
  function spell({ row, column }) {
    if (shown.unit() > 1) return element.textContent;
    const name = (/** @type {number} */ token) => `${spokenLabel(shown.labels[token], 40)}, token ${token}`;
    return `${name(row)}, looks at ${row === column ? "itself" : name(column)}: ${element.querySelector("strong")?.textContent ?? ""}`;
  }

  return {
    element,
    spoken: spoken.element,
    draw,
    ask,
    saySoon: () => spoken.say(() => (shown.held === null ? "" : spell(shown.held))),
  };
}
