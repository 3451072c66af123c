// The live panel's picture of its values: lines, or bars.

import { make, spokenLabel } from "../kit/common.js";
import { lineChart, look } from "../kit/line_chart.js";
import { isThere, readLines, shape } from "../kit/plot.js";
import { chartWords } from "./logic.js";

/** @typedef {import("../kit/plot.js").Line} Line */
/** @typedef {import("../kit/plot.js").Point} Point */
/** @typedef {import("./logic.js").Labels} Labels */

const HEIGHT = 180;

/** The room of one bar: the smallest distance between two places. @param {Line[]} lines */
function slotWidth(lines) {
  const places = lines.flatMap(({ points }) => points.map(([x]) => x)).filter((x) => !Number.isNaN(x));
  const apart = places.sort((a, b) => a - b).flatMap((x, i) => (i > 0 && x > places[i - 1] ? [x - places[i - 1]] : []));
  return apart.length > 0 ? Math.min(...apart) : 1;
}

/**
 * Each name's values as bars, beside those of the other names.
 * @type {(at: import("../kit/line_chart.js").Scales, given: import("../kit/line_chart.js").Given) => SVGElement[]}
 */
function barsOf({ plot, across, x, y }, { lines, slot = 1 }) {
  const each = Math.max(1, ((x(across.low + slot) - plot.left) * 0.8) / lines.length);
  const [zero, wide] = [y(0).toFixed(1), Math.max(0.8, each * 0.92).toFixed(2)];
  return lines.map(({ points }, i) => {
    const left = (/** @type {number} */ at) => (x(at) + (i - lines.length / 2) * each).toFixed(2);
    const bar = (/** @type {Point} */ [at, value]) => `M${left(at)} ${zero}V${y(value).toFixed(1)}h${wide}V${zero}z`;
    return shape("path", { d: points.filter(isThere).map(bar).join(""), ...look("bars", i, "faded") });
  });
}

/**
 * {element, draw()}: draws the view's traits as they are, as wide as there is room.
 * @param {import("../kit/mount.js").Mounted} view
 */
export function chartPane(view) {
  const labels = /** @type {Labels} */ (view.get("labels"));
  const element = make("div", "lk-live-chart");
  element.setAttribute("role", "img");
  element.hidden = !labels.chart;

  function draw() {
    const width = Math.floor(element.clientWidth);
    if (!labels.chart || width < 80) return;
    const status = view.get("status");
    const lines = readLines(view.get("series"), view.get("points"));
    element.setAttribute("aria-label", spokenLabel(chartWords(lines, labels, status), 400));
    const bars = labels.chart === "bars";
    const y = [labels.y || (lines.length === 1 ? lines[0].name : ""), labels.unit && `(${labels.unit})`].filter(Boolean).join(" ");
    const given = { lines, width, height: HEIGHT, x: labels.x, y, zero: bars, slot: bars ? slotWidth(lines) : 0 };
    const named = !bars && lines.length > 1; // a line alone is named by its axis
    const empty = status.state === "running" || status.state === "waiting" ? "No values yet" : "No values to draw";
    element.replaceChildren(lineChart({ ...given, named }, empty, bars ? barsOf : undefined));
  }

  view.resized(draw);
  return { element, draw };
}
