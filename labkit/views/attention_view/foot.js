// What a cell of a pattern says, in a sentence: about at once, exactly once the kernel has answered.

import { aloud } from "../kit/aloud.js";
import { make, spokenLabel, thousands } from "../kit/common.js";
import { aboutWeight, exactWeight } from "./logic.js";
import { quoted } from "./labels.js";

const EXACT_DELAY = 60; // ms; a pointer on its way over many cells asks for none of them
const EXACT_KEPT = 5000;

/** shown: see shown.js. Returns {element, spoken, draw(), ask(), saySoon(), close()}. */
export function footLine(shown) {
  const element = make("p", "lk-att-foot");
  const spoken = aloud();
  const exact = new Map(); // what the kernel answered, by cell
  let timer = 0;

  const keyOf = (at, u) => JSON.stringify([shown.place(), u, at.row, at.column]);
  const numbered = (token) => [quoted(shown.labels[token]), ` (${thousands(token)})`];
  const sentence = (query, key, same, value) => [...query, " looks at ", ...(same ? ["itself"] : key), ": ", value];

  function named(token, u) {
    if (u === 1) return numbered(token);
    return [quoted(shown.label(token, u)), ` (${thousands(token)} to ${thousands(shown.last(token, u))})`];
  }

  function draw() {
    const { linked } = shown;
    const at = shown.cell(shown.pointed ?? shown.held ?? (linked?.column === undefined ? null : linked));
    element.replaceChildren(...(at === null ? [hint()] : wordsOf(at, shown.unit())));
  }

  const hint = () =>
    shown.tokens > 1 ? "Point at a cell, or move with the arrow keys, to read its weight." : "One token can only look at itself.";

  function wordsOf(at, u) {
    const reach = shown.summary.window;
    if (at.column > at.row) return [...named(at.row, u), " can't look at ", ...named(at.column, u), ", which comes later."];
    if (reach && at.row - at.column >= reach + u - 1) {
      return [...named(at.row, u), " can't look at ", ...named(at.column, u), `: this layer looks back at most ${thousands(reach)} tokens.`];
    }
    const found = exact.get(keyOf(at, u));
    const value = make("strong", "", found ? exactWeight(found.weight) : aboutWeight(shown.reader(u)(at.row, at.column)));
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
    if (shown.size === null) return;
    const at = shown.cell(shown.pointed ?? shown.held);
    const u = shown.unit();
    if (!shown.source.live || at === null || at.column > at.row || exact.has(keyOf(at, u))) return;
    timer = setTimeout(() => {
      const key = keyOf(at, u);
      shown.source.exact({ ...shown.place(), row: at.row / u, column: at.column / u, pool: u }, (answer) => {
        if (exact.size > EXACT_KEPT) exact.clear();
        exact.set(key, answer);
        draw();
      });
    }, EXACT_DELAY);
  }

  function spell({ row, column }) {
    if (shown.unit() > 1) return element.textContent;
    const name = (token) => `${spokenLabel(shown.labels[token], 40)}, token ${token}`;
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
