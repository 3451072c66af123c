// How one token was chosen: the distribution as the model gave it and after each filter, with what was cut still to be seen.

import { barRow } from "../kit/bars.js";
import { box, decimal, equalChoices, make, percent, thousands } from "../kit/common.js";
import { picker, setOptions } from "../kit/controls.js";
import { legend } from "../kit/legend.js";
import { table } from "../kit/table.js";
import { candidates } from "./logic.js";

/** @typedef {import("./logic.js").Choice} Choice */

/**
 * Returns {bars(choice, name), table(choice), picker, key}: the rows of the chart and the numbers of all stages. name(text, id, taken):
 * what a row is called. redraw(): another stage is to be drawn.
 * @type {(id: string, redraw: () => void) => {
 *   rows: (choice: Choice, name: (text: string, id: number, taken: boolean) => Node) => HTMLElement[],
 *   table: (choice: Choice) => HTMLElement, head: (choice: Choice) => HTMLElement, key: HTMLElement}}
 */
export function choicePane(id, redraw) {
  let wanted = ""; // the stage to draw; "": the last
  const { pair, select } = picker("Chances after", id, [], (value) => {
    wanted = value;
    redraw();
  });
  const key = legend([{ sample: "lk-track-mark", text: "the model's own chance" }, { text: "crossed out: cut, with the chance it had" }], { quiet: true });
  key.classList.add("lk-choice-key");

  const stageOf = (/** @type {Choice} */ { stages }) => {
    const found = stages.findIndex(({ name }) => name === wanted);
    return found < 0 ? stages.length - 1 : found;
  };
  return {
    key,
    head(choice) {
      const names = choice.stages.map(({ name }) => name);
      setOptions(select, names, names[stageOf(choice)]);
      return pair;
    },
    rows(choice, name) {
      const stage = stageOf(choice);
      const rows = candidates(choice, stage).map(({ text, id, share, before, by, taken }) => {
        const there = { share, mark: before, number: percent(share), note: taken ? "taken" : "" };
        const cut = { share: before, number: percent(before), exact: "the model's own chance", note: `cut by ${by}` };
        const className = `${by ? "lk-bar-cut" : ""} ${taken ? "lk-bar-taken" : ""}`;
        return barRow({ name: name(text, id, taken), ...(by ? cut : there), className }).element;
      });
      const { count, shares } = choice.others;
      if (count > 0) {
        const left = { share: shares[stage], mark: shares[0], number: percent(shares[stage]), note: "" };
        rows.push(barRow({ name: `${thousands(count)} others`, ...left, className: "lk-bar-others" }).element);
      }
      return rows;
    },
    table({ stages }) {
      const columns = ["After", "Tokens left", "Cut here", "Entropy"];
      const rows = stages.map(({ name, kept, cut, entropy }, i) => [
        name,
        thousands(kept),
        i === 0 ? "" : percent(cut),
        box("", `${decimal(entropy, 3)} nats `, make("span", "lk-muted", `(${equalChoices(entropy)})`)),
      ]);
      return table({ columns, rows, numbers: ["Tokens left", "Cut here"], className: "lk-choice-table" });
    },
  };
}

/**
 * How tokens were chosen, as far as it is known. on(): whether steps can be looked into; text(): the number of the text on show;
 * said(): why one could not be found.
 * @typedef {{on: () => boolean, get: (token: number) => Choice | null, want: (token: number) => void, rows: number, said: () => string}} Choices
 */

/** @type {(view: import("../kit/mount.js").Mounted, text: () => number) => Choices} */
export function choiceStore(view, text) {
  const key = (/** @type {number} */ token) => `${text()}:${token}`;
  const on = () => view.get("can_choose") && !view.exported;
  let asked = "";
  return {
    on,
    rows: view.get("constants").choice_rows,
    get: (token) => view.get("choices")[key(token)] ?? null,
    want(token) {
      if (!on() || view.get("choices")[key(token)] || asked === key(token)) return;
      asked = key(token);
      view.wire.ask("choose", { text: text(), token }, { latest: "choose" }).catch(() => {
        asked = ""; // the kernel is busy: the next look asks again
      });
    },
    said: () => (view.get("choice_status").state === "failed" ? view.get("choice_status").message : ""),
  };
}
