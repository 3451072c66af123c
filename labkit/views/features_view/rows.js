// A feature in a list: its number, a bar, a number; to be opened by a click.

import { barRow } from "../kit/bars.js";
import { make } from "../kit/common.js";

/**
 * open(feature): show its dashboard; openable(feature): whether there is one to be had.
 * @typedef {{open: (feature: number) => void, openable: (feature: number) => boolean}} Opener
 */

/**
 * A button that opens a feature, or a plain row where it can't be opened; look: its parts, as barRow takes them.
 * @type {(feature: number, opener: Opener, look: Partial<Parameters<typeof barRow>[0]>) => HTMLLIElement}
 */
export function featureRow(feature, opener, { className = "", ...look }) {
  const can = opener.openable(feature);
  const name = `feature ${feature}`;
  const { element } = barRow({ name, tag: can ? "button" : "div", className: `lk-fv-row ${className}`, ...look });
  if (can) {
    element.setAttribute("type", "button");
    element.addEventListener("click", () => opener.open(feature));
  }
  element.dataset.feature = String(feature);
  const item = make("li");
  item.append(element);
  return item;
}
