// The training view: how far it is and the Stop button, curves, and what the model makes of one prompt along the way.

import { box, make, outsideText, sayOrHide, section, spokenLabel } from "../kit/common.js";
import { lineChart, plain } from "../kit/line_chart.js";
import { mount } from "../kit/mount.js";
import { readLines } from "../kit/plot.js";
import { workHead } from "../kit/work.js";
import { chartWords } from "./logic.js";

/** @typedef {import("../kit/mount.js").Mounted} Mounted */
/** @typedef {import("./logic.js").Chart} Chart */

const HEIGHT = { small: 120, large: 190 };

/**
 * One chart with its title. Returns {element, draw(chart, lines, busy)}.
 * @param {Mounted} view
 * @param {Chart} chart
 * @param {number} k
 */
function chartPane(view, { title: words, note, small }, k) {
  const { element } = section(view.id(`chart${k}`), words, small ? "lk-train-small" : "");
  const picture = make("div", "lk-train-picture");
  picture.setAttribute("role", "img");
  element.append(picture);
  if (note) element.append(make("p", "lk-muted lk-small", note));
  return {
    element,
    /** @type {(chart: Chart, lines: import("../kit/plot.js").Line[], busy: boolean) => void} */
    draw(chart, lines, busy) {
      const width = Math.floor(picture.clientWidth);
      if (width < 80) return;
      picture.setAttribute("aria-label", spokenLabel(chartWords(chart, lines), 400));
      const height = small ? HEIGHT.small : HEIGHT.large;
      const given = { lines, width, height, x: "step", y: chart.y, zero: chart.zero, named: lines.length > 1 };
      picture.replaceChildren(lineChart(given, busy ? "No values yet" : "Not measured"));
    },
  };
}

/**
 * What the model makes of one prompt, the latest first. Returns {element, draw()}.
 * @param {Mounted} view
 */
function samplesPane(view) {
  const { element, title } = section(view.id("samples"), "The same prompt along the way", "lk-train-samples");
  const prompt = make("p", "lk-train-prompt");
  const list = make("ol", "lk-train-list");
  list.tabIndex = 0;
  list.setAttribute("aria-labelledby", title.id);
  element.append(prompt, list);
  let drawn = "";
  return {
    element,
    draw() {
      const samples = /** @type {[number, string][]} */ (view.get("samples"));
      element.hidden = samples.length === 0;
      const asked = view.get("prompt");
      prompt.hidden = !asked;
      const now = JSON.stringify([asked, samples]);
      if (now === drawn) return; // what is selected stays so
      drawn = now;
      prompt.replaceChildren(make("span", "lk-muted", "Prompt "), outsideText("bdi", "lk-prose", asked));
      list.replaceChildren(
        ...[...samples].reverse().map(([step, text]) => {
          const row = make("li", "lk-train-sample");
          const words = outsideText("div", "lk-prose", text);
          if (text === "") words.append(make("span", "lk-muted", "The model ended its text at once."));
          row.append(make("span", "lk-train-step", step === 0 ? "before" : `step ${step}`), words);
          return row;
        }),
      );
    },
  };
}

/** @param {{model: import("../kit/ask.js").Model, el: HTMLElement}} widget */
function render(widget) {
  const view = mount(widget, "lk-train");
  view.root.classList.add("lk-panes");
  const charts = /** @type {Chart[]} */ (view.get("charts"));
  // the values stand in the order of the lines
  const series = () => /** @type {Chart[]} */ (view.get("charts")).flatMap((chart) => chart.lines);
  const head = workHead(view, { title: view.get("title"), name: "Training", colour: (i) => series()[i]?.colour ?? null });
  const panes = charts.map((chart, k) => chartPane(view, chart, k));
  const samples = samplesPane(view);
  const notes = make("p", "lk-muted lk-small");
  view.root.append(...head.elements, box("lk-train-charts", ...panes.map(({ element }) => element)), notes, samples.element);

  function drawCharts() {
    const now = /** @type {Chart[]} */ (view.get("charts"));
    const lines = readLines(series(), view.get("points"));
    const busy = !view.exported && ["waiting", "running"].includes(view.get("status").state);
    let from = 0;
    for (const [k, chart] of now.entries()) {
      panes[k].draw(chart, lines.slice(from, from + chart.lines.length), busy);
      from += chart.lines.length;
    }
  }
  function draw() {
    head.draw();
    drawCharts();
    samples.draw();
    sayOrHide(notes, view.get("notes").map((/** @type {string} */ each) => plain(each, 400)).join(" "));
  }
  draw();
  view.on(["status", "charts", "points", "samples", "notes"], draw);
  view.resized(drawCharts);
  return view.unmount;
}

export default { render };
