// A feature in a list: its number, a bar, a number; to be opened by a click.

import { make } from "../kit/common.js";
import { track } from "../kit/legend.js";

/**
 * open(feature): show its dashboard; openable(feature): whether there is one to be had.
 * @typedef {{open: (feature: number) => void, openable: (feature: number) => boolean}} Opener
 */

/**
 * A button that opens a feature, or a plain row where it can't be opened.
 * @type {(feature: number, className: string, opener: Opener, parts: (string | Node)[]) => HTMLLIElement}
 */
export function openingRow(feature, className, opener, parts) {
  const can = opener.openable(feature);
  const row = make(can ? "button" : "div", `lk-fv-row ${className}`.trim());
  if (can) {
    row.setAttribute("type", "button");
    row.addEventListener("click", () => opener.open(feature));
  }
  row.dataset.feature = String(feature);
  row.append(make("span", "lk-fv-row-name", `feature ${feature}`), ...parts.flatMap((part) => [" ", part]));
  const item = make("li");
  item.append(row);
  return item;
}

/**
 * share: of the bar; mark: another share, as a line; exact: the number as it is on pointing at it.
 * @param {{feature: number, share: number, mark?: number | null, value: string, exact?: string, note?: string, opener: Opener}} given
 */
export function featureRow({ feature, share, mark = null, value, exact = "", note = "", opener }) {
  const number = make("span", "lk-fv-row-value", value);
  number.title = exact;
  const parts = [track(share, mark), number];
  if (note) parts.push(make("bdi", "lk-fv-row-note", note));
  return openingRow(feature, "", opener, parts);
}
