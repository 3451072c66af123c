// The live panel's picture of its values: lines, or bars.

import { make, spokenLabel, visibleRuns } from "../kit/common.js";
import { axis, chartWords, extent, linePath, readLines, share, spread, tickText } from "./logic.js";

const HEIGHT = 180;
const MARGIN = { top: 10, bottom: 34, left: 58 };
const LABEL_GAP = 14;
const COLOURS = 6; // lines beyond these are dashed, in the same colours again
const SVG = "http://www.w3.org/2000/svg";

/**
 * @param {string} tag
 * @param {Record<string, string | number>} attributes
 * @param {string | null} text
 */
function svg(tag, attributes = {}, text = null) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  if (text !== null) element.textContent = text;
  return element;
}

/** Text on one line, with what can't be seen written out and spaces left as they are. */
export function plain(text, limit) {
  let label = "";
  for (const run of visibleRuns(text, { spaces: false })) label += run.kind === "text" ? run.text : run.mark || "…";
  const characters = [...label];
  return characters.length > limit ? `${characters.slice(0, limit - 1).join("")}…` : label;
}

/** A short piece of a line as the chart draws it: the key to the colours. */
export function sample(i) {
  const piece = svg("svg", { width: 18, height: 8, "aria-hidden": "true", class: "lk-live-sample" });
  piece.append(svg("path", { d: "M1 4h16", class: lineClass(i) }));
  return piece;
}

function lineClass(i) {
  return `lk-live-line lk-live-c${i % COLOURS}${i >= COLOURS ? " lk-live-dashed" : ""}`;
}

/** The room of one bar: the smallest distance between two places. */
function slotWidth(lines) {
  const places = [...new Set(lines.flatMap(({ points }) => points.map(([x]) => x).filter((x) => !Number.isNaN(x))))].sort((a, b) => a - b);
  let least = Infinity;
  for (let i = 1; i < places.length; i += 1) least = Math.min(least, places[i] - places[i - 1]);
  return Number.isFinite(least) ? least : 1;
}

/**
 * {element, draw()}: draws the view's traits as they are, as wide as there is room.
 * @param {import("../kit/mount.js").Mounted} view
 */
export function chartPane(view) {
  const labels = view.get("labels");
  const chart = make("div", "lk-live-chart");
  chart.setAttribute("role", "img");
  chart.hidden = !labels.chart;

  function draw() {
    const width = Math.floor(chart.clientWidth);
    if (!labels.chart || width < 80) return;
    const status = view.get("status");
    const lines = readLines(view.get("series"), view.get("points"));
    chart.setAttribute("aria-label", spokenLabel(chartWords(labels.chart, lines, status.values, labels, status), 400));
    const bars = labels.chart === "bars";
    const xs = extent(lines, 0);
    const ys = extent(lines, 1);
    const direct = !bars && lines.length > 1; // a line alone is named by its axis
    const right = direct ? Math.min(width * 0.3, 14 + 7 * Math.max(...lines.map(({ name }) => Math.min(16, name.length)))) : 12;
    const plot = { left: MARGIN.left, right: width - right, top: MARGIN.top, bottom: HEIGHT - MARGIN.bottom };
    const picture = svg("svg", { width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, "aria-hidden": "true" });
    if (xs === null || ys === null) {
      const empty = status.state === "running" || status.state === "waiting" ? "No values yet" : "No values to draw";
      picture.append(svg("text", { x: plot.left, y: HEIGHT / 2, class: "lk-live-tick" }, empty));
      chart.replaceChildren(picture);
      return;
    }
    const whole = lines.every(({ points }) => points.every(([x]) => Number.isNaN(x) || Number.isInteger(x)));
    const slots = bars ? slotWidth(lines) : 0;
    const across = axis([xs[0] - slots / 2, xs[1] + slots / 2], Math.max(2, Math.floor((plot.right - plot.left) / 90)), { whole });
    const up = axis(ys, 4, { zero: bars });
    const pixelX = (value) => plot.left + share(value, across) * (plot.right - plot.left);
    const pixelY = (value) => plot.bottom - share(value, up) * (plot.bottom - plot.top);

    for (const tick of up.ticks) {
      const at = pixelY(tick).toFixed(1);
      const zero = bars && tick === 0 ? " lk-live-zero" : "";
      picture.append(
        svg("line", { x1: plot.left, x2: plot.right, y1: at, y2: at, class: `lk-live-grid${zero}` }),
        svg("text", { x: plot.left - 6, y: Number(at) + 4, class: "lk-live-tick", "text-anchor": "end" }, tickText(tick, up.step)),
      );
    }
    for (const tick of across.ticks) {
      const at = pixelX(tick);
      picture.append(svg("text", { x: at, y: plot.bottom + 14, class: "lk-live-tick", "text-anchor": "middle" }, tickText(tick, across.step)));
    }
    if (labels.x) {
      const middle = (plot.left + plot.right) / 2;
      picture.append(svg("text", { x: middle, y: HEIGHT - 4, class: "lk-live-axis", "text-anchor": "middle" }, plain(labels.x, 60)));
    }
    const upward = [labels.y || (lines.length === 1 ? lines[0].name : ""), labels.unit && `(${labels.unit})`].filter(Boolean).join(" ");
    if (upward) {
      const middle = (plot.top + plot.bottom) / 2;
      const turned = { transform: `translate(11 ${middle}) rotate(-90)`, class: "lk-live-axis", "text-anchor": "middle" };
      picture.append(svg("text", turned, plain(upward, 28)));
    }

    lines.forEach(({ points }, i) => {
      if (bars) {
        const each = Math.max(1, ((pixelX(across.low + slots) - plot.left) * 0.8) / lines.length);
        const zero = pixelY(0);
        let path = "";
        for (const [x, y] of points) {
          if (Number.isNaN(x) || Number.isNaN(y)) continue;
          const left = pixelX(x) + (i - lines.length / 2) * each;
          path += `M${left.toFixed(2)} ${zero.toFixed(1)}V${pixelY(y).toFixed(1)}h${Math.max(0.8, each * 0.92).toFixed(2)}V${zero.toFixed(1)}z`;
        }
        picture.append(svg("path", { d: path, class: `lk-live-bars lk-live-c${i % COLOURS}${i >= COLOURS ? " lk-live-faded" : ""}` }));
      } else {
        picture.append(svg("path", { d: linePath(points.map(([x, y]) => [pixelX(x), pixelY(y)])), class: lineClass(i) }));
      }
    });
    if (direct) {
      const ends = lines.map(({ points }) => points.findLast(([x, y]) => !Number.isNaN(x) && !Number.isNaN(y)) ?? null);
      const shown = lines.map((_, i) => i).filter((i) => ends[i] !== null);
      const heights = spread(shown.map((i) => pixelY(ends[i][1])), LABEL_GAP, plot.top, plot.bottom);
      shown.forEach((i, k) => {
        const x = plot.right + 6;
        picture.append(
          svg("line", { x1: pixelX(ends[i][0]), y1: pixelY(ends[i][1]), x2: x - 1, y2: heights[k], class: `lk-live-lead lk-live-c${i % COLOURS}` }),
          svg("text", { x, y: heights[k] + 4, class: "lk-live-label" }, plain(lines[i].name, 16)),
        );
      });
    }
    chart.replaceChildren(picture);
  }

  view.resized(draw);
  return { element: chart, draw };
}
