// Work in progress, drawn: its title, how far it is, what it says, its latest values, and the button that stops it.

import { unlessDropped } from "./ask.js";
import { box, make, outsideText, sayOrHide, setText, showText, spokenLabel } from "./common.js";
import { button } from "./controls.js";
import { isBusy } from "./field.js";
import { sample } from "./line_chart.js";
import { announcement, doneShare, farWords, progressWords } from "./progress.js";

/** @typedef {import("./progress.js").Status} Status */

const NO_ANSWER_TO_STOP =
  "No answer from the kernel: it is busy with a cell (interrupt it to stop), or it was restarted; then run this cell again.";

/** How far the work is, as a bar. Returns {element, draw(status)}. @param {string} title */
function progressBar(title) {
  const element = make("div", "lk-work-bar");
  element.setAttribute("role", "progressbar");
  element.setAttribute("aria-label", `Progress${title ? ` of ${spokenLabel(title, 120)}` : ""}`);
  element.setAttribute("aria-valuemin", "0");
  const fill = make("div", "lk-work-fill");
  element.append(fill);
  return {
    element,
    /** @param {Status} status */
    draw(status) {
      const { done, total } = status;
      const share = doneShare(status);
      fill.style.width = `${100 * (share ?? 0)}%`;
      element.classList.toggle("lk-work-unknown", share === null);
      if (done === null || total === null || share === null) {
        element.removeAttribute("aria-valuenow");
        element.removeAttribute("aria-valuemax");
      } else {
        element.setAttribute("aria-valuemax", String(total));
        element.setAttribute("aria-valuenow", String(Math.min(done, total)));
      }
      element.setAttribute("aria-valuetext", farWords(status) || status.state);
    },
  };
}

/** A name and its latest value. @type {(name: string, value: string, unit: string, colour: number | null) => HTMLElement} */
function valueItem(name, value, unit, colour) {
  const term = make("dt");
  showText(term, name);
  if (colour !== null) term.prepend(sample(colour));
  const number = make("dd", "", value);
  if (unit && /\d/.test(value)) number.append(" ", make("span", "lk-work-unit", unit));
  return box("lk-work-value", term, number);
}

/**
 * The view's trait `status` as a head that follows it. It asks "stop" and "start" of the kernel, and "hello" at first, so that
 * the clock of a page that was loaded again starts at the kernel's. title: "" for none; name: what the whole is called where
 * there is no title; unit: of the values; colour(i): that of the line of the i-th value, or null.
 * Returns {elements, draw()}; what is drawn beside it stands in the view's root after the elements.
 * @param {import("./mount.js").Mounted} view
 * @param {{title: string, name: string, unit?: string, colour: (i: number) => number | null}} given
 */
export function workHead(view, { title: words, name, unit = "", colour }) {
  const { root, exported } = view;
  const status = () => /** @type {Status} */ (view.get("status"));
  root.tabIndex = -1; // where the focus goes when the button it was on has nothing left to do
  root.setAttribute("role", "group");
  root.setAttribute("aria-label", words ? spokenLabel(words, 120) : name);

  const title = outsideText("div", "lk-work-title", words);
  title.hidden = !words;
  const stop = button("Stop", "", press);
  stop.classList.add("lk-work-button");
  stop.hidden = exported;
  const head = box("lk-work-head", title, stop);
  const bar = progressBar(words);
  const progress = make("p", "lk-work-progress lk-muted");
  const say = outsideText("p", "lk-work-say");
  const values = make("dl", "lk-work-values");
  const warning = make("p", "lk-work-warning lk-failed lk-small");
  const warn = (/** @type {string} */ text) => sayOrHide(warning, text);
  warning.setAttribute("role", "alert");
  const spoken = make("div", "lk-spoken");
  spoken.setAttribute("role", "status");
  spoken.setAttribute("aria-live", "polite");
  warn("");

  let received = Date.now();
  /** @type {ReturnType<typeof setInterval> | undefined} */
  let ticking;
  /** @type {string | null} */
  let heard = null;

  function press() {
    warn("");
    const question = status().begun ? "stop" : "start";
    view.wire
      .ask(question, {}, { repeat: question === "stop", latest: "button" })
      .then(() => warn(""), unlessDropped(() => warn(NO_ANSWER_TO_STOP)));
  }

  function drawProgress() {
    const now = status();
    const since = now.state === "running" ? (Date.now() - received) / 1000 : 0;
    const late = exported && isBusy(now);
    setText(progress, late ? `${now.message}, when this file was written` : progressWords(now, now.elapsed + since));
  }

  /** @type {(now: Status, busy: boolean) => void} */
  function drawStop({ begun, stopping }, busy) {
    const rest = begun && (!busy || stopping);
    setText(stop, begun ? "Stop" : "Start");
    if (rest && document.activeElement === stop) root.focus({ preventScroll: true });
    stop.disabled = rest;
    if (!begun || stopping || !busy) warn(""); // news of work that goes on is no answer to Stop
  }

  function draw() {
    received = Date.now();
    const now = status();
    const busy = now.begun && isBusy(now);
    root.dataset.state = now.state;
    drawStop(now, busy);
    bar.draw(now);
    progress.classList.toggle("lk-failed", now.state === "failed");
    drawProgress();
    clearInterval(ticking);
    if (busy && !exported) ticking = setInterval(drawProgress, 500);

    say.hidden = !now.say;
    showText(say, now.say);
    values.hidden = now.values.length === 0;
    values.replaceChildren(...now.values.map(([name, value], i) => valueItem(name, value, unit, colour(i))));
    if (exported) return;
    const next = announcement(now, heard);
    heard = next.heard;
    if (next.text !== null) spoken.textContent = spokenLabel(next.text, 400);
  }
  view.atEnd(() => clearInterval(ticking));
  if (!exported) view.wire.ask("hello").catch(() => {}); // without a kernel the picture stays as it is
  return { elements: [head, bar.element, progress, warning, spoken, say, values], draw };
}
