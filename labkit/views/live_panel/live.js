// The live panel as a widget: progress, the latest words and values, a chart of them, and the button.

import { unlessDropped } from "../kit/ask.js";
import { button } from "../kit/controls.js";
import { box, make, outsideText, sayOrHide, setText, showText, spokenLabel } from "../kit/common.js";
import { isBusy } from "../kit/field.js";
import { mount } from "../kit/mount.js";
import { chartPane, plain, sample } from "./chart.js";
import { announcement, doneShare, farWords, progressWords } from "./logic.js";

/** @typedef {import("./logic.js").Status} Status */

const NO_ANSWER_TO_STOP =
  "No answer from the kernel: it is busy with a cell (interrupt it to stop), or it was restarted; then run this cell again.";

/** How far the work is, as a bar. Returns {element, draw(status)}. @param {string} title */
function progressBar(title) {
  const element = make("div", "lk-live-bar");
  element.setAttribute("role", "progressbar");
  element.setAttribute("aria-label", `Progress${title ? ` of ${spokenLabel(title, 120)}` : ""}`);
  element.setAttribute("aria-valuemin", "0");
  const fill = make("div", "lk-live-fill");
  element.append(fill);
  return {
    element,
    /** @param {Status} status */
    draw(status) {
      const { done, total } = status;
      const share = doneShare(status);
      fill.style.width = `${100 * (share ?? 0)}%`;
      element.classList.toggle("lk-live-unknown", share === null);
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
  if (unit && /\d/.test(value)) number.append(" ", make("span", "lk-live-unit", unit));
  return box("lk-live-value", term, number);
}

/** What is left out of the picture and of the list. @type {(status: Status, drawn: number, bars: boolean) => string} */
function notesOf({ gaps, more, undrawn, pooled }, drawn, bars) {
  const said = [...gaps];
  if (more > 0) said.push(`${more} more values are not listed here.`);
  if (undrawn > 0) said.push(`Drawn are the first ${drawn} names.`);
  const stretches = bars
    ? "Each bar is, of several neighbours, the one farthest from zero."
    : "Each stretch of a line shows its lowest and highest value.";
  if (pooled) said.push(stretches);
  return said.map((each) => plain(each, 400)).join(" ");
}

/** @param {{model: import("../kit/ask.js").Model, el: HTMLElement}} widget */
function render(widget) {
  const view = mount(widget, "lk-live");
  const { root, exported, get } = view;
  const labels = /** @type {import("./logic.js").Labels} */ (get("labels"));
  root.tabIndex = -1; // where the focus goes when the button it was on has nothing left to do
  root.setAttribute("role", "group");
  root.setAttribute("aria-label", labels.title ? spokenLabel(labels.title, 120) : "Live panel");

  const title = outsideText("div", "lk-live-title", labels.title);
  title.hidden = !labels.title;
  const stop = button("Stop", "", press);
  stop.classList.add("lk-live-button");
  stop.hidden = exported;
  const head = box("lk-live-head", title, stop);
  const bar = progressBar(labels.title);
  const progress = make("p", "lk-live-progress lk-muted");
  const say = outsideText("p", "lk-live-say");
  const values = make("dl", "lk-live-values");
  const chart = chartPane(view);
  const notes = make("p", "lk-live-notes lk-muted lk-small");
  const warning = make("p", "lk-live-warning lk-failed lk-small");
  const warn = (/** @type {string} */ text) => sayOrHide(warning, text);
  warning.setAttribute("role", "alert");
  const spoken = make("div", "lk-spoken");
  spoken.setAttribute("role", "status");
  spoken.setAttribute("aria-live", "polite");
  warn("");
  root.append(head, bar.element, progress, say, values, chart.element, notes, warning, spoken);

  let received = Date.now();
  /** @type {ReturnType<typeof setInterval> | undefined} */
  let ticking;
  /** @type {string | null} */
  let heard = null;

  function press() {
    warn("");
    const question = get("status").begun ? "stop" : "start";
    view.wire
      .ask(question, {}, { repeat: question === "stop", latest: "button" })
      .then(() => warn(""), unlessDropped(() => warn(NO_ANSWER_TO_STOP)));
  }

  function drawProgress() {
    const status = /** @type {Status} */ (get("status"));
    const since = status.state === "running" ? (Date.now() - received) / 1000 : 0;
    const late = exported && isBusy(status);
    setText(progress, late ? `${status.message}, when this file was written` : progressWords(status, status.elapsed + since));
  }

  /** @param {Status} status */
  function drawStop({ begun, stopping }, /** @type {boolean} */ busy) {
    const rest = begun && (!busy || stopping);
    setText(stop, begun ? "Stop" : "Start");
    if (rest && document.activeElement === stop) root.focus({ preventScroll: true });
    stop.disabled = rest;
    if (!begun || stopping || !busy) warn(""); // news of work that goes on is no answer to Stop
  }

  // One message carries all of it; `points` is drawn with the status it came with.
  function draw() {
    received = Date.now();
    const status = /** @type {Status} */ (get("status"));
    const busy = status.begun && isBusy(status);
    const drawn = get("series").length;
    root.dataset.state = status.state;
    drawStop(status, busy);
    bar.draw(status);
    progress.classList.toggle("lk-failed", status.state === "failed");
    drawProgress();
    clearInterval(ticking);
    if (busy && !exported) ticking = setInterval(drawProgress, 500);

    say.hidden = !status.say;
    showText(say, status.say);
    values.hidden = status.values.length === 0;
    values.replaceChildren(
      ...status.values.map(([name, value], i) => valueItem(name, value, labels.unit, labels.chart && i < drawn ? i : null)),
    );
    sayOrHide(notes, notesOf(status, drawn, labels.chart === "bars"));
    chart.draw();
    if (exported) return;
    const next = announcement(status, heard);
    heard = next.heard;
    if (next.text !== null) spoken.textContent = spokenLabel(next.text, 400);
  }
  draw();
  view.on(["status", "series", "points"], draw);
  view.atEnd(() => clearInterval(ticking));
  if (!exported) view.wire.ask("hello").catch(() => {}); // without a kernel the picture stays as it is
  return view.unmount;
}

export default { render };
