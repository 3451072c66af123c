// The temperature view as a widget: slider, bars, and the sampled text drawn by the token view's reader.

import { NO_ANSWER, unlessDropped } from "../kit/ask.js";
import { appendRuns, decimal, equalChoices, make, percent, thousands, visibleLabel, visibleRuns } from "../kit/common.js";
import { isBusy } from "../kit/field.js";
import { mount } from "../kit/mount.js";
import { createReader, tokenLabel } from "../tokens_view/reader.js";
import { SLIDER, rowAt, sayTemperature } from "./logic.js";

const FULL_BAR = 100; // per cent of the track
const DRAFT_CHARACTERS = 80; // of the text under way, its end

/** @param {{model: import("../kit/ask.js").Model, el: HTMLElement}} widget */
function render(widget) {
  const view = mount(widget, "lk-tokens lk-sampling");
  const { root, exported, get } = view;

  const prompt = make("p", "lk-sampling-prompt");
  const quote = make("span", "lk-sampling-text");
  quote.dir = "auto";
  appendRuns(quote, visibleRuns(get("prompt"), { spaces: false }));
  prompt.append(make("span", "lk-sampling-what lk-muted", "What comes after"), " ", quote);

  const control = make("div", "lk-sampling-control");
  const label = make("label", "", "Temperature");
  const slider = make("input", "lk-slider");
  Object.assign(slider, { type: "range", min: SLIDER.lowest, max: SLIDER.highest, step: SLIDER.step, id: view.id("t") });
  label.htmlFor = slider.id;
  const value = make("output", "lk-sampling-value");
  value.htmlFor = slider.id;
  const spread = make("span", "lk-muted");
  control.append(label, value, slider, spread);

  const chart = make("ul", "lk-bars lk-sampling-bars");
  const key = make("p", "lk-sampling-key lk-muted lk-small");
  key.append(make("span", "lk-sampling-outline"), " outline: temperature 1, the model's own distribution");

  const names = get("names");
  const rows = [...names, null].map((name) => {
    const item = make("li", "lk-bar");
    const title = make("span", "lk-bar-name");
    if (name === null) {
      item.classList.add("lk-bar-others");
      title.append(`${thousands(get("others_count"))} others`);
    } else {
      title.append(tokenLabel(name, 40));
    }
    const track = make("span", "lk-track");
    const fill = make("span", "lk-track-fill");
    const base = make("span", "lk-sampling-base");
    track.append(fill, base);
    const number = make("span", "lk-bar-number");
    item.append(title, track, number);
    chart.append(item);
    return { item, fill, base, number };
  });
  rows.at(-1).item.hidden = get("others_count") === 0;

  const sample = make("div", "lk-sampling-sample");
  const buttons = make("div", "lk-sampling-buttons");
  const again = make("button", "", "Another sample");
  const stop = make("button", "", "Stop");
  again.type = stop.type = "button";
  const status = make("span", "lk-sampling-status lk-muted");
  status.setAttribute("role", "status");
  const clock = make("span", "lk-sampling-status lk-muted");
  buttons.append(again, stop, status, clock);
  const draft = make("span", "lk-sampling-draft");
  const reader = createReader({ label: "Sampled tokens" });
  buttons.append(draft);
  sample.append(buttons, reader.element);
  if (exported) {
    again.hidden = stop.hidden = draft.hidden = true;
  }

  root.append(prompt, control, chart, key, sample);

  function setBars(shares, part) {
    rows.forEach((row, i) => {
      const share = i < shares.length ? shares[i] : 0;
      row[part].style.width = `${Math.min(FULL_BAR, share * FULL_BAR)}%`;
      if (part === "fill") row.number.textContent = percent(share);
    });
  }

  function drawDistribution() {
    const temperature = get("temperature");
    slider.value = temperature;
    value.textContent = sayTemperature(temperature);
    slider.setAttribute("aria-valuetext", value.textContent);
    again.disabled = temperature === 0;
    again.title = temperature === 0 ? "At temperature 0 every sample is the same" : "";
    const row = rowAt(temperature, get("settings"), get("current"), names.length);
    if (row === null) return; // it comes with the next message
    setBars([...row.shares, row.others], "fill");
    spread.textContent = `entropy ${decimal(row.entropy, 3)} nats: as open as ${equalChoices(row.entropy)}`;
  }

  function drawBase() {
    const row = rowAt(1, get("settings"), get("current"), names.length);
    if (row !== null) setBars([...row.shares, row.others], "base");
  }

  let ticking = null;
  function tick(began) {
    clearInterval(ticking);
    ticking = null;
    clock.textContent = "";
    if (began === null) return;
    ticking = setInterval(() => {
      const seconds = Math.floor((Date.now() - began) / 1000);
      clock.textContent = seconds > 0 ? `${seconds} s` : "";
    }, 1000);
  }

  let wasBusy = false;
  function drawStatus() {
    const { state = "waiting", message = "", draft: text = "", seed = 0 } = get("status");
    const busy = !exported && isBusy({ state });
    stop.disabled = !busy;
    const said = { waiting: "sampling …", running: "sampling …", done: message, stopped: message, failed: message }[state];
    const exact = get("temperature") === 0 ? "greedy" : `sample ${seed + 1}`;
    const line = state === "failed" ? said : `${exact}: ${said}`;
    if (status.textContent !== line && !exported) status.textContent = line;
    status.classList.toggle("lk-failed", state === "failed");
    if (busy !== wasBusy) tick(busy ? Date.now() : null);
    wasBusy = busy;
    draft.textContent = busy ? visibleLabel(text.slice(-DRAFT_CHARACTERS), 2 * DRAFT_CHARACTERS) : "";
    // The last sample stays, dimmed, while the next is on its way: nothing jumps.
    reader.element.classList.toggle("lk-sampling-old", busy || state === "failed");
  }

  function drawSample() {
    const facts = get("facts");
    reader.element.hidden = facts.n === 0 && !facts.empty;
    reader.update({
      strings: get("strings"),
      block: get("block"),
      facts,
      prompt_text: ["", ""],
      held: -1,
    });
  }

  /** What is asked of the kernel; where it does not answer, that is said. */
  function asked(promise) {
    promise.catch(
      unlessDropped(() => {
        status.textContent = NO_ANSWER;
        status.classList.add("lk-failed");
      }),
    );
  }
  slider.addEventListener("input", () => {
    if (exported) view.set("temperature", Number(slider.value));
    else asked(view.wire.tell({ temperature: Number(slider.value) }));
  });
  again.addEventListener("click", () => asked(view.wire.ask("resample")));
  stop.addEventListener("click", () => asked(view.wire.ask("stop", {}, { repeat: true })));

  const written = get("temperature");
  function sampleNote() {
    status.textContent = `The text below was sampled at temperature ${sayTemperature(written)}`;
  }

  drawDistribution();
  drawBase();
  drawStatus();
  drawSample();
  if (exported) sampleNote();
  view.on(["temperature", "current"], drawDistribution);
  view.on("status", drawStatus);
  view.on("version", drawSample);
  view.atEnd(() => clearInterval(ticking));
  return view.unmount;
}

export default { render };
