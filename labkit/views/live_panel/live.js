// The live panel as a widget: how far the work is, what it says, its numbers, and the button that stops it.

import { make, sayOrHide } from "../kit/common.js";
import { plain } from "../kit/line_chart.js";
import { mount } from "../kit/mount.js";
import { workHead } from "../kit/work.js";
import { chartPane } from "./chart.js";

/** @typedef {import("./logic.js").Status} Status */

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
  const labels = /** @type {import("./logic.js").Labels} */ (view.get("labels"));
  const drawn = () => view.get("series").length;
  const colour = (/** @type {number} */ i) => (labels.chart && i < drawn() ? i : null);
  const head = workHead(view, { title: labels.title, name: "Live panel", unit: labels.unit, colour });
  const chart = chartPane(view);
  const notes = make("p", "lk-live-notes lk-muted lk-small");
  view.root.append(...head.elements, chart.element, notes);

  // One message carries all of it; `points` is drawn with the status it came with.
  function draw() {
    head.draw();
    sayOrHide(notes, notesOf(view.get("status"), drawn(), labels.chart === "bars"));
    chart.draw();
  }
  draw();
  view.on(["status", "series", "points"], draw);
  return view.unmount;
}

export default { render };
