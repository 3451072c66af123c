// A slider with a row of its own: what it is called, its numbers, and buttons for values that are often wanted.

import { box, make, outsideText, sayOrHide, setText, spokenLabel, unread } from "./common.js";
import { button } from "./controls.js";

/** @typedef {import("./mount.js").Mounted} Mounted */

/**
 * label, note: what is set, and a little more beside it; low, high: the ends; origin: from where the rail is filled; marks: the
 * values written beneath it, both ends among them; positions: the first and the last step; at(position): the value there;
 * buttons: values that are set at a click, each with a text; what: what a value is called; text(value), spoken(value): the
 * value as it is written, and as it is read out; beside(value): what is said beside it.
 * @typedef {{label: string, note?: string, low: number, high: number, origin: number, marks: number[],
 *   positions: [number, number], at: (position: number) => number, buttons: {text: string, value: number}[], what: string,
 *   text: (value: number) => string, spoken: (value: number) => string, beside: (value: number) => string}} Scale
 */

/**
 * Returns {element, slider, draw(value)}. set(value): another value is wanted.
 * @type {(view: Mounted, scale: Scale, i: number, set: (value: number) => void) =>
 *   {element: HTMLElement, slider: HTMLInputElement, draw: (value: number) => void}}
 */
export function sliderRow(view, scale, i, set) {
  const { low, high, origin, what } = scale;
  const [first, last] = scale.positions;
  const share = (/** @type {number} */ value) => (value - low) / (high - low);
  const spoken = spokenLabel(scale.label, 120);
  const name = outsideText("label", "", scale.label);
  const heading = box("lk-rail-heading", name, " ", make("span", "lk-muted lk-small", scale.note ?? ""));

  const slider = make("input", "lk-rail");
  Object.assign(slider, { type: "range", min: first, max: last, step: 1, id: view.id(`s${i}`) });
  name.htmlFor = slider.id;
  slider.setAttribute("aria-label", spoken); // what can't be seen in the label has a name too
  const ends = make("div", "lk-rail-marks");
  unread(ends);
  for (const value of scale.marks) {
    const mark = make("span", "", scale.text(value));
    mark.style.setProperty("--lk-at", String(share(value)));
    ends.append(mark);
  }

  const exact = make("input", "lk-rail-exact");
  Object.assign(exact, { type: "number", step: "any", min: low, max: high, autocomplete: "off" });
  exact.setAttribute("aria-label", `${spoken}: exact ${what}`);
  const beside = make("span", "lk-muted lk-rail-beside");
  const buttons = scale.buttons.map(({ text, value }) => {
    const made = button(text, `${text}: ${spoken}`, () => {
      put(value);
      slider.focus({ preventScroll: true }); // the button has nothing left to do
    });
    return { made, value };
  });
  const wanted = box("lk-rail-buttons", ...buttons.map(({ made }) => made));
  const hint = make("p", "lk-rail-hint");
  hint.id = view.id(`h${i}`);
  hint.setAttribute("role", "alert");
  const element = box("lk-rail-row", heading, box("lk-rail-track", slider, ends), box("lk-actions", exact, beside), wanted, hint);
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

  slider.addEventListener("input", () => put(scale.at(Number(slider.value))));
  exact.addEventListener("change", () => {
    const value = exact.value === "" ? NaN : Number(exact.value);
    if (value >= low && value <= high) put(value);
    else warn(`Give a number from ${scale.text(low)} to ${scale.text(high)}.`);
  });
  return {
    element,
    slider,
    draw(value) {
      const position = Math.round(first + share(value) * (last - first));
      if (Number(slider.value) !== position) slider.value = String(position);
      if (exact.value === "" || Number(exact.value) !== value) exact.value = String(value);
      // drawn from where nothing is added: how far, and to which side
      slider.style.setProperty("--lk-from", `${100 * share(Math.min(value, origin))}%`);
      slider.style.setProperty("--lk-to", `${100 * share(Math.max(value, origin))}%`);
      slider.style.setProperty("--lk-origin", String(share(origin)));
      slider.setAttribute("aria-valuetext", scale.spoken(value));
      setText(beside, scale.beside(value));
      for (const { made, value: its } of buttons) made.disabled = value === its;
    },
  };
}

/**
 * Rows of sliders for one trait, a list of numbers. name: what they are together. set(values): other values are wanted.
 * Returns {element, rows}.
 * @type {(view: Mounted, given: {trait: string, name: string, scales: Scale[], set: (values: number[]) => void}) =>
 *   {element: HTMLElement, rows: ReturnType<typeof sliderRow>[], change: (next: number[]) => void}}
 */
export function sliderRows(view, { trait, name, scales, set }) {
  const values = () => /** @type {number[]} */ (view.get(trait));
  const element = make("div", "lk-rail-rows");
  element.setAttribute("role", "group");
  element.setAttribute("aria-label", name);
  // room for the longest that is ever said, so that no slider moves under the pointer
  const longest = Math.max(...scales.flatMap(({ beside, at, positions }) => [0, 1, 2, 3, 4].map((k) => beside(at(positions[0] + k)).length)));
  element.style.setProperty("--lk-beside", `${longest}ch`);
  /** @param {number[]} next */
  const change = (next) => {
    if (String(next) !== String(values())) set(next);
  };
  const rows = scales.map((scale, i) => sliderRow(view, scale, i, (value) => change(values().map((each, k) => (k === i ? value : each)))));
  element.append(...rows.map((row) => row.element));
  const draw = () => {
    for (const [i, value] of values().entries()) rows[i].draw(value);
  };
  draw();
  view.on(trait, draw);
  return { element, rows, change };
}
