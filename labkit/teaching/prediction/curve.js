// A small chart: points at given x, each between low and high, drawn as lines, and, where asked for, movable.

import { make } from "../../views/kit/common.js";
import { linePath, shape } from "../../views/kit/plot.js";
import { along, axis, nearest, say, shownLabels, stroke, ticks } from "./logic.js";

const SIZE = { width: 600, height: 290, left: 62, right: 22, top: 30, bottom: 46 };
const KEY_STEP = 0.02; // of the axis
const KEY_LEAP = 0.1;
const MOST_LABELS = 9;

/**
 * A question as prediction/__init__.py sends it.
 * @typedef {object} Spec
 * @property {string} id
 * @property {string} question
 * @property {"number" | "choice" | "curve"} kind
 * @property {string} unit
 * @property {string[]} choices
 * @property {number | null} low
 * @property {number | null} high
 * @property {number[]} x
 * @property {boolean} log
 * @property {string} x_label
 * @property {string} y_label
 */

/** @typedef {{values: (number | null)[], kind: "guess" | "result"}} Line */

/**
 * {element, draw}. lines: a value of null is not drawn. onSet(index, value): where given, points are moved with pointer and
 * keys.
 * @param {Spec} spec
 * @param {{lines: Line[], onSet?: ((index: number, value: number) => void) | null, label: string}} what
 */
export function createCurve(spec, { lines, onSet = null, label }) {
  const n = spec.x.length;
  const values = lines.flatMap((line) => line.values).filter((value) => value !== null);
  const [low, high] = [Math.min(spec.low ?? 0, ...values), Math.max(spec.high ?? 1, ...values)];
  const scale = axis(low, high, spec.log);
  const plot = { width: SIZE.width - SIZE.left - SIZE.right, height: SIZE.height - SIZE.top - SIZE.bottom };
  const { places, scale: told } = along(spec.x);
  const px = (/** @type {number} */ i) => SIZE.left + plot.width * places[i];
  const py = (/** @type {number} */ value) => SIZE.top + plot.height * (1 - scale.share(value));
  const withUnit = (/** @type {number} */ value) => say(value) + (spec.unit ? ` ${spec.unit}` : "");

  const element = make("div", "lk-curve");
  const svg = shape("svg", { viewBox: `0 0 ${SIZE.width} ${SIZE.height}`, role: onSet ? "group" : "img", "aria-label": label });
  element.append(svg);

  for (const tick of ticks(scale.low, scale.high, spec.log)) {
    svg.append(shape("line", { class: "lk-curve-grid", x1: SIZE.left, x2: SIZE.width - SIZE.right, y1: py(tick), y2: py(tick) }));
    svg.append(shape("text", { class: "lk-curve-tick", x: SIZE.left - 8, y: py(tick) + 4, "text-anchor": "end" }, say(tick)));
  }
  shownLabels(places, MOST_LABELS).forEach((shown, i) => {
    svg.append(shape("line", { class: "lk-curve-stop", x1: px(i), x2: px(i), y1: SIZE.top, y2: SIZE.height - SIZE.bottom }));
    if (shown) {
      svg.append(shape("text", { class: "lk-curve-tick", x: px(i), y: SIZE.height - SIZE.bottom + 17, "text-anchor": "middle" }, say(spec.x[i])));
    }
  });
  const unit = spec.unit && !spec.y_label.includes(spec.unit) ? `${spec.y_label ? ", " : ""}${spec.unit}` : "";
  svg.append(shape("text", { class: "lk-curve-axis", x: 8, y: 14 }, spec.y_label + unit));
  const below = { class: "lk-curve-axis", x: SIZE.left + plot.width / 2, y: SIZE.height - 8, "text-anchor": "middle" };
  svg.append(shape("text", below, [spec.x_label, told && `(${told})`].filter(Boolean).join(" ")));

  const layers = lines.map((line) => {
    const path = shape("path", { class: `lk-curve-line lk-curve-${line.kind}` });
    const marks = Array.from({ length: n }, () =>
      line.kind === "guess"
        ? shape("circle", { class: "lk-curve-mark lk-curve-guess", r: 5 })
        : shape("rect", { class: "lk-curve-mark lk-curve-result", width: 9, height: 9 }),
    );
    const points = marks.map((mark) => {
      const point = shape("g");
      point.append(mark);
      return point;
    });
    svg.append(path, ...points);
    return { path, marks, points, kind: line.kind };
  });

  /** @type {(index: number, current: (number | null)[]) => void} */
  function draw(index, current) {
    const { path, marks, points, kind } = layers[index];
    current.forEach((value, i) => {
      const y = value === null ? SIZE.top + plot.height / 2 : py(value);
      marks[i].classList.toggle("lk-curve-unset", value === null);
      if (kind === "guess") {
        marks[i].setAttribute("cx", String(px(i)));
        marks[i].setAttribute("cy", String(y));
      } else {
        marks[i].setAttribute("x", String(px(i) - 4.5));
        marks[i].setAttribute("y", String(y - 4.5));
      }
      if (onSet) {
        points[i].setAttribute("aria-valuenow", String(value ?? scale.value(0.5)));
        points[i].setAttribute("aria-valuetext", value === null ? "not set" : withUnit(value));
      }
    });
    path.setAttribute("d", linePath(current.map((value, i) => [px(i), value === null ? NaN : py(value)])));
  }

  if (onSet) movable(svg, spec, layers[0].points, { scale, plot, places, set: onSet, values: () => lines[0].values });

  lines.forEach((line, i) => draw(i, line.values));
  return { element, draw };
}

