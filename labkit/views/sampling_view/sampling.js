// The temperature view as a widget: slider, bars, and the sampled text drawn by the token view's reader.

import { barRow } from "../kit/bars.js";
import { button, sliderFor } from "../kit/controls.js";
import { box, decimal, equalChoices, make, outsideText, percent, setText, thousands, visibleLabel } from "../kit/common.js";
import { isBusy, statusLine, stopwatch } from "../kit/field.js";
import { legend } from "../kit/legend.js";
import { mount } from "../kit/mount.js";
import { tokenLabel } from "../kit/token_list.js";
import { createReader } from "../tokens_view/reader.js";
import { rowAt, sayTemperature } from "./logic.js";

/** @typedef {import("../kit/mount.js").Mounted} Mounted */

const DRAFT_CHARACTERS = 80; // of the text under way, its end
const BASE = 1; // the temperature of the model's own distribution

/**
 * The slider and the bars that it shapes. changed(temperature): the slider was moved.
 * @type {(view: Mounted, changed: (temperature: number) => void) => {elements: HTMLElement[], draw: () => void}}
 */
function distributionPane(view, changed) {
  const grid = view.get("slider");
  const names = /** @type {string[]} */ (view.get("names"));
  const others = view.get("others_count");
  const range = { min: grid.lowest, max: grid.highest, step: grid.step };
  const { label, slider, output, say } = sliderFor("Temperature", view.id("t"), range, changed);
  const spread = make("span", "lk-muted");
  const control = box("lk-controls", label, output, slider, spread);

  const chart = make("ul", "lk-bars lk-sampling-bars");
  const rows = names.map((name) => barRow({ name: tokenLabel(name, 40), share: 0 }));
  const rest = barRow({ name: `${thousands(others)} others`, share: 0, className: "lk-bar-others" });
  rest.element.hidden = others === 0;
  rows.push(rest);
  chart.append(...rows.map(({ element }) => element));
  const key = legend([{ sample: "lk-track-mark", text: "temperature 1, the model's own distribution" }], { quiet: true });
  key.classList.add("lk-sampling-key");
  const at = (/** @type {number} */ temperature) => rowAt(temperature, view.get("settings"), view.get("current"), names.length, grid);

  function draw() {
    const temperature = view.get("temperature");
    slider.value = temperature;
    say(sayTemperature(temperature));
    const row = at(temperature);
    if (row === null) return; // it comes with the next message
    const base = at(BASE);
    const shares = (/** @type {import("./logic.js").Row} */ { shares, others }) => [...shares, others];
    const marks = base ? shares(base) : [];
    shares(row).forEach((share, i) => rows[i].draw({ share, mark: marks[i] ?? null, number: percent(share) }));
    setText(spread, `entropy ${decimal(row.entropy, 3)} nats: as open as ${equalChoices(row.entropy)}`);
  }
  return { elements: [control, chart, key], draw };
}

/** The sampled text, what is being done for it, and the buttons that have it done. @param {Mounted} view */
function samplePane(view) {
  const { exported, get } = view;
  const written = get("temperature");
  const line = statusLine();
  const again = button("Another sample", "", () => line.hear(view.wire.ask("resample")));
  const stop = button("Stop", "", () => line.hear(view.wire.ask("stop", {}, { repeat: true })));
  const clock = stopwatch(view);
  const draft = make("span", "lk-sampling-draft");
  const reader = createReader(view, { label: "Sampled tokens" });
  const bar = box("lk-actions", again, stop, line.element, clock.element, draft);
  const element = box("lk-sampling-sample", bar, reader.element);
  if (exported) {
    again.hidden = stop.hidden = draft.hidden = true;
    line.say(`The text below was sampled at temperature ${sayTemperature(written)}`);
  }

  function drawStatus() {
    const { state = "waiting", message = "", draft: text = "", seed = 0 } = get("status");
    const greedy = get("temperature") === 0;
    again.disabled = greedy;
    again.title = greedy ? "At temperature 0 every sample is the same" : "";
    if (exported) return;
    const busy = isBusy({ state });
    stop.disabled = !busy;
    const said = `${greedy ? "greedy" : `sample ${seed + 1}`}: ${busy ? "sampling …" : message}`;
    line.draw({ state, message: state === "failed" ? message : said }, "");
    clock.run(busy);
    setText(draft, busy ? visibleLabel(text.slice(-DRAFT_CHARACTERS), 2 * DRAFT_CHARACTERS) : "");
    // The last sample stays, dimmed, while the next is on its way: nothing jumps.
    reader.element.classList.toggle("lk-sampling-old", busy || state === "failed");
  }

  function drawSample() {
    const facts = get("facts");
    reader.element.hidden = facts.n === 0 && !facts.empty;
    reader.update(-1);
  }
  view.atEnd(line.clear);
  return { element, hear: line.hear, drawStatus, drawSample };
}

/** @param {{model: import("../kit/ask.js").Model, el: HTMLElement}} widget */
function render(widget) {
  const view = mount(widget, "lk-tokens lk-sampling");
  const { exported, get } = view;
  const prompt = box("", make("span", "lk-muted", "What comes after "), outsideText("span", "lk-prose", get("prompt")));
  const sample = samplePane(view);
  const distribution = distributionPane(view, (temperature) => {
    if (exported) view.set("temperature", temperature);
    else sample.hear(view.wire.tell({ temperature }));
  });
  view.root.append(prompt, ...distribution.elements, sample.element);

  function draw() {
    distribution.draw();
    sample.drawStatus();
  }
  draw();
  sample.drawSample();
  view.on(["temperature", "current"], draw);
  view.on("status", sample.drawStatus);
  view.on("version", sample.drawSample);
  return view.unmount;
}

export default { render };
