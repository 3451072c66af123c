// The live panel as a widget: progress, the latest words and values, a chart of them, and the button.

import { unlessDropped } from "../kit/ask.js";
import { appendRuns, make, setText, spokenLabel, visibleRuns } from "../kit/common.js";
import { isBusy } from "../kit/field.js";
import { mount } from "../kit/mount.js";
import { chartPane, plain, sample } from "./chart.js";
import { announcement, doneShare, farWords, progressWords } from "./logic.js";

const NO_ANSWER_TO_STOP =
  "No answer from the kernel: it is busy with a cell (interrupt it to stop), or it was restarted; then run this cell again.";

/** @param {{model: import("../kit/ask.js").Model, el: HTMLElement}} widget */
function render(widget) {
  const view = mount(widget, "lk-live");
  const { root, exported, get } = view;
  const labels = get("labels");
  root.tabIndex = -1; // where the focus goes when the button it was on has nothing left to do
  root.setAttribute("role", "group");
  root.setAttribute("aria-label", labels.title ? spokenLabel(labels.title, 120) : "Live panel");

  const head = make("div", "lk-live-head");
  const title = make("div", "lk-live-title");
  title.dir = "auto";
  appendRuns(title, visibleRuns(labels.title, { spaces: false }));
  const button = make("button", "lk-live-button", "Stop");
  button.type = "button";
  head.append(title, button);

  const bar = make("div", "lk-live-bar");
  bar.setAttribute("role", "progressbar");
  bar.setAttribute("aria-label", `Progress${labels.title ? ` of ${spokenLabel(labels.title, 120)}` : ""}`);
  bar.setAttribute("aria-valuemin", "0");
  const fill = make("div", "lk-live-fill");
  bar.append(fill);
  const progress = make("p", "lk-live-progress lk-muted");
  const say = make("p", "lk-live-say");
  say.dir = "auto";
  const values = make("dl", "lk-live-values");
  const chart = chartPane(view);
  const notes = make("p", "lk-live-notes lk-muted lk-small");
  const warning = make("p", "lk-live-warning lk-failed lk-small");
  warning.setAttribute("role", "alert");
  const spoken = make("div", "lk-spoken");
  spoken.setAttribute("role", "status");
  spoken.setAttribute("aria-live", "polite");

  title.hidden = !labels.title;
  button.hidden = exported;
  warning.hidden = true;
  root.append(head, bar, progress, say, values, chart.element, notes, warning, spoken);

  // progress -----------------------------------------------------------------------------------------------------------

  let received = Date.now();
  let ticking = null;
  let heard = null;

  function elapsed() {
    const { state, elapsed: then } = get("status");
    return state === "running" && !exported ? then + (Date.now() - received) / 1000 : then;
  }

  function drawProgress() {
    const status = get("status");
    const late = exported && isBusy(status);
    setText(progress, late ? `${status.message}, when this file was written` : progressWords(status, elapsed()));
  }

  function drawStatus() {
    received = Date.now();
    const status = get("status");
    const busy = status.begun && isBusy(status);
    const label = status.begun ? "Stop" : "Start";
    setText(button, label);
    const rest = status.begun && (!busy || status.stopping);
    if (rest && document.activeElement === button) root.focus({ preventScroll: true });
    button.disabled = rest;

    const done = doneShare(status);
    fill.style.width = `${100 * (done ?? 0)}%`;
    bar.classList.toggle("lk-live-unknown", done === null);
    if (done === null) {
      bar.removeAttribute("aria-valuenow");
      bar.removeAttribute("aria-valuemax");
    } else {
      bar.setAttribute("aria-valuemax", String(status.total));
      bar.setAttribute("aria-valuenow", String(Math.min(status.done, status.total)));
    }
    bar.setAttribute("aria-valuetext", farWords(status) || status.state);

    root.dataset.state = status.state;
    progress.classList.toggle("lk-failed", status.state === "failed");
    drawProgress();
    if (busy && !exported) ticking ??= setInterval(drawProgress, 500);
    else {
      clearInterval(ticking);
      ticking = null;
    }

    say.hidden = !status.say;
    say.replaceChildren();
    appendRuns(say, visibleRuns(status.say, { spaces: false }));

    values.hidden = status.values.length === 0;
    values.replaceChildren(
      ...status.values.map(([name, value], i) => {
        const item = make("div", "lk-live-value");
        const term = make("dt");
        if (labels.chart && i < get("series").length) term.append(sample(i));
        const text = make("span");
        appendRuns(text, visibleRuns(name, { spaces: false }));
        term.append(text);
        const number = make("dd", "", value);
        if (labels.unit && /\d/.test(value)) number.append(" ", make("span", "lk-live-unit", labels.unit));
        item.append(term, number);
        return item;
      }),
    );

    const said = [...status.gaps];
    if (status.more > 0) said.push(`${status.more} more values are not listed here.`);
    if (status.undrawn > 0) said.push(`Drawn are the first ${get("series").length} names.`);
    if (status.pooled) {
      said.push(
        labels.chart === "bars"
          ? "Each bar is, of several neighbours, the one farthest from zero."
          : "Each stretch of a line shows its lowest and highest value.",
      );
    }
    setText(notes, said.map((each) => plain(each, 400)).join(" "));
    notes.hidden = said.length === 0;

    if (!exported) {
      const next = announcement(status, heard);
      heard = next.heard;
      if (next.text !== null) spoken.textContent = spokenLabel(next.text, 400);
    }
  }

  // the button ---------------------------------------------------------------------------------------------------------

  function warn(text) {
    warning.hidden = !text;
    setText(warning, text);
  }
  button.addEventListener("click", () => {
    warn("");
    const question = get("status").begun ? "stop" : "start";
    view.wire
      .ask(question, {}, { repeat: question === "stop", latest: "button" })
      .then(() => warn(""), unlessDropped(() => warn(NO_ANSWER_TO_STOP)));
  });

  // One message carries all of it; `points` is drawn with the status it came with.
  function redraw() {
    const status = get("status");
    if (!status.begun || status.stopping || !isBusy(status)) warn(""); // news of work that goes on is no answer to Stop
    drawStatus();
    chart.draw();
  }
  redraw();
  view.on(["status", "series", "points"], redraw);
  view.atEnd(() => clearInterval(ticking));
  if (!exported) view.wire.ask("hello").catch(() => {}); // without a kernel the picture stays as it is
  return view.unmount;
}

export default { render };
