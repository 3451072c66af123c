// A bar for each expert: the loads of a layer, and one token's router probabilities.

import { columnChart } from "../kit/column_chart.js";
import { box, make } from "../kit/common.js";
import { tint } from "./colours.js";

/** @typedef {Omit<import("../kit/column_chart.js").Bars, "look" | "dress"> & {slot: (expert: number) => number | string}} Bars slot: an expert's colour */

/**
 * `columnChart` of experts in their colours, with a title. Returns what that does, and setTitle(heading, unit).
 * @param {{label: string, id: string, actions?: import("../kit/columns.js").ColumnActions | null}} given
 */
export function expertChart(given) {
  const [head, unit] = [make("span"), make("span", "lk-muted lk-small")];
  const title = make("h2");
  title.append(head, " ", unit);
  const chart = columnChart({ ...given, below: "expert" });
  return {
    ...chart,
    element: box("", title, chart.element),
    /** @param {Bars} bars */
    draw: ({ slot, ...bars }) =>
      chart.draw({ ...bars, look: (expert) => `lk-rt-c${slot(expert)}`, dress: (fill, expert) => tint(fill, slot(expert)) }),
    /** @type {(heading: string, unit?: string) => void} */
    setTitle(heading, text = "") {
      head.textContent = heading;
      unit.textContent = text;
    },
  };
}
