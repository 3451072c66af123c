// A slider for each feature, its exact number beside it.

import { button } from "../kit/controls.js";
import { sliderRows } from "../kit/slider.js";
import { strengthAt, strengthWords, timesWords } from "./logic.js";

/** @typedef {import("../kit/mount.js").Mounted} Mounted */
/** @typedef {import("./logic.js").Feature} Feature */

/**
 * All sliders, and the button that sets them back. set(values): other strengths are wanted.
 * @type {(view: Mounted, set: (values: number[]) => void) => {element: HTMLElement, allBack: HTMLButtonElement}}
 */
export function sliders(view, set) {
  const features = /** @type {Feature[]} */ (view.get("features"));
  const unit = /** @type {string} */ (view.get("unit"));
  const values = () => /** @type {number[]} */ (view.get("values"));
  const scales = features.map((feature) => {
    const { key, label, typical, high, steps } = feature;
    const times = (/** @type {number} */ value) => timesWords(value, typical);
    return {
      label,
      note: key === label ? "" : key,
      low: -high,
      high,
      origin: 0,
      marks: [-high, 0, high],
      positions: /** @type {[number, number]} */ ([-steps, steps]),
      at: (/** @type {number} */ position) => strengthAt(position, feature),
      buttons: [{ text: "Back to 0", value: 0 }],
      what: "strength",
      text: strengthWords,
      spoken: (/** @type {number} */ value) => `${unit ? `${strengthWords(value)} ${unit}` : strengthWords(value)}, ${times(value)}`,
      beside: (/** @type {number} */ value) => [unit, times(value)].filter(Boolean).join(", "),
    };
  });
  const { element, rows, change } = sliderRows(view, { trait: "values", name: "How strongly each feature is added", scales, set });
  const allBack = button("All back to 0", "", () => {
    change(features.map(() => 0));
    rows[0].slider.focus({ preventScroll: true });
  });
  const draw = () => {
    allBack.disabled = values().every((value) => value === 0);
  };
  draw();
  view.on("values", draw);
  return { element, allBack };
}
