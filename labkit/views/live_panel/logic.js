// The live panel's arithmetic, apart from any drawing.

import { thousands } from "../kit/common.js";

/**
 * What Python says of the work, in `_facts`.
 * @typedef {{state: "waiting" | "running" | "stopped" | "finished" | "failed", begun: boolean, stopping: boolean,
 *   done: number | null, total: number | null, elapsed: number, heard: number, say: string, values: [string, string][],
 *   more: number, undrawn: number, pooled?: boolean, gaps: string[], message: string}} Status
 */

/** @typedef {{title: string, unit: string, x: string, y: string, chart: "line" | "bars" | ""}} Labels */

/** @typedef {import("../kit/plot.js").Point} Point at and value */

/** @typedef {{name: string, points: Point[]}} Line */

/**
 * The lines in `bytes`: float64 pairs of at and value, one line after the other.
 * @type {(series: {name: string, n: number}[], bytes: DataView) => Line[]}
 */
export function readLines(series, bytes) {
  let at = 0;
  return series.map(({ name, n }) => {
    /** @type {Point[]} */
    const points = [];
    for (let i = 0; i < n && at + 16 <= bytes.byteLength; i += 1, at += 16) {
      points.push([bytes.getFloat64(at, true), bytes.getFloat64(at + 8, true)]);
    }
    return { name, points };
  });
}

/** Seconds as a person says them: "4.1 s", "41 s", "3 min 20 s", "2 h 5 min". @param {number} seconds */
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
 * @type {(status: Pick<Status, "done" | "total" | "heard">, elapsed: number) => string}
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

/** "34 of 270"; "34 done" without a total; "" when nothing is counted. @param {Pick<Status, "done" | "total">} status */
export function farWords({ done, total }) {
  if (done === null || done === undefined) return "";
  return total === null || total === undefined ? `${thousands(done)} done` : `${thousands(done)} of ${thousands(total)}`;
}

/** The line under the title. @type {(status: Status, elapsed: number) => string} */
export function progressWords(status, elapsed) {
  if (!status.begun) return "not started";
  if (status.state === "waiting") return status.stopping ? "stopping …" : "waiting for its turn …";
  if (status.state === "running") {
    const parts = [farWords(status), duration(elapsed), status.stopping ? "stopping …" : restWords(status, elapsed)];
    return parts.filter(Boolean).join(" · ");
  }
  return `${status.message} · ${duration(elapsed)}`;
}

/** The share that is done, 0 to 1; null when it can't be known. @param {Pick<Status, "done" | "total">} status */
export function doneShare({ done, total }) {
  if (typeof done !== "number" || typeof total !== "number" || total <= 0) return null;
  return Math.min(1, done / total);
}

/**
 * What a chart shows, in words.
 * @type {(lines: Line[], labels: Labels, status: Pick<Status, "values" | "pooled">) => string}
 */
export function chartWords(lines, { chart, x, y, unit }, { values, pooled }) {
  const kind = chart === "bars" ? "Bar chart" : "Line chart";
  const of = `${y || "values"}${unit ? ` in ${unit}` : ""}${x ? ` against ${x}` : ""}`;
  const latest = values.slice(0, lines.length).map(([name, value]) => `${name} ${value}`);
  return `${kind} of ${of}: ${latest.length ? `latest ${latest.join(", ")}` : "nothing yet"}${pooled ? "; drawn in stretches" : ""}`;
}

/**
 * What a screen reader hears: every end at once, progress in quarters. Returns {text, heard}; hand `heard` back next
 * time. text null: nothing new to say.
 * @type {(status: Status, heard: string | null) => {text: string | null, heard: string | null}}
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
