// What is known of one token: what else the model considered, how it was chosen, and its numbers.

import { barRow } from "../kit/bars.js";
import { box, decimal, equalChoices, make, percent, spokenLabel } from "../kit/common.js";
import { button } from "../kit/controls.js";
import { tokenLabel } from "../kit/token_list.js";
import { choicePane } from "./choice.js";
import { bars, ordinal } from "./logic.js";

/**
 * What is to be explained. drawn: how the tokens were chosen, in words; marks: what a form left on them; choice: how this one was
 * chosen, null where that is not known (yet); rows: of the chart, for which room is kept.
 * @typedef {object} Explained
 * @property {import("./logic.js").Data} data
 * @property {string[]} strings
 * @property {string} drawn
 * @property {import("./logic.js").Marks} marks
 * @property {import("./logic.js").Choice | null} choice
 * @property {number} rows
 * @property {number} overridden
 */

/** @type {(row: import("./logic.js").Bar, name: Node | string) => HTMLElement} */
function bar(row, name) {
  const rank = row.rank ? `, ${ordinal(row.rank)}` : "";
  const { element } = barRow({
    name,
    share: row.probability,
    number: percent(row.probability),
    note: row.taken ? `taken${rank}` : row.allowed ? "" : "cut by form",
  });
  element.classList.toggle("lk-bar-others", row.others);
  element.classList.toggle("lk-bar-taken", row.taken);
  element.classList.toggle("lk-bar-cut", !row.allowed);
  return element;
}

/** @type {(i: number, explained: Explained) => HTMLElement} */
function factList(i, { data, drawn, marks, overridden }) {
  const facts = make("dl", "lk-facts");
  const rows = [
    ["Probability", percent(Math.exp(data.logprob[i]))],
    ["Log-probability", `${decimal(data.logprob[i], 3)} nats`],
    ["Rank", `${ordinal(data.rank[i] + 1)} choice`],
    ["Entropy", `${decimal(data.entropy[i], 3)} nats`],
    ["As open as", equalChoices(data.entropy[i])],
    ["When drawn", drawn.startsWith("greedy") ? "certain: greedy" : percent(Math.exp(data.sampledLogprob[i]))],
  ];
  if (marks.forbidden) {
    const share = marks.forbidden[i];
    rows.push(["Form forbade", `${percent(share)}${share > overridden ? ", an override" : ""}`]);
  }
  if (marks.drafted.has(i)) rows.push(["Drafted", "yes, and accepted"]);
  for (const [name, value] of rows) facts.append(box("lk-fact", make("dt", "lk-muted", name), make("dd", "", value)));
  return facts;
}

/**
 * Returns {element, draw(token, caption, explained)}. branch(token, id, text): the text is to go on from there with another
 * token; redraw(): the same token is to be drawn again.
 * @param {{id: string, branch?: ((token: number, id: number, text: string) => void) | null, redraw: () => void}} given
 */
export function tokenPanel({ id: name, branch = null, redraw }) {
  const element = make("section", "lk-panel lk-focus-panel");
  element.setAttribute("aria-label", "Alternatives of one token");
  const choices = choicePane(name, redraw);

  /** A row's name: a button where the text can branch there. @type {(i: number, text: string, id: number, taken: boolean) => HTMLElement} */
  function named(i, text, id, taken) {
    const label = tokenLabel(text, 40);
    if (branch === null || taken) return label;
    const made = button("", `Branch here with ${spokenLabel(text, 40)}`, () => branch(i, id, text));
    made.classList.add("lk-bar-button");
    made.dataset.id = String(id);
    made.append(label);
    return made;
  }

  return {
    element,
    /** @type {(token: number, caption: string, explained: Explained) => void} */
    draw(i, caption, explained) {
      element.hidden = i < 0;
      if (i < 0) return;
      const { data, strings, marks, choice, rows } = explained;
      const title = make("p", "lk-panel-title");
      title.append(tokenLabel(strings[data.token[i]], 48), make("span", "lk-panel-place lk-muted", `token ${i}, id ${data.id[i]}`));
      const kind = data.outside.has(i) ? "not part of the text" : data.continued.has(i) ? "more bytes of a character" : "";
      if (kind) title.append(make("span", "lk-panel-place lk-muted", kind));
      if (caption) title.append(make("span", "lk-panel-caption lk-muted", caption));
      const chart = make("ul", choice ? "lk-bars lk-choice-bars" : "lk-bars");
      chart.style.setProperty("--lk-rows", String(rows));
      chart.append(
        ...(choice
          ? choices.rows(choice, (text, id, taken) => named(i, text, id, taken))
          : bars(data, i, marks.allowed).map((row) =>
              bar(row, row.others ? "all other tokens" : named(i, strings[row.token], row.id, row.taken)),
            )),
      );
      const focused = /** @type {HTMLElement | null} */ (element.contains(document.activeElement) ? document.activeElement : null);
      const parts = choice ? [choices.head(choice), chart, choices.key] : [chart];
      element.replaceChildren(title, box("lk-panel-body lk-split", box("", ...parts), factList(i, explained)));
      if (choice) {
        element.append(choices.table(choice));
        element.style.minHeight = `${element.offsetHeight}px`; // the next token's comes a little later: nothing jumps
      }
      if (focused) {
        const again = focused.dataset.id ? `[data-id="${focused.dataset.id}"]` : "select";
        /** @type {HTMLElement | null} */ (element.querySelector(again))?.focus({ preventScroll: true });
      }
    },
  };
}
