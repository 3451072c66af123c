// The arithmetic of predictions, apart from any drawing.

/**
 * A number as a learner types it ("1,000", "−2", "40 %", "1.5e3"), or null. `unit` may stand behind it.
 * @type {(text: string, unit?: string) => number | null}
 */
export function parseNumber(text, unit = "") {
  let plain = text.trim().replace(/[−–]/g, "-");
  if (unit && plain.toLowerCase().endsWith(unit.toLowerCase())) plain = plain.slice(0, -unit.length).trim();
  if (/^[+-]?\d{1,3}(,\d{3})+(\.\d*)?$/.test(plain)) plain = plain.replaceAll(",", ""); // thousands
  else if (/^[+-]?\d+,\d+$/.test(plain)) plain = plain.replace(",", "."); // a decimal comma
  if (!/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(plain)) return null;
  const value = Number(plain);
  return Number.isFinite(value) ? value : null;
}

/**
 * What is wrong with a number for these bounds (null: none), or "".
 * @type {(value: number, low: number | null, high: number | null) => string}
 */
export function boundsProblem(value, low, high) {
  if (low !== null && value < low) return `At least ${say(low)} is asked for.`;
  if (high !== null && value > high) return `At most ${say(high)} is asked for.`;
  return "";
}

/** A number with up to four digits that matter. @param {number} value */
export function say(value) {
  const size = Math.abs(value);
  const text =
    Number.isInteger(value) && size < 1e15
      ? String(size).replace(/\B(?=(\d{3})+$)/g, ",")
      : size >= 1e15 || (size < 1e-4 && size > 0)
        ? size.toExponential(2)
        : String(Number(size.toPrecision(4)));
  return value < 0 ? `−${text}` : text;
}

/** @typedef {{low: number, high: number, share: (value: number) => number, value: (share: number) => number}} Axis */

/**
 * An axis from low to high: share (0 to 1) of a value and back.
 * @type {(low: number, high: number, log: boolean) => Axis}
 */
export function axis(low, high, log) {
  const same = (/** @type {number} */ v) => v;
  const to = log ? Math.log : same;
  const back = log ? Math.exp : same;
  const [a, b] = [to(low), to(high)];
  return {
    low,
    high,
    share: (value) => (to(value) - a) / (b - a),
    value: (share) => {
      if (share <= 0) return low;
      if (share >= 1) return high;
      return Math.min(high, Math.max(low, Number(back(a + share * (b - a)).toPrecision(3))));
    },
  };
}

/**
 * Round values for the ticks of an axis, a handful.
 * @type {(low: number, high: number, log: boolean) => number[]}
 */
export function ticks(low, high, log) {
  if (log) {
    /** @type {number[]} */
    const found = [];
    const first = Math.ceil(Math.log10(low) - 1e-9);
    const last = Math.floor(Math.log10(high) + 1e-9);
    const step = Math.max(1, Math.ceil((last - first + 1) / 6));
    for (let power = first; power <= last; power += step) found.push(Number(`1e${power}`));
    return found.length >= 2 ? found : [low, high];
  }
  const rough = (high - low) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = ([1, 2, 2.5, 5].find((m) => m * power >= rough * 0.999) ?? 10) * power;
  /** @type {number[]} */
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i += 1) found.push(Number((i * step).toPrecision(12)));
  return found;
}

const CROWDED = 4; // times as far from one point to the next here as there

/**
 * Where each x stands on an axis that is to scale, 0 to 1. `scale` says of what the axis is even: of x itself ("") or, where
 * that would crowd the points and this does less so, of its logarithm, or of that of 1 + x from 0 on.
 * @type {(x: number[]) => {places: number[], scale: "" | "logarithmic" | "log(1 + x)"}}
 */
export function along(x) {
  const shares = (/** @type {number[]} */ at) => at.map((v) => (v - at[0]) / (at[at.length - 1] - at[0]));
  const unevenness = (/** @type {number[]} */ at) => {
    const gaps = at.slice(1).map((v, i) => v - at[i]);
    return Math.max(...gaps) / Math.min(...gaps);
  };
  const even = shares(x);
  if (x[0] >= 0 && unevenness(even) >= CROWDED) {
    const logs = shares(x.map(x[0] > 0 ? Math.log : Math.log1p));
    if (unevenness(logs) < unevenness(even)) return { places: logs, scale: x[0] > 0 ? "logarithmic" : "log(1 + x)" };
  }
  return { places: even, scale: "" };
}

/**
 * Index of the point nearest to a place (0 to 1), of points at these places.
 * @type {(place: number, places: number[]) => number}
 */
export function nearest(place, places) {
  const far = (/** @type {number} */ i) => Math.abs(places[i] - place);
  return places.reduce((best, _, i) => (far(i) < far(best) ? i : best), 0);
}

/** @typedef {{place: number, share: number}} Spot */

/**
 * The points a stroke from one place to another passes: [{index, share}], so that a quick stroke leaves none out.
 * @type {(from: Spot, to: Spot, places: number[]) => {index: number, share: number}[]}
 */
export function stroke(from, to, places) {
  const [a, b] = [nearest(from.place, places), nearest(to.place, places)];
  /** @type {{index: number, share: number}[]} */
  const points = [];
  const step = a <= b ? 1 : -1;
  for (let i = a; i !== b; i += step) {
    if (i === a) continue; // set when the stroke was there
    const part = (places[i] - from.place) / (to.place - from.place);
    points.push({ index: i, share: from.share + (to.share - from.share) * Math.min(1, Math.max(0, part)) });
  }
  points.push({ index: b, share: to.share });
  return points;
}

/**
 * Which labels at these places to write so that at most `most` stand and none in another: always the first.
 * @type {(places: number[], most: number) => boolean[]}
 */
export function shownLabels(places, most) {
  let last = -Infinity;
  return places.map((place) => {
    const shown = place - last >= 1 / (most - 1) - 1e-9;
    if (shown) last = place;
    return shown;
  });
}
