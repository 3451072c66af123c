// The live panel's arithmetic, apart from any drawing.

/** The lines in `bytes` (float64 pairs of at and value, one line after the other): [{name, points: [[x, y], ...]}]. */
export function readLines(series, bytes) {
  let at = 0;
  return series.map(({ name, n }) => {
    const points = [];
    for (let i = 0; i < n && at + 16 <= bytes.byteLength; i += 1, at += 16) {
      points.push([bytes.getFloat64(at, true), bytes.getFloat64(at + 8, true)]);
    }
    return { name, points };
  });
}

/** Lowest and highest of one coordinate over all lines, gaps left out; null when there is none. */
export function extent(lines, coordinate) {
  let lowest = Infinity;
  let highest = -Infinity;
  for (const { points } of lines) {
    for (const point of points) {
      if (Number.isNaN(point[coordinate])) continue;
      lowest = Math.min(lowest, point[coordinate]);
      highest = Math.max(highest, point[coordinate]);
    }
  }
  return lowest <= highest ? [lowest, highest] : null;
}

/**
 * An axis from a range: {low, high, ticks}. Ticks are 1, 2 or 5 times a power of ten; a range of nothing is widened.
 * @param {number[]} range the lowest and the highest value
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

/** Where a value lies between two ends, 0 to 1. */
export function share(value, { low, high }) {
  return (value / 2 - low / 2) / (high / 2 - low / 2);
}

/** A tick as text: no more digits than its step asks for. */
export function tickText(value, step) {
  const size = Math.max(Math.abs(value), step);
  if (value !== 0 && (size >= 1e6 || step < 1e-4)) return value.toExponential(1).replace(/\.0e/, "e").replace("e+", "e").replaceAll("-", "−");
  const digits = Math.max(0, Math.min(6, -Math.floor(Math.log10(step) + 1e-9)));
  return value.toFixed(digits).replace("-", "−");
}

/** An SVG path through points of the page; NaN lifts the pen. A point alone becomes a dot (a line of no length). */
export function linePath(points) {
  let path = "";
  let down = false;
  for (let i = 0; i < points.length; i += 1) {
    const [x, y] = points[i];
    if (Number.isNaN(x) || Number.isNaN(y)) {
      down = false;
      continue;
    }
    const alone = !down && (i + 1 === points.length || Number.isNaN(points[i + 1][0]) || Number.isNaN(points[i + 1][1]));
    path += `${down ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}${alone ? "h0" : ""}`;
    down = true;
  }
  return path;
}

/** Heights for labels that want to be at `wanted`, at least `gap` apart, inside [low, high] as far as they fit. */
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

/** Seconds as a person says them: "4.1 s", "41 s", "3 min 20 s", "2 h 5 min". */
export function duration(seconds) {
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 90) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min${whole % 60 ? ` ${whole % 60} s` : ""}`;
  const minutes = Math.round(seconds / 60);
  return `${Math.floor(minutes / 60)} h${minutes % 60 ? ` ${minutes % 60} min` : ""}`;
}

/**
 * What is left, in words; "" when it can't be known. The pace is that of everything so far: done of total in the
 * `heard` seconds until the latest event.
 */
export function restWords({ done, total, heard }, elapsed) {
  if (!done || !total || done >= total || !(heard > 0)) return "";
  const left = (heard / done) * total - elapsed;
  if (left <= 0) return "longer than expected";
  if (left < 3) return "a moment left";
  if (left < 10) return "a few seconds left";
  if (left < 55) return `about ${Math.round(left / 5) * 5} s left`;
  if (left < 90) return "about a minute left";
  if (left < 3300) return `about ${Math.round(left / 60)} minutes left`;
  if (left < 5400) return "about an hour left";
  return `about ${Math.round(left / 3600)} hours left`;
}

function counted(value) {
  return String(value).replace(/\B(?=(\d{3})+$)/g, ",");
}

/** "34 of 270"; "34 done" without a total; "" when nothing is counted. */
export function farWords({ done, total }) {
  if (done === null || done === undefined) return "";
  return total === null || total === undefined ? `${counted(done)} done` : `${counted(done)} of ${counted(total)}`;
}

/** The line under the title. */
export function progressWords(status, elapsed) {
  if (!status.begun) return "not started";
  if (status.state === "waiting") return status.stopping ? "stopping …" : "waiting for its turn …";
  if (status.state === "running") {
    const parts = [farWords(status), duration(elapsed), status.stopping ? "stopping …" : restWords(status, elapsed)];
    return parts.filter(Boolean).join(" · ");
  }
  return `${status.message} · ${duration(elapsed)}`;
}

/** The share that is done, 0 to 1; null when it can't be known. */
export function doneShare({ done, total }) {
  if (typeof done !== "number" || typeof total !== "number" || total <= 0) return null;
  return Math.min(1, done / total);
}

/** What a chart shows, in words. `values`: [[name, latest as text], ...]. */
export function chartWords(chart, lines, values, { x, y, unit }, status) {
  const kind = chart === "bars" ? "Bar chart" : "Line chart";
  const of = `${y || "values"}${unit ? ` in ${unit}` : ""}${x ? ` against ${x}` : ""}`;
  const latest = values.slice(0, lines.length).map(([name, value]) => `${name} ${value}`);
  return `${kind} of ${of}: ${latest.length ? `latest ${latest.join(", ")}` : "nothing yet"}${status.pooled ? "; drawn in stretches" : ""}`;
}

/**
 * What a screen reader hears: every end at once, progress in quarters. Returns {text, heard}; hand `heard` back next
 * time. text null: nothing new to say.
 */
export function announcement(status, heard) {
  const quarter = Math.floor(4 * (doneShare(status) ?? 0));
  const key = `${status.state} ${status.stopping} ${status.state === "running" ? quarter : 0}`;
  if (key === heard) return { text: null, heard };
  if (status.state === "running") {
    const far = farWords(status);
    return { text: status.stopping ? "stopping" : far ? `running: ${far}` : "running", heard: key };
  }
  return { text: status.message, heard: key };
}
