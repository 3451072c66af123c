// Rows of a bar chart that is read as a list: a name, a bar, a number, a note.

import { make } from "./common.js";
import { fillTrack, track } from "./legend.js";

/**
 * One row, to stand in a list `.lk-bars`; `--lk-bar-columns` says how wide its parts are. mark: another share, as a line.
 * Without a share, it has no bar. tag: what the row is, where it is no item of a list. Returns {element, draw({share, mark, number})}.
 * @param {{name: string | Node, share?: number, mark?: number | null, number?: string, exact?: string, note?: string, tag?: string,
 *   className?: string}} given exact: the number in full, where it is pointed at
 */
export function barRow({ name, share, mark = null, number = "", exact = "", note, tag = "li", className = "" }) {
  const element = make(tag, `lk-bar ${className}`.trim());
  const title = make("span", "lk-bar-name");
  title.append(name);
  const bar = track(share ?? 0, mark);
  const value = make("span", "lk-bar-number", number);
  if (exact) value.title = exact;
  element.append(title, " ");
  if (share !== undefined) element.append(bar, " ", value, " ");
  if (note !== undefined) element.append(make("bdi", "lk-bar-note", note));
  return {
    element,
    /** @type {(row: {share: number, mark?: number | null, number: string}) => void} */
    draw({ share, mark = null, number }) {
      fillTrack(bar, share, mark);
      value.textContent = number;
    },
  };
}
