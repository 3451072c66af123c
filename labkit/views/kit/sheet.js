// A large picture that is scrolled while the names of its rows and columns stay in sight.

import { box, make, pixels, unread, visibleLabel } from "./common.js";

/** @typedef {{top: number, bottom: number, text: string, quiet?: boolean}} SheetRow */
/** token: null for a column that is none; quiet: small and grey. @typedef {{left: number, right: number, token: string | null, text?: string, quiet?: boolean, said?: string}} SheetColumn */

const GUTTER = 54; // of the rows' names
const FLAT = 44; // pixels that a token needs to be written across

/**
 * picture: what is scrolled, of a size of its own. Returns {element, gutter, drawRows(rows), drawColumns(columns), reveal(x, y)}.
 * @param {HTMLElement} picture
 */
export function sheet(picture) {
  const columns = make("div", "lk-sheet-columns");
  const rows = make("div", "lk-sheet-rows");
  picture.classList.add("lk-sheet-picture");
  unread(columns, rows);
  const element = box("lk-sheet", make("div", "lk-sheet-corner"), columns, rows, picture);
  return {
    element,
    gutter: GUTTER,
    /** @param {SheetRow[]} given */
    drawRows(given) {
      rows.replaceChildren(
        ...given.map(({ top, bottom, text, quiet = false }) => pixels(make("span", quiet ? "lk-sheet-quiet" : "", text), { top, height: bottom - top })),
      );
      rows.style.height = picture.style.height;
    },
    /** @param {SheetColumn[]} given */
    drawColumns(given) {
      const across = given.every(({ left, right, token }) => token === null || right - left > FLAT);
      columns.classList.toggle("lk-sheet-upright", !across);
      columns.replaceChildren(
        ...given.map(({ left, right, token, text = "", quiet = false, said = "" }) => {
          const fits = across ? Math.max(3, Math.floor((right - left) / 7)) : 12;
          const name = make("bdi", quiet ? "lk-sheet-quiet" : "", token === null ? text : visibleLabel(token, fits));
          if (said) name.title = said;
          return pixels(name, { left, width: right - left });
        }),
      );
      columns.hidden = given.every(({ token }) => token === null);
      columns.style.width = picture.style.width;
    },
    /** Bring a place of the picture into sight. @type {(x: number, y: number) => void} */
    reveal(x, y) {
      const [left, top] = [GUTTER + x, columns.offsetHeight + y];
      const { scrollLeft, scrollTop, clientWidth, clientHeight } = element;
      if (left - 30 < scrollLeft + GUTTER || left + 30 > scrollLeft + clientWidth) element.scrollLeft = left - clientWidth / 2;
      if (top - 30 < scrollTop + columns.offsetHeight || top + 30 > scrollTop + clientHeight) element.scrollTop = top - clientHeight / 2;
    },
  };
}
