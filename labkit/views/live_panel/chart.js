// The live panel's picture of its values: lines, or bars.

import { make, spokenLabel, visibleLabel } from "../kit/common.js";
import { axis, extent, isThere, linePath, shape as svg, share, spread, tickText } from "../kit/plot.js";
import { chartWords, readLines } from "./logic.js";

/** @typedef {import("./logic.js").Line} Line */
/** @typedef {import("../kit/plot.js").Point} Point */
/** @typedef {import("./logic.js").Labels} Labels */

const HEIGHT = 180;
const MARGIN = { top: 10, bottom: 34, left: 58 };
const LABEL_GAP = 14;
const COLOURS = 6; // lines beyond these are dashed, in the same colours again

/** Text on one line, its spaces left as they are. @type {(text: string, limit: number) => string} */
export const plain = (text, limit) => visibleLabel(text, limit, { spaces: false });

/** How the shapes of one line look; again: with the same colour as an earlier one. @type {(kind: string, i: number, again?: string) => Record<string, string>} */
const look = (kind, i, again = "") => ({
  class: `lk-live-${kind}${again && i >= COLOURS ? ` lk-live-${again}` : ""}`,
  style: `--lk-colour: var(--lk-series-${i % COLOURS})`,
});

/** A short piece of a line as the chart draws it: the key to the colours. @param {number} i */
export function sample(i) {
  const piece = svg("svg", { width: 18, height: 8, "aria-hidden": "true", class: "lk-live-sample" });
  piece.append(svg("path", { d: "M1 4h16", ...look("line", i, "dashed") }));
  return piece;
}

/** The room of one bar: the smallest distance between two places. @param {Line[]} lines */
function slotWidth(lines) {
  const places = lines.flatMap(({ points }) => points.map(([x]) => x)).filter((x) => !Number.isNaN(x));
  const apart = places.sort((a, b) => a - b).flatMap((x, i) => (i > 0 && x > places[i - 1] ? [x - places[i - 1]] : []));
  return apart.length > 0 ? Math.min(...apart) : 1;
}

/**
 * Where values stand in the picture: x(), y() in pixels, and the ticks of both axes. Null without a value.
 * @type {(lines: Line[], width: number, bars: boolean) => Scales | null}
 */
function scales(lines, width, bars) {
  const [xs, ys] = [extent(lines, 0), extent(lines, 1)];
  if (xs === null || ys === null) return null;
  const named = !bars && lines.length > 1; // a line alone is named by its axis
  const right = named ? Math.min(width * 0.3, 14 + 7 * Math.max(...lines.map(({ name }) => Math.min(16, name.length)))) : 12;
  const plot = { left: MARGIN.left, right: width - right, top: MARGIN.top, bottom: HEIGHT - MARGIN.bottom };
  const whole = lines.every(({ points }) => points.every(([x]) => Number.isNaN(x) || Number.isInteger(x)));
  const slot = bars ? slotWidth(lines) : 0;
  const across = axis([xs[0] - slot / 2, xs[1] + slot / 2], Math.max(2, Math.floor((plot.right - plot.left) / 90)), { whole });
  const up = axis(ys, 4, { zero: bars });
  return {
    plot,
    across,
    up,
    slot,
    named,
    x: (value) => plot.left + share(value, across) * (plot.right - plot.left),
    y: (value) => plot.bottom - share(value, up) * (plot.bottom - plot.top),
  };
}

/**
 * @typedef {{plot: {left: number, right: number, top: number, bottom: number}, across: ReturnType<typeof axis>,
 *   up: ReturnType<typeof axis>, slot: number, named: boolean, x: (value: number) => number, y: (value: number) => number}} Scales
 */

/** The grid, the ticks and what the axes show. @type {(at: Scales, lines: Line[], labels: Labels) => SVGElement[]} */
function frame({ plot, across, up, x, y }, lines, labels) {
  const middle = { "text-anchor": "middle" };
  const rows = up.ticks.flatMap((tick) => {
    const height = y(tick);
    const zero = labels.chart === "bars" && tick === 0 ? " lk-live-zero" : "";
    return [
      svg("line", { x1: plot.left, x2: plot.right, y1: height, y2: height, class: `lk-live-grid${zero}` }),
      svg("text", { x: plot.left - 6, y: height + 4, class: "lk-live-tick", "text-anchor": "end" }, tickText(tick, up.step)),
    ];
  });
  const columns = across.ticks.map((tick) =>
    svg("text", { x: x(tick), y: plot.bottom + 14, class: "lk-live-tick", ...middle }, tickText(tick, across.step)),
  );
  const below = svg("text", { x: (plot.left + plot.right) / 2, y: HEIGHT - 4, class: "lk-live-axis", ...middle }, plain(labels.x, 60));
  const turned = `translate(11 ${(plot.top + plot.bottom) / 2}) rotate(-90)`;
  const upward = [labels.y || (lines.length === 1 ? lines[0].name : ""), labels.unit && `(${labels.unit})`].filter(Boolean).join(" ");
  return [...rows, ...columns, below, svg("text", { transform: turned, class: "lk-live-axis", ...middle }, plain(upward, 28))];
}

/** One name's values as bars, beside those of the other names. @type {(at: Scales, points: Point[], i: number, count: number) => SVGElement} */
function barsOf({ plot, across, slot, x, y }, points, i, count) {
  const each = Math.max(1, ((x(across.low + slot) - plot.left) * 0.8) / count);
  const [zero, wide] = [y(0).toFixed(1), Math.max(0.8, each * 0.92).toFixed(2)];
  const bar = (/** @type {Point} */ [at, value]) => `M${(x(at) + (i - count / 2) * each).toFixed(2)} ${zero}V${y(value).toFixed(1)}h${wide}V${zero}z`;
  return svg("path", { d: points.filter(isThere).map(bar).join(""), ...look("bars", i, "faded") });
}

/** The names at the ends of the lines. @type {(at: Scales, lines: Line[]) => SVGElement[]} */
function names({ plot, x, y }, lines) {
  const ends = lines.flatMap(({ name, points }, i) => {
    const end = points.findLast(isThere);
    return end ? [{ name, i, left: x(end[0]), top: y(end[1]) }] : [];
  });
  const heights = spread(ends.map(({ top }) => top), LABEL_GAP, plot.top, plot.bottom);
  return ends.flatMap(({ name, i, left, top }, k) => [
    svg("line", { x1: left, y1: top, x2: plot.right + 5, y2: heights[k], ...look("lead", i) }),
    svg("text", { x: plot.right + 6, y: heights[k] + 4, class: "lk-live-label" }, plain(name, 16)),
  ]);
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
    const picture = svg("svg", { width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, "aria-hidden": "true" });
    const bars = labels.chart === "bars";
    const at = scales(lines, width, bars);
    if (at === null) {
      const empty = status.state === "running" || status.state === "waiting" ? "No values yet" : "No values to draw";
      picture.append(svg("text", { x: MARGIN.left, y: HEIGHT / 2, class: "lk-live-tick" }, empty));
    } else {
      picture.append(...frame(at, lines, labels));
      lines.forEach(({ points }, i) => {
        const drawn = () => linePath(points.map(([x, y]) => [at.x(x), at.y(y)]));
        picture.append(bars ? barsOf(at, points, i, lines.length) : svg("path", { d: drawn(), ...look("line", i, "dashed") }));
      });
      if (at.named) picture.append(...names(at, lines));
    }
    element.replaceChildren(picture);
  }

  view.resized(draw);
  return { element, draw };
}
