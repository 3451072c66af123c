// What signs and shades mean: one legend for all views, and the bars it explains.

import { make } from "./common.js";

/**
 * A line of samples, each with what it means. sample: a class, or an element that is drawn as the view draws it; none, and
 * the words stand alone. quiet: small and grey.
 * @param {{sample?: string | Element, text: string | (string | Node)[]}[]} items
 * @param {{title?: string, quiet?: boolean}} [how]
 */
export function legend(items, { title = "", quiet = false } = {}) {
  const element = make("p", quiet ? "lk-key lk-muted lk-small" : "lk-key");
  if (title) element.append(make("span", "lk-key-title", title), " ");
  for (const { sample, text } of items) {
    const item = make("span", "lk-key-item");
    if (sample !== undefined) {
      const drawn = typeof sample === "string" ? make("span", `lk-sample ${sample}`) : sample;
      drawn.setAttribute("aria-hidden", "true");
      item.append(drawn, " ");
    }
    item.append(...(typeof text === "string" ? [text] : text));
    element.append(item, " ");
  }
  return element;
}

/**
 * A bar's track, filled to a share of its width. mark: another share, drawn as a line across it; null: none. The number
 * stands beside it in words, so that it is not read out. Returns the track; `fillTrack` moves it.
 * @param {number} share
 * @param {number | null} mark
 */
export function track(share, mark = null) {
  const element = make("span", "lk-track");
  element.setAttribute("aria-hidden", "true");
  element.append(make("span", "lk-track-fill"), make("span", "lk-track-mark"));
  fillTrack(element, share, mark);
  return element;
}

/** @type {(track: HTMLElement, share: number, mark?: number | null) => void} */
export function fillTrack(track, share, mark = null) {
  const [fill, line] = /** @type {HTMLElement[]} */ ([...track.children]);
  const percent = (/** @type {number} */ value) => `${Math.min(100, Math.max(0, 100 * value)) || 0}%`;
  fill.style.width = percent(share);
  line.hidden = mark === null;
  if (mark !== null) line.style.insetInlineStart = percent(mark);
}
