// The live panel as a widget: progress, the latest words and values, a chart of them, and the button.

import { appendRuns, make, makeRoot, setText, spokenLabel, visibleRuns } from "../kit/common.js";
import { patience } from "../kit/patience.js";
import {
  announcement,
  axis,
  chartWords,
  doneShare,
  extent,
  farWords,
  linePath,
  progressWords,
  readLines,
  share,
  spread,
  tickText,
} from "./logic.js";

const NO_ANSWER_TO_STOP =
  "No answer from the kernel: it is busy with a cell (interrupt it to stop), or it was restarted; then run this cell again.";
const HEIGHT = 180;
const MARGIN = { top: 10, bottom: 34, left: 58 };
const LABEL_GAP = 14;
const COLOURS = 6; // lines beyond these are dashed, in the same colours again
const SVG = "http://www.w3.org/2000/svg";

function svg(tag, attributes = {}, text = null) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== null) element.textContent = text;
  return element;
}

/** Text on one line, with what can't be seen written out and spaces left as they are. */
function plain(text, limit) {
  let label = "";
  for (const run of visibleRuns(text, { spaces: false })) label += run.kind === "text" ? run.text : run.mark || "…";
  const characters = [...label];
  return characters.length > limit ? `${characters.slice(0, limit - 1).join("")}…` : label;
}

