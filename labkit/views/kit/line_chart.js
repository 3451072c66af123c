// A chart of named lines, as a view draws it live: axes with round ticks, names at the lines' ends, gaps as gaps.

import { visibleLabel } from "./common.js";
import { axis, extent, isThere, linePath, shape, share, spread, tickText } from "./plot.js";

/** @typedef {import("./plot.js").Point} Point */
/** @typedef {import("./plot.js").Line} Line */

const MARGIN = { top: 10, bottom: 34, left: 58 };
const LABEL_GAP = 14;
const COLOURS = 6; // lines beyond these are dashed, in the same colours again

/**
 * What a chart is drawn from. x, y: what the axes show; slot: the room of one bar, on the horizontal axis; zero: a marked line
 * at 0, which the vertical axis then holds; named: whether names stand at the lines' ends.
 * @typedef {{lines: Line[], width: number, height: number, x: string, y: string, slot?: number, zero?: boolean,
 *   named?: boolean}} Given
 */

/**
 * Where values stand in the picture: x(), y() in pixels, and the ticks of both axes.
 * @typedef {{plot: {left: number, right: number, top: number, bottom: number}, across: ReturnType<typeof axis>,
 *   up: ReturnType<typeof axis>, x: (value: number) => number, y: (value: number) => number}} Scales
 */

/** Text on one line, its spaces left as they are. @type {(text: string, limit: number) => string} */
export const plain = (text, limit) => visibleLabel(text, limit, { spaces: false });

/** How the shapes of one line look; again: with the same colour as an earlier one. @type {(kind: string, i: number, again?: string) => Record<string, string>} */
export const look = (kind, i, again = "") => ({
  class: `lk-plot-${kind}${again && i >= COLOURS ? ` lk-plot-${again}` : ""}`,
  style: `--lk-colour: var(--lk-series-${i % COLOURS})`,
});

/** A short piece of a line as the chart draws it: the key to the colours. @param {number} i */
export function sample(i) {
  const piece = shape("svg", { width: 18, height: 8, "aria-hidden": "true", class: "lk-plot-sample" });
  piece.append(shape("path", { d: "M1 4h16", ...look("line", i, "dashed") }));
  return piece;
}

/** Null without a value. @param {Given} given @returns {Scales | null} */
function scales({ lines, width, height, slot = 0, zero = false, named = false }) {
  const [xs, ys] = [extent(lines, 0), extent(lines, 1)];
  if (xs === null || ys === null) return null;
  const right = named ? Math.min(width * 0.3, 14 + 7 * Math.max(...lines.map(({ name }) => Math.min(16, name.length)))) : 12;
  const plot = { left: MARGIN.left, right: width - right, top: MARGIN.top, bottom: height - MARGIN.bottom };
  const whole = lines.every(({ points }) => points.every(([x]) => Number.isNaN(x) || Number.isInteger(x)));
  const across = axis([xs[0] - slot / 2, xs[1] + slot / 2], Math.max(2, Math.floor((plot.right - plot.left) / 90)), { whole });
  const up = axis(ys, height < 150 ? 3 : 4, { zero });
  return {
    plot,
    across,
    up,
    x: (value) => plot.left + share(value, across) * (plot.right - plot.left),
    y: (value) => plot.bottom - share(value, up) * (plot.bottom - plot.top),
  };
}

/** The grid, the ticks and what the axes show. @type {(at: Scales, given: Given) => SVGElement[]} */
function frame({ plot, across, up, x, y }, { height, zero = false, x: below, y: upward }) {
  const middle = { "text-anchor": "middle" };
  const rows = up.ticks.flatMap((tick) => [
    shape("line", { x1: plot.left, x2: plot.right, y1: y(tick), y2: y(tick), class: `lk-plot-grid${zero && tick === 0 ? " lk-plot-zero" : ""}` }),
    shape("text", { x: plot.left - 6, y: y(tick) + 4, class: "lk-plot-tick", "text-anchor": "end" }, tickText(tick, up.step)),
  ]);
  const columns = across.ticks.map((tick) =>
    shape("text", { x: x(tick), y: plot.bottom + 14, class: "lk-plot-tick", ...middle }, tickText(tick, across.step)),
  );
  const turned = `translate(11 ${(plot.top + plot.bottom) / 2}) rotate(-90)`;
  return [
    ...rows,
    ...columns,
    shape("text", { x: (plot.left + plot.right) / 2, y: height - 4, class: "lk-plot-axis", ...middle }, plain(below, 60)),
    shape("text", { transform: turned, class: "lk-plot-axis", ...middle }, plain(upward, 28)),
  ];
}

/** The names at the ends of the lines. @type {(at: Scales, given: Given) => SVGElement[]} */
function names({ plot, x, y }, { lines }) {
  const ends = lines.flatMap(({ name, points, colour: own }, i) => {
    const end = points.findLast(isThere);
    return end ? [{ name, i: own ?? i, left: x(end[0]), top: y(end[1]) }] : [];
  });
  const heights = spread(ends.map(({ top }) => top), LABEL_GAP, plot.top, plot.bottom);
  return ends.flatMap(({ name, i, left, top }, k) => [
    shape("line", { x1: left, y1: top, x2: plot.right + 5, y2: heights[k], ...look("lead", i) }),
    shape("text", { x: plot.right + 6, y: heights[k] + 4, class: "lk-plot-label" }, plain(name, 16)),
  ]);
}

/** The lines themselves. @type {(at: Scales, given: Given) => SVGElement[]} */
export const linesOf = ({ x, y }, { lines }) =>
  lines.map(({ points, colour }, i) => shape("path", { d: linePath(points.map(([at, value]) => [x(at), y(value)])), ...look("line", colour ?? i, "dashed") }));

/**
 * The picture, hidden from who hears it: the words for it stand beside. empty: what it says where there is no value. marks(at,
 * given): other shapes than lines.
 * @param {Given} given
 * @param {string} empty
 */
export function lineChart(given, empty, marks = linesOf) {
  const { width, height } = given;
  const picture = shape("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  const at = scales(given);
  if (at === null) picture.append(shape("text", { x: MARGIN.left, y: height / 2, class: "lk-plot-tick" }, empty));
  else picture.append(...frame(at, given), ...marks(at, given), ...(given.named ? names(at, given) : []));
  return picture;
}
