// The window of a pattern that is seen: zoomed by wheel, double click, buttons and keys, moved by dragging and in the overview.

import { isWhole, panned, zoomed } from "./plane.js";
import { OVERVIEW } from "./paint.js";

const TILE_DELAY = 80; // ms; a window on its way asks for no tiles
const CLICK = 3; // CSS pixels that a click may move
export const ZOOM_STEP = 1.6;

/**
 * Returns {set(window), by(factor, fx, fy), listen(grid, overview), dragged()}. dragged: whether the pointer has moved
 * the window since it was pressed.
 * @param {import("./shown.js").Shown} shown
 * @param {() => void} redraw
 */
export function zoomWindow(shown, redraw) {
  /** Where the pointer was, and how far it came. @type {{x: number, y: number, far: number} | null} */
  let drag = null;
  const atRest = shown.shared.view.later(TILE_DELAY);

  /** @param {import("./plane.js").Window} next */
  function set(next) {
    shown.seen = isWhole(next, shown.whole) ? shown.whole : next;
    shown.moving = true;
    atRest(() => {
      shown.moving = false;
      redraw();
    });
    redraw();
  }

  /** fx, fy: shares of the window of the point that stays; without them the cell of the keyboard, else the diagonal's middle.
   * @type {(factor: number, fx?: number, fy?: number) => void} */
  function by(factor, fx, fy) {
    const { held, seen } = shown;
    const x = fx ?? (held ? (held.column - seen.left) / seen.span : 0.5);
    const y = fy ?? (held ? (held.row - seen.top) / seen.span : 0.5);
    set(zoomed(seen, shown.whole, factor, x, y));
  }

  /** @type {(grid: HTMLElement, overview: HTMLElement) => void} */
  function listen(grid, overview) {
    /** Where in the window an event is, as shares of it. @type {(event: MouseEvent) => [number, number]} */
    const shares = (event) => {
      const bounds = grid.getBoundingClientRect();
      return [(event.clientX - bounds.left) / bounds.width, (event.clientY - bounds.top) / bounds.height];
    };
    grid.addEventListener("pointermove", ({ clientX, clientY }) => {
      if (!drag) return;
      const scale = shown.seen.span / shown.size.side;
      const [dx, dy] = [drag.x - clientX, drag.y - clientY];
      drag = { x: clientX, y: clientY, far: drag.far + Math.abs(dx) + Math.abs(dy) };
      set(panned(shown.seen, shown.whole, dx * scale, dy * scale));
    });
    grid.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || shown.full) return;
      drag = { x: event.clientX, y: event.clientY, far: 0 };
      grid.setPointerCapture(event.pointerId);
      grid.classList.add("lk-att-dragging");
    });
    for (const name of ["pointerup", "pointercancel"]) {
      grid.addEventListener(name, () => {
        grid.classList.remove("lk-att-dragging");
        setTimeout(() => {
          drag = null;
        }, 0); // after the click that ends a drag
      });
    }
    grid.addEventListener("dblclick", (event) => {
      by(ZOOM_STEP ** 2, ...shares(event));
      event.preventDefault();
    });
    grid.addEventListener(
      "wheel",
      (event) => {
        if (!event.ctrlKey && !event.metaKey) return; // a plain wheel scrolls the notebook
        by(Math.exp(-Math.max(-60, Math.min(60, event.deltaY)) / 100), ...shares(event));
        event.preventDefault();
      },
      { passive: false },
    );
    overview.addEventListener("pointerdown", (event) => {
      const scale = shown.whole.span / OVERVIEW;
      const { span } = shown.seen;
      set(panned({ left: 0, top: 0, span }, shown.whole, event.offsetX * scale - span / 2, event.offsetY * scale - span / 2));
    });
  }

  return { set, by, listen, dragged: () => drag !== null && drag.far > CLICK };
}
