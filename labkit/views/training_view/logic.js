// What the training view says of its charts, apart from any drawing.

import { significant } from "../kit/common.js";
import { isThere } from "../kit/plot.js";

/**
 * zero: whether 0 is a line to be held against; lines: with the number of points and of the colour of each.
 * @typedef {{title: string, note: string, y: string, zero: boolean, small: boolean,
 *   lines: {name: string, n: number, colour: number}[]}} Chart
 */

/**
 * A chart in words: each line's first and latest value.
 * @type {(chart: Chart, lines: import("../kit/plot.js").Line[]) => string}
 */
export function chartWords({ title, y }, lines) {
  const said = lines.flatMap(({ name, points }) => {
    const there = points.filter(isThere);
    const [first, last] = [there[0], there[there.length - 1]];
    if (first === undefined) return [];
    return [`${name} from ${significant(first[1])} at step ${first[0]} to ${significant(last[1])} at step ${last[0]}`];
  });
  return `Line chart. ${title}${y ? ` in ${y}` : ""}: ${said.length > 0 ? said.join("; ") : "nothing yet"}`;
}
