// A pattern on its canvas: the codes in colour, finer tiles where it is zoomed, and what lies over them.

import { brushOf, sized, stamp } from "../kit/canvas.js";
import { cellBox, tilesFor } from "./plane.js";

/** @typedef {CanvasRenderingContext2D} Brush */

const GAP_FROM = 16; // device pixels of a dot, from where dots are drawn apart
const CROSS_FROM = 6;
export const OVERVIEW = 92; // CSS pixels

/**
 * Returns {pattern(canvas) → {q, u}, overview(canvas), cross(canvas, at)}.
 * @param {import("./shown.js").Shown} shown
 */
export function painter(shown) {
  const { shared } = shown;
  /** The whole pattern, q × q cells to a dot, in colour. @param {number} q */
  const picture = (q) => shared.picture(shown.codes, shown.cells, q);

  /** Draw what is seen. q: cells to a dot along a side; u: tokens to a cell. @param {HTMLCanvasElement} canvas */
  function pattern(canvas) {
    const { seen, pool } = shown;
    const [u, q] = [shown.unit(), shown.crowd()];
    const brush = brushOf(canvas);
    const across = canvas.width;
    const pixel = across / seen.span; // device pixels to a token
    brush.setTransform(1, 0, 0, 1, 0, 0);
    brush.clearRect(0, 0, across, across);
    brush.imageSmoothingEnabled = false;
    const dot = u < pool ? pool : q * pool;
    brush.drawImage(picture(q), seen.left / dot, seen.top / dot, seen.span / dot, seen.span / dot, 0, 0, across, across);
    if (u < pool) drawTiles(brush, u, pixel);
    hatchWindow(brush, pixel, across);
    if (u * q * pixel >= GAP_FROM) drawGaps(brush, u * q, pixel, across);
    if (u * q * pixel >= CROSS_FROM) crossOut(brush, u * q, pixel);
    return { q, u };
  }

  /** @type {(brush: Brush, u: number, pixel: number) => void} */
  function drawTiles(brush, u, pixel) {
    const side = shared.constants.tile * u;
    for (const { row, column } of tilesFor(shown.seen, shown.tokens, side)) {
      const found = shown.tile(u, row, column, !shown.moving);
      if (!found) continue;
      const [down, across] = found.shape;
      const drawn = shared.drawn(found.codes, 1, (palette) => stamp(found.codes, across, down, palette));
      const [x, y] = [(column * side - shown.seen.left) * pixel, (row * side - shown.seen.top) * pixel];
      brush.clearRect(x, y, across * u * pixel, down * u * pixel);
      brush.drawImage(drawn, x, y, across * u * pixel, down * u * pixel);
    }
  }

  /** Where a sliding window keeps a token from looking: hatched, so that it is not taken for an exact zero.
   * @type {(brush: Brush, pixel: number, across: number) => void} */
  function hatchWindow(brush, pixel, across) {
    const reach = shown.summary.window;
    if (!reach || reach >= shown.tokens) return;
    const x = (/** @type {number} */ token) => (token - shown.seen.left) * pixel;
    const y = (/** @type {number} */ token) => (token - shown.seen.top) * pixel;
    brush.save();
    brush.globalCompositeOperation = "destination-over"; // behind what is painted
    brush.beginPath();
    brush.moveTo(x(0), y(reach));
    brush.lineTo(x(shown.tokens - reach), y(shown.tokens));
    brush.lineTo(x(0), y(shown.tokens));
    brush.clip();
    brush.strokeStyle = shared.view.theme.colour("--lk-faint");
    brush.globalAlpha = 0.5;
    brush.lineWidth = 1;
    brush.beginPath();
    for (let at = -across; at < across; at += 8) {
      brush.moveTo(at, across);
      brush.lineTo(at + across, 0);
    }
    brush.stroke();
    brush.restore();
  }

  /** @type {(brush: Brush, dot: number, pixel: number, across: number) => void} */
  function drawGaps(brush, dot, pixel, across) {
    const lines = (/** @type {number} */ start) => {
      const found = [];
      for (let token = Math.floor(start / dot) * dot; token <= start + shown.seen.span + dot; token += dot) found.push(Math.round((token - start) * pixel));
      return found;
    };
    for (const x of lines(shown.seen.left)) brush.clearRect(x - 1, 0, 1, across);
    for (const y of lines(shown.seen.top)) brush.clearRect(0, y - 1, across, 1);
  }

  /** What is no number is crossed out, not only coloured. @type {(brush: Brush, dot: number, pixel: number) => void} */
  function crossOut(brush, dot, pixel) {
    const { seen, tokens } = shown;
    const read = shown.reader();
    const side = dot * pixel;
    brush.strokeStyle = shared.view.theme.dark() ? "#15181b" : "#ffffff";
    brush.lineWidth = Math.max(1, side / 12);
    brush.beginPath();
    for (let row = Math.floor(seen.top / dot) * dot; row < Math.min(tokens, seen.top + seen.span); row += dot) {
      for (let column = Math.floor(seen.left / dot) * dot; column < Math.min(row + 1, seen.left + seen.span); column += dot) {
        if (shared.codes.isNumber(read(row, column))) continue;
        const x = (column - seen.left) * pixel;
        const y = (row - seen.top) * pixel;
        brush.moveTo(x + 0.25 * side, y + 0.25 * side);
        brush.lineTo(x + 0.75 * side, y + 0.75 * side);
        brush.moveTo(x + 0.75 * side, y + 0.25 * side);
        brush.lineTo(x + 0.25 * side, y + 0.75 * side);
      }
    }
    brush.stroke();
  }

  /** The whole, small, with a frame around what is seen. @param {HTMLCanvasElement} canvas */
  function overview(canvas) {
    canvas.hidden = shown.full;
    if (shown.full) return;
    const brush = sized(canvas, OVERVIEW, OVERVIEW);
    const small = picture(Math.max(1, Math.ceil(shown.cells / canvas.width)));
    brush.imageSmoothingEnabled = small.width > canvas.width;
    brush.drawImage(small, 0, 0, OVERVIEW, OVERVIEW);
    const scale = OVERVIEW / shown.whole.span;
    const { left, top, span } = shown.seen;
    brush.strokeStyle = shared.view.theme.colour("--lk-ink");
    brush.lineWidth = 2;
    brush.strokeRect(left * scale, top * scale, Math.max(4, span * scale), Math.max(4, span * scale));
  }

  /** Lines from the names of a cell's row and column to it, or along a row. at: {row, column}, {row} or null.
   * @type {(canvas: HTMLCanvasElement, at: import("./plane.js").Place | null) => void} */
  function cross(canvas, at) {
    const { side } = shown.size;
    const brush = sized(canvas, side, side);
    if (at === null) return;
    const u = shown.unit();
    const boxAt = (/** @type {number} */ row, /** @type {number} */ column) => cellBox(shown.seen, side, { row, column }, u);
    const { x, y, size: cell } = boxAt(at.row, at.column ?? 0);
    brush.fillStyle = brush.strokeStyle = shared.view.theme.colour("--lk-focus");
    brush.globalAlpha = 0.55;
    if (at.column === undefined) {
      const { x: end } = boxAt(at.row, at.row + u);
      brush.fillRect(0, y - 1, end, 1);
      brush.fillRect(0, y + cell, end, 1);
    } else {
      const own = boxAt(at.column, at.row + u);
      const from = Math.max(0, Math.min(own.y, y));
      brush.fillRect(0, y + cell / 2 - 0.5, Math.max(0, x), 1);
      brush.fillRect(x + cell, y + cell / 2 - 0.5, Math.max(0, own.x - x - cell), 1);
      brush.fillRect(x + cell / 2 - 0.5, from, 1, Math.max(0, y - from));
      if (!shown.onDiagonal(at.column, u)) brush.fillRect(x + cell / 2 - 0.5, y + cell, 1, side);
      brush.globalAlpha = 1;
      const frame = Math.max(cell, 5);
      const shift = (frame - cell) / 2;
      brush.lineWidth = 2;
      brush.strokeRect(x - shift, y - shift, frame, frame);
    }
  }

  return { pattern, overview, cross };
}
