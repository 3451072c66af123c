// The colour of an expert, on any element that shows one.

import { make } from "../kit/common.js";
import { NO_COLOUR } from "./logic.js";

/**
 * The colours as properties of the view's root, for light and for dark paper.
 * @type {(root: HTMLElement, palette: [string, string][], others: [string, string]) => void}
 */
export function setColours(root, palette, others) {
  [...palette, others].forEach((pair, slot) => {
    const name = slot < palette.length ? slot : NO_COLOUR;
    root.style.setProperty(`--lk-rt${name}`, `light-dark(${pair.join(", ")})`);
  });
}

/** slot: of the palette, -1 for others, "chosen" for others that a token has chosen.
 * @type {(element: HTMLElement, slot: number | string) => void} */
export function tint(element, slot) {
  element.style.setProperty("--lk-c", `var(--lk-rt${slot})`);
}

/** A number, or words, on an expert's colour. @type {(slot: number, text: string | number) => HTMLElement} */
export function chip(slot, text) {
  const element = make("span", `lk-rt-chip lk-rt-c${slot}`, String(text));
  tint(element, slot);
  return element;
}
