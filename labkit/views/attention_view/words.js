// What is to be known about the head on show: its strongest links, and notes in sentences.

import { decimal, make, thousands } from "../kit/common.js";
import { table } from "../kit/table.js";
import { exactWeight, roughPercent } from "./logic.js";
import { tokenLabel } from "../kit/token_list.js";

/** @typedef {import("./source.js").Summary} Summary */

/**
 * The head's strongest links as a table; link(cell) points at one's cell. shown: see shown.js.
 * @param {import("./shown.js").Shown} shown
 * @param {(cell: import("../kit/keys.js").Cell | null) => void} link
 */
export function linkTable({ summary, tokens, pool }, link) {
  const token = (/** @type {string} */ text, /** @type {number} */ i) => {
    const cell = make("span");
    cell.append(tokenLabel(text, 24), make("span", "lk-att-number", ` ${i}`));
    return cell;
  };
  const element = table({
    caption: "Strongest links",
    columns: ["Token", "looks at", "Weight"],
    numbers: ["Weight"],
    rows: summary.links.map((each) => [token(each.query_text, each.query), token(each.key_text, each.key), exactWeight(each.weight)]),
  });
  element.caption?.append(make("span", "lk-muted", tokens > 2 ? ", those to the first token and to itself aside" : ""));
  const cellOf = (/** @type {number} */ i) => Math.floor(i / pool) * pool;
  summary.links.forEach((each, i) => {
    const row = element.rows[i + 1];
    row.addEventListener("pointerenter", () => link({ row: cellOf(each.query), column: cellOf(each.key) }));
    row.addEventListener("pointerleave", () => link(null));
  });
  return element;
}

/**
 * What is to be known about a head, in sentences. chosen: the head that was chosen to be shown first, or null.
 * @type {(summary: Summary, more: {tokens: number, pool: number, chosen: [number, number] | null}) => string[]}
 */
export function headNotes(summary, { tokens, pool, chosen }) {
  const said = [];
  if (summary.others !== null && tokens > 2) {
    said.push(
      `On average ${roughPercent(summary.first)} of a token's attention goes to the first token, ` +
        `${roughPercent(summary.self)} to itself, ${roughPercent(summary.others)} to the others.` +
        (summary.first > 0.5 ? " The first token often takes what a head has no other use for: an attention sink." : ""),
    );
  }
  if (summary.broken_rows > 0) {
    said.push(
      `${thousands(summary.broken_rows)} of ${thousands(tokens)} tokens have weights that are not numbers (NaN); ` +
        "their cells are crossed out in orange.",
    );
  }
  if (summary.lowest_sum !== null) {
    said.push(
      `Rows sum to less than 1, the lowest to ${decimal(summary.lowest_sum, 3)}: this architecture lets a head send ` +
        "attention to a sink outside the text.",
    );
  }
  if (summary.window && summary.window < tokens) {
    said.push(`This layer looks back at most ${thousands(summary.window)} tokens (a sliding window); what lies beyond is hatched.`);
  }
  if (summary.ahead) said.push("This head also looks at later tokens; only those up to the token itself are drawn.");
  if (pool > 1) said.push(`Seen whole, each cell stands for ${pool} × ${pool} tokens and shows the highest of their weights; zoom in for single ones.`);
  if (chosen && chosen[0] === summary.layer && chosen[1] === summary.head) {
    said.push("Shown first because its tokens look most firmly at one other, the first token aside.");
  }
  return said;
}

/** What is to be said of a file, which knows less than a kernel.
 * @type {(file: {leftOut: string, pool: number, aside: boolean}) => string[]} */
export function fileNotes({ leftOut, pool, aside }) {
  const said = leftOut ? [`Not in this file: ${leftOut}. They can be seen where the notebook runs.`] : [];
  said.push("Without the notebook, weights are known to about two digits.");
  if (pool > 1) said.push("In this file the text shows the highest weight of the cells that a token is in.");
  if (aside && pool > 1) said.push("In this file the first token of so long a text can't be set aside.");
  return said;
}
