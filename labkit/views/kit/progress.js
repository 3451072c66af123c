// How far work in progress is, in words: arithmetic apart from any drawing. `work.js` draws it.

import { thousands } from "./common.js";

/**
 * What Python says of work. begun: whether it was ever started; elapsed, heard: seconds, until now and until the latest news;
 * left: the seconds that the work itself expects from then on, where it does; message: a sentence; values: names and their latest values, as text.
 * @typedef {{state: "waiting" | "running" | "stopped" | "finished" | "failed", begun: boolean, stopping: boolean,
 *   done: number | null, total: number | null, elapsed: number, heard: number, left?: number, say: string, values: [string, string][],
 *   message: string}} Status
 */

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
 * `heard` seconds until the latest event, unless the work knows better.
 * @type {(status: Pick<Status, "done" | "total" | "heard" | "left">, elapsed: number) => string}
 */
export function restWords({ done, total, heard, left: told }, elapsed) {
  if (!done || !total || done >= total || !(heard > 0)) return "";
  const left = (told === undefined ? (heard / done) * total : told + heard) - elapsed;
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
