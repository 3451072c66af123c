// A slider for each feature, its exact number beside it.

import { button } from "../kit/controls.js";
import { box, make, outsideText, sayOrHide, setText, spokenLabel, unread } from "../kit/common.js";
import { strengthAt, strengthWords, timesWords } from "./logic.js";

/** @typedef {import("../kit/mount.js").Mounted} Mounted */
/** @typedef {import("./logic.js").Feature} Feature */

const MIDDLE = 50; // per cent of the track

/**
 * One feature's row; set(value): another strength is wanted. Returns {element, slider, draw(value)}.
 * @type {(view: Mounted, feature: Feature, i: number, set: (value: number) => void) =>
 *   {element: HTMLElement, slider: HTMLInputElement, draw: (value: number) => void}}
 */
function sliderRow(view, feature, i, set) {
  const unit = /** @type {string} */ (view.get("unit"));
  const spoken = spokenLabel(feature.label, 120);
  const name = outsideText("label", "", feature.label);
  const heading = box("lk-steer-heading", name, " ", make("span", "lk-muted lk-small", feature.key === feature.label ? "" : feature.key));

  const slider = make("input", "lk-steer-slider");
  Object.assign(slider, { type: "range", min: -feature.steps, max: feature.steps, step: 1, id: view.id(`s${i}`) });
  name.htmlFor = slider.id;
  slider.setAttribute("aria-label", spoken); // what can't be seen in the label has a name too
  const ends = box("lk-steer-ends", ...[-feature.high, 0, feature.high].map((value) => make("span", "", strengthWords(value))));
  unread(ends);

  const exact = make("input", "lk-steer-exact");
  Object.assign(exact, { type: "number", step: "any", min: -feature.high, max: feature.high, autocomplete: "off" });
  exact.setAttribute("aria-label", `${spoken}: exact strength`);
  const times = make("span", "lk-muted lk-steer-times");
  const back = button("Back to 0", `Back to 0: ${spoken}`, () => {
    put(0);
    slider.focus({ preventScroll: true }); // the button has nothing left to do
  });
  back.classList.add("lk-steer-back");
  const hint = make("p", "lk-steer-hint");
  hint.id = view.id(`h${i}`);
  hint.setAttribute("role", "alert");
  const numbers = box("lk-actions", exact, times);
  const element = box("lk-steer-row", heading, box("lk-steer-track", slider, ends), numbers, back, hint);
  warn("");

  /** @param {string} text */
  function warn(text) {
    sayOrHide(hint, text);
    exact.setAttribute("aria-invalid", String(text !== ""));
    if (text === "") exact.removeAttribute("aria-describedby");
    else exact.setAttribute("aria-describedby", hint.id);
  }

  /** @param {number} value */
  function put(value) {
    warn("");
    exact.value = String(value);
    set(value);
  }

  slider.addEventListener("input", () => put(strengthAt(Number(slider.value), feature)));
  exact.addEventListener("change", () => {
    const value = exact.value === "" ? NaN : Number(exact.value);
    if (Math.abs(value) <= feature.high) put(value);
    else warn(`Give a number from ${strengthWords(-feature.high)} to ${strengthWords(feature.high)}.`);
  });
  return {
    element,
    slider,
    draw(value) {
      const position = Math.round((value / feature.high) * feature.steps);
      if (Number(slider.value) !== position) slider.value = String(position);
      if (exact.value === "" || Number(exact.value) !== value) exact.value = String(value);
      // drawn from the middle: how far from 0, and to which side
      const at = MIDDLE * (1 + value / feature.high);
      slider.style.setProperty("--lk-from", `${Math.min(at, MIDDLE)}%`);
      slider.style.setProperty("--lk-to", `${Math.max(at, MIDDLE)}%`);
      const words = unit ? `${strengthWords(value)} ${unit}` : strengthWords(value);
      slider.setAttribute("aria-valuetext", `${words}, ${timesWords(value, feature.typical)}`);
      setText(times, [unit, timesWords(value, feature.typical)].filter(Boolean).join(", "));
      back.disabled = value === 0;
    },
  };
}

/**
 * All sliders, and the button that sets them back. set(values): other strengths are wanted.
 * @type {(view: Mounted, set: (values: number[]) => void) => {element: HTMLElement, allBack: HTMLButtonElement}}
 */
export function sliders(view, set) {
  const features = /** @type {Feature[]} */ (view.get("features"));
  const unit = /** @type {string} */ (view.get("unit"));
  const values = () => /** @type {number[]} */ (view.get("values"));
  const element = make("div", "lk-steer-controls");
  element.setAttribute("role", "group");
  element.setAttribute("aria-label", "How strongly each feature is added");
  // room for the longest that is ever said, so that no slider moves under the pointer
  element.style.setProperty("--lk-times", `${((unit ? unit.length + 2 : 0) + "−0.125 × its highest".length) * 0.85}ch`);
  /** @param {number[]} next */
  const change = (next) => String(next) !== String(values()) && set(next);
  const rows = features.map((feature, i) =>
    sliderRow(view, feature, i, (value) => change(values().map((each, k) => (k === i ? value : each)))),
  );
  element.append(...rows.map((row) => row.element));
  const allBack = button("All back to 0", "", () => {
    change(features.map(() => 0));
    rows[0].slider.focus({ preventScroll: true });
  });
  const draw = () => {
    for (const [i, value] of values().entries()) rows[i].draw(value);
    allBack.disabled = values().every((value) => value === 0);
  };
  draw();
  view.on("values", draw);
  return { element, allBack };
}
