// What a cell of a pattern says, in a sentence: about at once, exactly once the kernel has answered.

import { aloud } from "../kit/aloud.js";
import { make, spokenLabel, thousands } from "../kit/common.js";
import { aboutWeight, exactWeight } from "./logic.js";
import { quoted } from "./labels.js";

const EXACT_DELAY = 60; // ms; a pointer on its way over many cells asks for none of them
const EXACT_KEPT = 5000;

/** @typedef {import("../kit/keys.js").Cell} Cell */

/** Returns {element, spoken, draw(), ask(), saySoon(), close()}. @param {import("./shown.js").Shown} shown */
export function footLine(shown) {
  const element = make("p", "lk-att-foot");
  const spoken = aloud();
  const { source, codes } = shown.shared;
  /** What the kernel answered, by cell. @type {Map<string, import("./source.js").Link>} */
  const exact = new Map();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;

  const keyOf = (/** @type {Cell} */ at, /** @type {number} */ u) => JSON.stringify([shown.place(), u, at.row, at.column]);
  const numbered = (/** @type {number} */ token) => [quoted(shown.labels[token]), ` (${thousands(token)})`];
  /** @type {(query: (string | Node)[], key: (string | Node)[], same: boolean, value: Node) => (string | Node)[]} */
  const sentence = (query, key, same, value) => [...query, " looks at ", ...(same ? ["itself"] : key), ": ", value];

  /** @type {(token: number, u: number) => (string | Node)[]} */
  function named(token, u) {
    if (u === 1) return numbered(token);
    return [quoted(shown.label(token, u)), ` (${thousands(token)} to ${thousands(shown.last(token, u))})`];
  }

  function draw() {
    const { row, column } = shown.cell(shown.pointed ?? shown.held ?? shown.linked) ?? {};
    element.replaceChildren(...(row === undefined || column === undefined ? [hint()] : wordsOf({ row, column }, shown.unit())));
  }

  const hint = () =>
    shown.tokens > 1 ? "Point at a cell, or move with the arrow keys, to read its weight." : "One token can only look at itself.";

  /** @type {(at: Cell, u: number) => (string | Node)[]} */
  function wordsOf(at, u) {
    const reach = shown.summary.window;
    if (at.column > at.row) return [...named(at.row, u), " can't look at ", ...named(at.column, u), ", which comes later."];
    if (reach && at.row - at.column >= reach + u - 1) {
      return [...named(at.row, u), " can't look at ", ...named(at.column, u), `: this layer looks back at most ${thousands(reach)} tokens.`];
    }
    const found = exact.get(keyOf(at, u));
    const value = make("strong", "", found ? exactWeight(found.weight) : aboutWeight(codes, shown.reader(u)(at.row, at.column)));
    if (u === 1) return sentence(numbered(at.row), numbered(at.column), at.row === at.column, value);
    if (found) {
      const query = [quoted(found.query_text), ` (${thousands(found.query)})`];
      const key = [quoted(found.key_text), ` (${thousands(found.key)})`];
      return ["Highest in this cell: ", ...sentence(query, key, found.query === found.key, value)];
    }
    return [...named(at.row, u), " look at ", ...(at.row === at.column ? ["themselves"] : named(at.column, u)), ": highest ", value];
  }

  /** Ask for the exact weight of the cell that is pointed at, soon. */
  function ask() {
    clearTimeout(timer);
    if (!shown.sized) return;
    const at = shown.cell(shown.pointed ?? shown.held);
    const u = shown.unit();
    if (!source.live || at === null || at.column > at.row || exact.has(keyOf(at, u))) return;
    timer = setTimeout(() => {
      const key = keyOf(at, u);
      source.exact({ ...shown.place(), row: at.row / u, column: at.column / u, pool: u }, (answer) => {
        if (exact.size > EXACT_KEPT) exact.clear();
        exact.set(key, answer);
        draw();
      });
    }, EXACT_DELAY);
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
    close() {
      clearTimeout(timer);
      spoken.close();
    },
  };
}
