// A picture made of cells, to be pointed at or gone through with keys.

import { make, ownKey } from "./common.js";

/**
 * label: what it is, and which keys it takes; at(x, y): the cell under a point in CSS pixels, or null; point(cell): the pointer is on it, or on none; choose(cell, event): it
 * was clicked; key(event): a key was pressed, returns whether it meant something; also(event): whether a key with Shift or the
 * like is the picture's own, too.
 * @template Cell
 * @typedef {object} GridActions
 * @property {string} [label]
 * @property {(x: number, y: number) => Cell | null} at
 * @property {(cell: Cell | null) => void} point
 * @property {(cell: Cell | null, event: MouseEvent) => void} choose
 * @property {(event: KeyboardEvent) => boolean} key
 * @property {(event: KeyboardEvent) => boolean} [also]
 */

/**
 * @template Cell
 * @param {string} className
 * @param {GridActions<Cell>} actions
 */
export function pictureGrid(className, { label, at, point, choose, key, also }) {
  const grid = make("div", className);
  grid.tabIndex = 0;
  grid.setAttribute("role", "application");
  if (label) grid.setAttribute("aria-label", label);
  const under = (/** @type {MouseEvent} */ event) => {
    const { left, top } = grid.getBoundingClientRect();
    return at(event.clientX - left, event.clientY - top);
  };
  grid.addEventListener("pointermove", (event) => {
    if (event.pointerType !== "touch") point(under(event));
  });
  grid.addEventListener("pointerleave", () => point(null));
  grid.addEventListener("click", (event) => choose(under(event), event));
  grid.addEventListener("keydown", (event) => {
    if (!(ownKey(event) || also?.(event)) || !key(event)) return;
    event.preventDefault();
    event.stopPropagation();
  });
  return grid;
}
