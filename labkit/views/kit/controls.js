// Buttons and lists to choose from.

import { make, setText } from "./common.js";

/**
 * A button with a word, or with a sign and a name for those who hear it.
 * @type {(text: string, name: string, action: (event: MouseEvent) => void) => HTMLButtonElement}
 */
export function button(text, name, action) {
  const element = make("button", "lk-button", text);
  element.type = "button";
  if (name) {
    element.setAttribute("aria-label", name);
    element.title = name;
  }
  element.addEventListener("click", action);
  return element;
}

/** @typedef {string | number | {value: string | number, title: string | number}} Option what a list offers */

/**
 * A list to choose from and its label, side by side in `pair`. changed(value): another was chosen.
 * @type {(name: string, id: string, options?: Option[], changed?: (value: string) => void) =>
 *   {pair: HTMLElement, label: HTMLLabelElement, select: HTMLSelectElement}}
 */
export function picker(name, id, options = [], changed = () => {}) {
  const label = make("label", "", name);
  label.htmlFor = id;
  const select = make("select");
  select.id = id;
  select.addEventListener("change", () => changed(select.value));
  setOptions(select, options);
  const pair = make("span", "lk-pair");
  pair.append(label, select);
  return { pair, label, select };
}

/**
 * A box to tick and its label, side by side in `pair`.
 * @type {(name: string, id: string, changed: (on: boolean) => void) => {pair: HTMLElement, box: HTMLInputElement}}
 */
export function checkbox(name, id, changed) {
  const box = make("input");
  box.type = "checkbox";
  box.id = id;
  box.addEventListener("change", () => changed(box.checked));
  const label = make("label", "", name);
  label.htmlFor = id;
  const pair = make("span", "lk-pair");
  pair.append(box, label);
  return { pair, box };
}

/**
 * A slider with its label and what it stands at; moved(value): it was moved. Returns {label, slider, output, say(text, spoken)}:
 * spoken is what is read out of it.
 * @type {(name: string, id: string, range: {min: number, max: number, step: number}, moved: (value: number) => void) =>
 *   {label: HTMLLabelElement, slider: HTMLInputElement, output: HTMLOutputElement, say: (text: string, spoken?: string) => void}}
 */
export function sliderFor(name, id, range, moved) {
  const label = make("label", "", name);
  const slider = make("input", "lk-slider");
  Object.assign(slider, { type: "range", ...range, id });
  slider.addEventListener("input", () => moved(Number(slider.value)));
  const output = make("output");
  label.htmlFor = id;
  output.htmlFor.add(id);
  return {
    label,
    slider,
    output,
    say(text, spoken = text) {
      setText(output, text);
      slider.setAttribute("aria-valuetext", spoken);
    },
  };
}

/** @typedef {import("./mount.js").Mounted} Mounted */

/**
 * A list that sets a trait, and follows it. options: what stands for each value.
 * @type {(view: Mounted, name: string, trait: string, options: Record<string, string>) => HTMLElement}
 */
export function traitPicker(view, name, trait, options) {
  const offered = Object.entries(options).map(([value, title]) => ({ value, title }));
  const { pair, select } = picker(name, view.id(trait), offered, (value) => view.set(trait, value));
  const follow = () => {
    select.value = view.get(trait);
  };
  view.on(trait, follow);
  follow();
  return pair;
}

/** A box that sets a trait, and follows it. @type {(view: Mounted, name: string, trait: string) => HTMLElement} */
export function traitBox(view, name, trait) {
  const { pair, box } = checkbox(name, view.id(trait), (on) => view.set(trait, on));
  const follow = () => {
    box.checked = view.get(trait);
  };
  view.on(trait, follow);
  follow();
  return pair;
}

/**
 * What a list offers. A list that offers just that already is left alone, so that an open one stays open. value: what is
 * chosen; without it, what was chosen stays where it is still offered.
 * @type {(select: HTMLSelectElement, options: Option[], value?: string | number) => void}
 */
export function setOptions(select, options, value) {
  const before = select.value;
  const wanted = options.map((each) => (typeof each === "object" ? each : { value: each, title: each }));
  const key = JSON.stringify(wanted.map((each) => [each.value, each.title]));
  if (select.dataset.offered !== key) {
    select.dataset.offered = key;
    select.replaceChildren(...wanted.map((each) => new Option(String(each.title), String(each.value))));
  }
  if (value !== undefined) select.value = String(value);
  else if (wanted.some((each) => String(each.value) === before)) select.value = before;
}
