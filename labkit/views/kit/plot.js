// What charts drawn in the page are made of: shapes, axes with round ticks, lines with gaps.

const SVG = "http://www.w3.org/2000/svg";

/** @typedef {[number, number]} Point x and y; NaN is a gap */

/** @typedef {{name: string, points: Point[], colour?: number}} Line colour: the number of its own, where it is not its place */

/**
 * A shape of an SVG picture.
 * @template {keyof SVGElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Record<string, string | number>} attributes
 * @param {string | null} text
 */
export function shape(tag, attributes = {}, text = null) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  if (text !== null) element.textContent = text;
  return element;
}

/**
 * Lowest and highest of one coordinate over all lines, gaps left out; null when there is none.
 * @type {(lines: {points: Point[]}[], coordinate: 0 | 1) => Point | null}
 */
export function extent(lines, coordinate) {
  const values = lines.flatMap(({ points }) => points.map((point) => point[coordinate])).filter((value) => !Number.isNaN(value));
  return values.length > 0 ? [Math.min(...values), Math.max(...values)] : null;
}

/**
 * An axis from a range: {low, high, ticks}. Ticks are 1, 2 or 5 times a power of ten; a range of nothing is widened.
 * @param {Point} range the lowest and the highest value
 * @param {number} count about so many ticks
 */
export function axis([lowest, highest], count, { zero = false, whole = false } = {}) {
  let low = zero ? Math.min(0, lowest) : lowest;
  let high = zero ? Math.max(0, highest) : highest;
  if (!(high - low > Math.abs(high) * 1e-12)) {
    const room = Math.abs(high) * 0.1 || 1;
    low -= zero && low === 0 ? 0 : room;
    high += room;
  }
  // Divided first: the width of a range may be more than a number can hold.
  const rough = high / count - low / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  let step = [1, 2, 5, 10].map((times) => times * power).find((each) => each >= rough * 0.999) ?? 10 * power;
  if (whole) step = Math.max(1, step);
  const ticks = [];
  const first = Math.ceil(low / step - 1e-9);
  for (let i = 0; i <= 2 * count + 2; i += 1) {
    const tick = (first + i) * step;
    if (tick > high + step * 1e-9) break;
    ticks.push(Math.abs(tick) < step * 1e-9 ? 0 : tick);
  }
  return { low, high, ticks, step };
}

/** Where a value lies between two ends, 0 to 1. @type {(value: number, ends: {low: number, high: number}) => number} */
export function share(value, { low, high }) {
  return (value / 2 - low / 2) / (high / 2 - low / 2);
}

/** A tick as text: no more digits than its step asks for. @type {(value: number, step: number) => string} */
export function tickText(value, step) {
  const size = Math.max(Math.abs(value), step);
  if (value !== 0 && (size >= 1e6 || step < 1e-4)) return value.toExponential(1).replace(/\.0e/, "e").replace("e+", "e").replaceAll("-", "−");
  const digits = Math.max(0, Math.min(6, -Math.floor(Math.log10(step) + 1e-9)));
  return value.toFixed(digits).replace("-", "−");
}

/** Whether there is a point, and no gap. @param {Point | undefined} point */
export const isThere = (point) => point !== undefined && !Number.isNaN(point[0]) && !Number.isNaN(point[1]);

/**
 * An SVG path through points of the page; a gap lifts the pen. A point alone becomes a dot (a line of no length).
 * @param {Point[]} points
 */
export function linePath(points) {
  const step = (/** @type {Point} */ [x, y], /** @type {number} */ i) => {
    if (!isThere(points[i])) return "";
    const down = isThere(points[i - 1]);
    return `${down ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}${down || isThere(points[i + 1]) ? "" : "h0"}`;
  };
  return points.map(step).join("");
}

/**
 * Heights for labels that want to be at `wanted`, at least `gap` apart, inside [low, high] as far as they fit.
 * @type {(wanted: number[], gap: number, low: number, high: number) => number[]}
 */
export function spread(wanted, gap, low, high) {
  const order = wanted.map((_, i) => i).sort((a, b) => wanted[a] - wanted[b]);
  const placed = new Array(wanted.length);
  let least = low;
  for (const i of order) {
    placed[i] = Math.max(wanted[i], least);
    least = placed[i] + gap;
  }
  let most = high;
  for (const i of order.reverse()) {
    placed[i] = Math.min(placed[i], most);
    most = placed[i] - gap;
  }
  return placed;
}

/**
 * The lines in `bytes`: float64 pairs of x and y, one line after the other.
 * @type {(series: {name: string, n: number, colour?: number}[], bytes: DataView) => Line[]}
 */
export function readLines(series, bytes) {
  let at = 0;
  return series.map(({ n, ...line }) => {
    /** @type {Point[]} */
    const points = [];
    for (let i = 0; i < n && at + 16 <= bytes.byteLength; i += 1, at += 16) {
      points.push([bytes.getFloat64(at, true), bytes.getFloat64(at + 8, true)]);
    }
    return { ...line, points };
  });
}
