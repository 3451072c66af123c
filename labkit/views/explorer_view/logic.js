// Arithmetic of the explorer, apart from drawing.

/** @typedef {{phase: string, intensity: number, attained: number, seconds: number, bound: string}} Point */
/** @typedef {{peak: number | null, bandwidth: number, points: Point[]}} Roof */

const ROOM = 3; // times, beyond the outermost point and the ridge

/** Operations a second that so many operations a byte allow. @type {(intensity: number, roof: Roof) => number} */
export const ceiling = (intensity, { peak, bandwidth }) => Math.min(peak ?? Infinity, intensity * bandwidth);

/**
 * Where both axes of the roofline begin and end: {low, high} of intensity and of operations a second.
 * @param {Roof} roof
 */
export function reach(roof) {
  const ridge = roof.peak === null ? [] : [roof.peak / roof.bandwidth];
  const across = [...roof.points.map(({ intensity }) => intensity), ...ridge].filter((value) => value > 0);
  const x = { low: Math.min(...across) / ROOM, high: Math.max(...across) * ROOM };
  const up = [...roof.points.map(({ attained }) => attained), ceiling(x.low, roof), ceiling(x.high, roof)].filter((value) => value > 0);
  return { x, y: { low: Math.min(...up) / 1.5, high: Math.max(...up) * 1.5 } };
}

/** The corners of the roof between two intensities. @type {(roof: Roof, ends: {low: number, high: number}) => [number, number][]} */
export function corners(roof, { low, high }) {
  const ridge = roof.peak === null ? NaN : roof.peak / roof.bandwidth;
  const xs = [low, ...(ridge > low && ridge < high ? [ridge] : []), high];
  return xs.map((x) => [x, ceiling(x, roof)]);
}

/**
 * Where each part of a stacked bar begins and ends, as shares of what is drawn, and where the memory ends.
 * @type {(sizes: number[], usable: number) => {parts: [number, number][], end: number}}
 */
export function stacked(sizes, usable) {
  const total = sizes.reduce((sum, size) => sum + size, 0);
  const most = 1.04 * Math.max(total, usable);
  let at = 0;
  const parts = sizes.map((size) => {
    /** @type {[number, number]} */
    const part = [at / most, (at + size) / most];
    at += size;
    return part;
  });
  return { parts, end: usable / most };
}

/** Powers of ten between two values. @type {(low: number, high: number) => number[]} */
export function decades(low, high) {
  const first = Math.ceil(Math.log10(low) - 1e-9);
  const last = Math.floor(Math.log10(high) + 1e-9);
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => 10 ** (first + i));
}

/** Ticks of a logarithmic axis: powers of ten, and where there are few, twice and five times them. @type {(low: number, high: number) => number[]} */
export function ticks(low, high) {
  const powers = decades(low, high);
  if (powers.length > 2) return powers;
  return [-1, ...powers.keys()].flatMap((i) => [1, 2, 5].map((times) => times * (i < 0 ? (powers[0] ?? 10 ** Math.ceil(Math.log10(high))) / 10 : powers[i]))).filter((value) => value >= low && value <= high);
}

/** A time in three digits. @param {number} seconds */
export function duration(seconds) {
  const [value, unit] = seconds >= 1 ? [seconds, "s"] : seconds >= 1e-3 ? [1e3 * seconds, "ms"] : [1e6 * seconds, "µs"];
  return `${Number(value.toPrecision(3))} ${unit}`;
}