function render({ model, el }) {
  const exported = Boolean(model.get("exported"));
  const labels = model.get("labels");
  const root = makeRoot("lk-live");
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
  const progress = make("p", "lk-live-progress");
  const say = make("p", "lk-live-say");
  say.dir = "auto";
  const values = make("dl", "lk-live-values");
  const chart = make("div", "lk-live-chart");
  chart.setAttribute("role", "img");
  const notes = make("p", "lk-live-notes");
  const warning = make("p", "lk-live-warning");
  warning.setAttribute("role", "alert");
  const spoken = make("div", "lk-spoken");
  spoken.setAttribute("role", "status");
  spoken.setAttribute("aria-live", "polite");

  title.hidden = !labels.title;
  button.hidden = exported;
  chart.hidden = !labels.chart;
  warning.hidden = true;
  root.append(head, bar, progress, say, values, chart, notes, warning, spoken);
  el.append(root);

  // progress -----------------------------------------------------------------------------------------------------------

  let received = Date.now();
  let ticking = null;
  let heard = null;

  function elapsed() {
    const { state, elapsed: then } = model.get("status");
    return state === "running" && !exported ? then + (Date.now() - received) / 1000 : then;
  }

  function drawProgress() {
    const status = model.get("status");
    const late = exported && (status.state === "running" || status.state === "waiting");
    setText(progress, late ? `${status.message}, when this file was written` : progressWords(status, elapsed()));
  }

  function drawStatus() {
    received = Date.now();
    const status = model.get("status");
    const busy = status.begun && (status.state === "waiting" || status.state === "running");
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
        if (labels.chart && i < model.get("series").length) term.append(sample(i));
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
    if (status.undrawn > 0) said.push(`Drawn are the first ${model.get("series").length} names.`);
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

  /** A short piece of a line as the chart draws it: the key to the colours. */
  function sample(i) {
    const piece = svg("svg", { width: 18, height: 8, "aria-hidden": "true", class: "lk-live-sample" });
    piece.append(svg("path", { d: "M1 4h16", class: lineClass(i) }));
    return piece;
  }

  function lineClass(i) {
    return `lk-live-line lk-live-c${i % COLOURS}${i >= COLOURS ? " lk-live-dashed" : ""}`;
  }

  // chart --------------------------------------------------------------------------------------------------------------

  let width = 0;

  function drawChart() {
    if (!labels.chart || width < 80) return;
    const status = model.get("status");
    const lines = readLines(model.get("series"), model.get("points"));
    chart.setAttribute("aria-label", spokenLabel(chartWords(labels.chart, lines, status.values, labels, status), 400));
    const bars = labels.chart === "bars";
    const xs = extent(lines, 0);
    const ys = extent(lines, 1);
    const direct = !bars && lines.length > 1; // a line alone is named by its axis
    const right = direct ? Math.min(width * 0.3, 14 + 7 * Math.max(...lines.map(({ name }) => Math.min(16, name.length)))) : 12;
    const plot = { left: MARGIN.left, right: width - right, top: MARGIN.top, bottom: HEIGHT - MARGIN.bottom };
    const picture = svg("svg", { width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, "aria-hidden": "true" });
    if (xs === null || ys === null) {
      const empty = status.state === "running" || status.state === "waiting" ? "No values yet" : "No values to draw";
      picture.append(svg("text", { x: plot.left, y: HEIGHT / 2, class: "lk-live-tick" }, empty));
      chart.replaceChildren(picture);
      return;
    }
    const whole = lines.every(({ points }) => points.every(([x]) => Number.isNaN(x) || Number.isInteger(x)));
    const slots = bars ? slotWidth(lines) : 0;
    const across = axis([xs[0] - slots / 2, xs[1] + slots / 2], Math.max(2, Math.floor((plot.right - plot.left) / 90)), { whole });
    const up = axis(ys, 4, { zero: bars });
    const pixelX = (value) => plot.left + share(value, across) * (plot.right - plot.left);
    const pixelY = (value) => plot.bottom - share(value, up) * (plot.bottom - plot.top);

    for (const tick of up.ticks) {
      const at = pixelY(tick).toFixed(1);
      const zero = bars && tick === 0 ? " lk-live-zero" : "";
      picture.append(
        svg("line", { x1: plot.left, x2: plot.right, y1: at, y2: at, class: `lk-live-grid${zero}` }),
        svg("text", { x: plot.left - 6, y: Number(at) + 4, class: "lk-live-tick", "text-anchor": "end" }, tickText(tick, up.step)),
      );
    }
    for (const tick of across.ticks) {
      const at = pixelX(tick);
      picture.append(svg("text", { x: at, y: plot.bottom + 14, class: "lk-live-tick", "text-anchor": "middle" }, tickText(tick, across.step)));
    }
    if (labels.x) {
      const middle = (plot.left + plot.right) / 2;
      picture.append(svg("text", { x: middle, y: HEIGHT - 4, class: "lk-live-axis", "text-anchor": "middle" }, plain(labels.x, 60)));
    }
    const upward = [labels.y || (lines.length === 1 ? lines[0].name : ""), labels.unit && `(${labels.unit})`].filter(Boolean).join(" ");
    if (upward) {
      const middle = (plot.top + plot.bottom) / 2;
      const turned = { transform: `translate(11 ${middle}) rotate(-90)`, class: "lk-live-axis", "text-anchor": "middle" };
      picture.append(svg("text", turned, plain(upward, 28)));
    }

    lines.forEach(({ points }, i) => {
      if (bars) {
        const each = Math.max(1, ((pixelX(across.low + slots) - plot.left) * 0.8) / lines.length);
        const zero = pixelY(0);
        let path = "";
        for (const [x, y] of points) {
          if (Number.isNaN(x) || Number.isNaN(y)) continue;
          const left = pixelX(x) + (i - lines.length / 2) * each;
          path += `M${left.toFixed(2)} ${zero.toFixed(1)}V${pixelY(y).toFixed(1)}h${Math.max(0.8, each * 0.92).toFixed(2)}V${zero.toFixed(1)}z`;
        }
        picture.append(svg("path", { d: path, class: `lk-live-bars lk-live-c${i % COLOURS}${i >= COLOURS ? " lk-live-faded" : ""}` }));
      } else {
        picture.append(svg("path", { d: linePath(points.map(([x, y]) => [pixelX(x), pixelY(y)])), class: lineClass(i) }));
      }
    });
    if (direct) {
      const ends = lines.map(({ points }) => points.findLast(([x, y]) => !Number.isNaN(x) && !Number.isNaN(y)) ?? null);
      const shown = lines.map((_, i) => i).filter((i) => ends[i] !== null);
      const heights = spread(shown.map((i) => pixelY(ends[i][1])), LABEL_GAP, plot.top, plot.bottom);
      shown.forEach((i, k) => {
        const x = plot.right + 6;
        picture.append(
          svg("line", { x1: pixelX(ends[i][0]), y1: pixelY(ends[i][1]), x2: x - 1, y2: heights[k], class: `lk-live-lead lk-live-c${i % COLOURS}` }),
          svg("text", { x, y: heights[k] + 4, class: "lk-live-label" }, plain(lines[i].name, 16)),
        );
      });
    }
    chart.replaceChildren(picture);
  }

  /** The room of one bar: the smallest distance between two places. */
  function slotWidth(lines) {
    const places = [...new Set(lines.flatMap(({ points }) => points.map(([x]) => x).filter((x) => !Number.isNaN(x))))].sort((a, b) => a - b);
    let least = Infinity;
    for (let i = 1; i < places.length; i += 1) least = Math.min(least, places[i] - places[i - 1]);
    return Number.isFinite(least) ? least : 1;
  }

  const sizes = new ResizeObserver(() => {
    const now = Math.floor(chart.clientWidth);
    if (now === width) return;
    width = now;
    drawChart();
  });
  sizes.observe(chart);

  // the button ---------------------------------------------------------------------------------------------------------

  const kernel = patience(() => {
    warning.hidden = false;
    warning.textContent = NO_ANSWER_TO_STOP;
  });
  let asked = null;
  function settled() {
    asked = null;
    kernel.answered();
    warning.hidden = true;
    warning.textContent = "";
  }
  function answered() {
    const status = model.get("status");
    const goesOn = status.begun && !status.stopping && (status.state === "waiting" || status.state === "running");
    if (asked === "stop" && goesOn) return; // news of work that goes on is no answer to Stop
    settled();
  }
  button.addEventListener("click", () => {
    settled();
    const type = model.get("status").begun ? "stop" : "start";
    asked = type;
    kernel.ask(() => model.send({ type }), type === "stop");
  });

  // One message carries all of it; `points` is drawn with the status it came with.
  let waiting = false;
  function redraw() {
    if (waiting) return;
    waiting = true;
    queueMicrotask(() => {
      waiting = false;
      if (over) return;
      drawStatus();
      drawChart();
    });
  }

  let over = false;
  const events = [
    ["change:status", answered],
    ["change:status", redraw],
    ["change:series", redraw],
    ["change:points", redraw],
  ];
  width = Math.floor(chart.clientWidth);
  drawStatus();
  drawChart();
  for (const [event, callback] of events) model.on(event, callback);
  if (!exported) {
    try {
      model.send({ type: "hello" });
    } catch {
      // without a kernel the picture stays as it is
    }
  }
  return () => {
    over = true;
    clearInterval(ticking);
    kernel.answered();
    sizes.disconnect();
    for (const [event, callback] of events) model.off(event, callback);
  };
}

export default { render };
