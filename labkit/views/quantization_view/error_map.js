// The error of every weight of a matrix: a cell for each, or for a block of them the one that is furthest off.

import { aloud } from "../kit/aloud.js";
import { brushOf, stamp } from "../kit/canvas.js";
import { ramp } from "../kit/colour.js";
import { colourScale } from "../kit/colour_scale.js";
import { make, section, setText, significant, thousands } from "../kit/common.js";
import { pictureGrid } from "../kit/grid.js";
import { cellTarget } from "../kit/keys.js";
import { cellAt, cellWords, errorsOf } from "./logic.js";

/** @typedef {import("../kit/mount.js").Mounted} Mounted */
/** @typedef {import("../kit/keys.js").Cell} Place */

const SHADES = 255;
const [WIDEST, HIGHEST] = [420, 300]; // px
const LARGEST_CELL = 12;

/**
 * Returns {element, draw(width)}.
 * @param {Mounted} view
 */
export function errorMap(view) {
  const { element } = section(view.id("map"), "Error of each weight", "lk-quant-pane");
  const canvas = make("canvas", "lk-quant-canvas");
  const frame = make("div", "lk-quant-frame");
  const foot = make("p", "lk-quant-foot");
  const spoken = aloud(view);
  const shape = make("p", "lk-muted lk-small");
  const scale = colourScale();
  /** @type {Place | null} */
  let here = null;
  let [cellWidth, cellHeight] = [1, 1];
  const grid = pictureGrid("lk-quant-map", { label: "Error of each weight: arrow keys move from cell to cell", at, point: show, choose: (cell) => cell && pick(cell), key });
  grid.append(canvas, frame);
  element.append(grid, scale.element, foot, shape, spoken.element);

  /** @type {(x: number, y: number) => Place | null} */
  function at(x, y) {
    const { down, across } = view.get("pane");
    const place = { row: Math.floor(y / cellHeight), column: Math.floor(x / cellWidth) };
    return place.row >= 0 && place.column >= 0 && place.row < down && place.column < across ? place : null;
  }

  /** Lay the grid of this weight's group over the histogram. @param {Place} place */
  function pick(place) {
    show(place);
    if (view.exported) return;
    const { across, columns, size } = view.get("pane");
    const { row, column } = cellAt(view.get("cells"), place.row * across + place.column, columns);
    view.set("drawn_group", Math.floor((row * columns + column) / size));
  }

  /** @param {KeyboardEvent} event */
  function key(event) {
    const { down, across } = view.get("pane");
    if (down === undefined) return false;
    if (event.key === "Escape" && here !== null) {
      show(null);
      return true;
    }
    if ((event.key === "Enter" || event.key === " ") && here !== null) {
      pick(here);
      return true;
    }
    const next = here === null && event.key.startsWith("Arrow") ? { row: 0, column: 0 } : cellTarget(event.key, here ?? { row: 0, column: 0 }, { rows: down, columns: across, page: [10, 0] });
    if (next === null) return false;
    show(next);
    spoken.say(() => foot.textContent);
    return true;
  }

  /** @param {Place | null} place */
  function show(place) {
    const pane = view.get("pane");
    here = place;
    frame.hidden = place === null;
    if (place === null || pane.down === undefined) {
      setText(foot, pane.down === undefined ? "" : `Point at the map for a weight, what it became, and its error${view.exported ? "" : "; click, and its group's grid is drawn"}.`);
      return;
    }
    Object.assign(frame.style, { left: `${place.column * cellWidth - 2}px`, top: `${place.row * cellHeight - 2}px`, width: `${cellWidth + 4}px`, height: `${cellHeight + 4}px` });
    const pooled = pane.block[0] * pane.block[1] > 1;
    setText(foot, cellWords(cellAt(view.get("cells"), place.row * pane.across + place.column, pane.columns), pooled));
  }

  /** @param {number} width */
  function draw(width) {
    const pane = view.get("pane");
    grid.hidden = scale.element.hidden = pane.down === undefined;
    if (pane.down === undefined) return show(null);
    const { down, across } = pane;
    const cell = Math.min(LARGEST_CELL, Math.min(width, WIDEST) / across, HIGHEST / down);
    // a tall or a broad matrix keeps a side that can be seen
    cellWidth = Math.max(cell, Math.min(LARGEST_CELL, 60 / across));
    cellHeight = Math.max(cell, Math.min(LARGEST_CELL, 60 / down));
    const colours = ramp(view.theme.dark());
    const codes = errorsOf(view.get("cells")).map((error) => Math.round((SHADES * error) / (pane.top || 1)));
    const cells = stamp(codes, across, down, colours);
    Object.assign(canvas, { width: across, height: down });
    brushOf(canvas).drawImage(cells, 0, 0);
    for (const each of [canvas, grid]) Object.assign(each.style, { width: `${across * cellWidth}px`, height: `${down * cellHeight}px` });
    const most = `${significant(pane.top)} (largest error)`;
    scale.draw(colours, [{ at: 0, text: "0" }, { at: 1, text: most }], `Colour scale of the errors, from 0 to ${most}`);
    const pooled = pane.block[0] * pane.block[1] > 1 ? `; a cell shows the largest of ${pane.block[0]} × ${pane.block[1]} weights` : "";
    setText(shape, `${thousands(pane.rows)} rows (outputs) downward, ${thousands(pane.columns)} columns (inputs) across${pooled}.`);
    show(here !== null && here.row < down && here.column < across ? here : null);
  }
  return { element, draw };
}