/**
 * Let points be moved: each is a slider, and a stroke across the chart sets all it passes.
 * @param {SVGSVGElement} svg
 * @param {Spec} spec
 * @param {SVGGElement[]} points
 * @param {{scale: import("./logic.js").Axis, plot: {width: number, height: number}, places: number[],
 *   set: (index: number, value: number) => void, values: () => (number | null)[]}} how
 */
function movable(svg, spec, points, { scale, plot, places, set, values }) {
  const n = points.length;
  svg.classList.add("lk-curve-open");

  const focus = (/** @type {number} */ to) => {
    points.forEach((point, i) => point.setAttribute("tabindex", i === to ? "0" : "-1"));
    points[to].focus();
  };
  points.forEach((point, i) => {
    const name = `${spec.y_label || "value"} at ${spec.x_label ? `${spec.x_label} ` : ""}${say(spec.x[i])}`;
    const facts = { role: "slider", tabindex: i ? -1 : 0, "aria-label": name, "aria-orientation": "vertical" };
    for (const [key, value] of Object.entries({ ...facts, "aria-valuemin": scale.low, "aria-valuemax": scale.high })) {
      point.setAttribute(key, String(value));
    }
    point.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const value = values()[i];
      const share = value === null ? 0.5 : scale.share(value);
      /** @type {Record<string, number>} */
      const moves = { ArrowUp: KEY_STEP, ArrowDown: -KEY_STEP, PageUp: KEY_LEAP, PageDown: -KEY_LEAP };
      if (event.key in moves) set(i, scale.value(share + moves[event.key]));
      else if (event.key === "Home") set(i, scale.low);
      else if (event.key === "End") set(i, scale.high);
      else if (event.key === "Enter" || event.key === " ") set(i, scale.value(share));
      else if (event.key === "ArrowRight") focus(Math.min(n - 1, i + 1));
      else if (event.key === "ArrowLeft") focus(Math.max(0, i - 1));
      else return;
      event.preventDefault();
    });
  });

  /** @param {PointerEvent} event */
  const where = (event) => {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * SIZE.width;
    const y = ((event.clientY - box.top) / box.height) * SIZE.height;
    return { place: (x - SIZE.left) / plot.width, share: Math.min(1, Math.max(0, 1 - (y - SIZE.top) / plot.height)) };
  };
  /** @type {import("./logic.js").Spot | null} */
  let last = null;
  svg.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    last = where(event);
    svg.setPointerCapture(event.pointerId);
    set(nearest(last.place, places), scale.value(last.share));
    event.preventDefault();
  });
  svg.addEventListener("pointermove", (event) => {
    if (last === null) return;
    const now = where(event);
    for (const { index, share } of stroke(last, now, places)) set(index, scale.value(share));
    last = now;
  });
  for (const end of ["pointerup", "pointercancel"]) {
    svg.addEventListener(end, () => {
      last = null;
    });
  }
}
