// A field to type in, and the line that says what is being computed for it, or why it can't be.

import { NO_ANSWER, unlessDropped } from "./ask.js";
import { make, setText } from "./common.js";

/** @typedef {import("./mount.js").Mounted} Mounted */

/**
 * What kit/job.py says of a job.
 * @typedef {{state?: string, message?: string, progress?: number, left?: number}} Status
 */

const SLOW_MS = 250; // what is there sooner needs no word

/** @param {Status} status */
export const isBusy = ({ state }) => state === "waiting" || state === "running";

/**
 * How far work is, in words: "reading … 40 %, 12 s left".
 * @param {Status} status
 * @param {string} busyText
 */
export function farText({ message, progress, left }, busyText) {
  const far = progress === undefined ? "" : ` ${Math.floor(100 * progress)} %`;
  const rest = left === undefined ? "" : `, ${left < 90 ? `${Math.ceil(left)} s` : `${Math.round(left / 60)} min`} left`;
  return (message || busyText) + far + rest;
}

/**
 * A line for a job's status: what is being computed once that takes a while, how far it is, what failed, or that no answer
 * comes. Returns {element, draw(status, busyText), say(text), busy(), hear(promise), clear()}.
 */
export function statusLine() {
  const element = make("p", "lk-status");
  element.setAttribute("role", "status");
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let slow;
  let busy = false;
  const clear = () => clearTimeout(slow);
  /** @type {(text: string, failed: boolean) => void} */
  function put(text, failed) {
    clear();
    setText(element, text);
    element.classList.toggle("lk-failed", failed);
  }
  return {
    element,
    busy: () => busy,
    clear,
    /** @type {(status: Status, busyText: string) => void} */
    draw(status, busyText) {
      const was = busy;
      busy = isBusy(status);
      if (!busy) put(status.message ?? "", status.state === "failed");
      else if (status.message || status.progress !== undefined) put(farText(status, busyText), false);
      else if (!was || element.classList.contains("lk-failed")) {
        clear();
        element.classList.remove("lk-failed");
        slow = setTimeout(() => put(busyText, false), SLOW_MS);
      }
    },
    say(/** @type {string} */ text) {
      busy = false;
      put(text, false);
    },
    /** The kernel was asked for something: where it does not answer, that is said. @param {Promise<unknown>} asked */
    hear(asked) {
      asked.catch(unlessDropped(() => put(NO_ANSWER, true)));
    },
  };
}

/**
 * The seconds that something takes. Returns {element, run(busy)}.
 * @param {Mounted} view
 */
export function stopwatch(view) {
  const element = make("span", "lk-muted");
  let running = false;
  /** @type {ReturnType<typeof setInterval> | undefined} */
  let ticking;
  const stop = () => clearInterval(ticking);
  view.atEnd(stop);
  return {
    element,
    /** @param {boolean} busy */
    run(busy) {
      if (busy === running) return;
      running = busy;
      stop();
      setText(element, "");
      if (!busy) return;
      const began = Date.now();
      ticking = setInterval(() => setText(element, `${Math.floor((Date.now() - began) / 1000)} s`), 1000);
    },
  };
}

/**
 * A text field for one trait. hear(asked): the kernel was told; delay: milliseconds in which somebody who types on does not mean
 * yet what stands there.
 * @param {Mounted} view
 * @param {{trait: string, title: string, hint?: string, lines?: number, delay?: number, hear: (asked: Promise<unknown>) => void}} given
 */
export function textField(view, { trait, title, hint = "", lines = 1, delay = 0, hear }) {
  const element = make("div", "lk-entry");
  const label = make("label", "", title);
  const field = /** @type {HTMLTextAreaElement & HTMLInputElement} */ (make(lines > 1 ? "textarea" : "input", "lk-entry-field"));
  if (lines > 1) field.rows = lines;
  else field.type = "search";
  Object.assign(field, { id: view.id(trait), dir: "auto", spellcheck: false, placeholder: hint });
  label.setAttribute("for", field.id);
  element.append(label, field);
  /** @type {ReturnType<typeof setTimeout> | null} */
  let typing = null;
  const halt = () => clearTimeout(typing ?? undefined);

  function commit() {
    halt();
    typing = null;
    if (field.value !== view.get(trait)) hear(view.wire.tell({ [trait]: field.value }));
  }
  function show() {
    // what is being typed is newer than anything the kernel sends
    if (typing === null && field.value !== view.get(trait)) field.value = view.get(trait);
  }
  field.addEventListener("input", () => {
    if (delay === 0) return commit();
    halt();
    typing = setTimeout(commit, delay);
  });
  field.addEventListener("change", commit);
  show();
  view.on(trait, show);
  view.atEnd(halt);
  return { element, field };
}

/**
 * A text field for one trait, and the status of the job that it sets off.
 * @param {Mounted} view
 * @param {{trait: string, status: string, title: string, hint?: string, busyText: string, lines?: number}} given
 */
export function entryField(view, { status, busyText, ...given }) {
  const line = statusLine();
  const { element, field } = textField(view, { ...given, hear: line.hear });
  element.append(line.element);
  const draw = () => {
    line.draw(view.get(status), busyText);
    element.setAttribute("aria-busy", String(line.busy()));
  };
  if (!view.exported) draw();
  view.on(status, draw);
  view.atEnd(line.clear);
  return { element, field, line };
}
