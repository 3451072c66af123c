// All layers at once: a row for each routed layer, a cell for each token, in the colour of the expert it goes to first.

import { brushOf, pixelRatio, sized } from "../kit/canvas.js";
import { box, make, unread } from "../kit/common.js";
import { pictureGrid } from "../kit/grid.js";
import { afterKey, stripLayout, stripPlace } from "./logic.js";
import { LABEL_FONT, paintRows } from "./strip_paint.js";

const EDGE = 3; // CSS pixels around the cells, for the frames

/** @typedef {import("./logic.js").Place} Place */

/**
 * actions: point(place or null), choose(place, byKey), move(place), leave() → whether there was something to let go.
 * Returns {element, fill(), paint(), light(), place(follow), resize(room), scrolls()}.
 * @param {import("./state.js").Focus} focus
 * @param {{point: (place: Place | null) => void, choose: (place: Place, byKey: boolean) => void, move: (to: Place) => void, leave: () => boolean}} actions
 */
export function layerStrip(focus, actions) {
  const { shared } = focus;
  /** @type {import("./logic.js").StripLayout | null} */
  let layout = null;
  let room = 0;

  const grid = pictureGrid("lk-rt-grid", {
    label: "The first expert of each token in each layer: left and right move by token, up and down by layer, Enter holds, Escape lets go",
    at: (x, y) => layout && stripPlace(layout, x, y),
    point: actions.point,
    choose(place) {
      if (place) actions.choose(place, false);
    },
    key({ key }) {
      const at = { layer: shared.layer, token: focus.chosen ?? 0 };
      const target = afterKey(key, at, focus.route.layers, focus.route.n);
      if (target) actions.move(target);
      else if (key === "Enter" || key === " ") actions.choose(at, true);
      else if (key !== "Escape") return false;
      else if (!actions.leave()) grid.blur();
      return true;
    },
  });
  const canvas = make("canvas");
  // Frames are elements: a canvas as large as the strip would be painted whole for every move of the pointer.
  const [rowFrame, columnFrame, cellFrame] = ["row", "column", "cell"].map((name) => make("div", `lk-rt-frame lk-rt-frame-${name}`));
  const [names, counts] = ["rows", "counts"].map((name) => make("div", `lk-rt-${name} lk-muted lk-tiny`));
  unread(canvas, rowFrame, columnFrame, cellFrame, names, counts);
  grid.append(canvas, rowFrame, columnFrame, cellFrame);
  const scrolled = box("lk-rt-box", grid);
  names.addEventListener("click", (event) => {
    const { layer } = /** @type {HTMLElement} */ (event.target).dataset;
    if (layer !== undefined) shared.layer = Number(layer);
  });

  /** @param {number} width */
  function resize(width) {
    room = width;
    if (room === 0) return;
    const { layers, same } = shared.facts;
    const left = 9 + 7 * String(layers.at(-1)).length;
    names.style.width = `${left}px`;
    counts.hidden = !same;
    const { n, experts } = focus.route;
    layout = stripLayout(n, layers.length, width - left - (same ? 30 : 0) - 2 * EDGE, experts, pixelRatio());
    for (const element of [grid, canvas]) {
      element.style.width = `${layout.width}px`;
      element.style.height = `${layout.height}px`;
    }
    sized(canvas, layout.width, layout.height);
    paint();
  }

  function paint() {
    if (layout === null) return resize(room);
    paintRows(brushOf(canvas), layout, focus, 0, focus.route.layers);
    drawNames(layout);
    return place();
  }

  /** Light what the expert in focus takes: one row is painted anew. */
  function light() {
    if (layout) paintRows(brushOf(canvas), layout, focus, shared.layer, shared.layer + 1);
  }

  /** @param {import("./logic.js").StripLayout} measures */
  function drawNames({ row, height }) {
    const { layers, same, changed } = shared.facts;
    const every = row >= LABEL_FONT ? 1 : layers.length > 40 ? 5 : 2;
    for (const [element, texts] of /** @type {[HTMLElement, number[]][]} */ ([[names, layers], [counts, same ? changed : []]])) {
      element.style.height = `${height}px`;
      element.replaceChildren(
        ...texts.map((text, layer) => {
          const here = layer === shared.layer;
          // where not every row has room for its number, the one on show has it in any case
          const written = here || (layer % every === 0 && Math.abs(layer - shared.layer) * row >= LABEL_FONT);
          const name = make("span", here ? "lk-rt-on" : "", written ? String(text) : "");
          name.style.top = `${(layer + 0.5) * row}px`;
          name.dataset.layer = String(layer);
          return name;
        }),
      );
    }
  }

  /** Frame the layer on show and the token in focus; follow: scroll to it. */
  function place(follow = false) {
    if (layout === null) return;
    const { cell, row, gap, width, height } = layout;
    const { chosen: token, held, pointed } = focus;
    const put = (/** @type {HTMLElement} */ frame, /** @type {number[]} */ [x, y, wide, high]) => {
      frame.style.transform = `translate(${x}px, ${y}px)`;
      frame.style.width = `${wide}px`;
      frame.style.height = `${high}px`;
    };
    put(rowFrame, [-2, shared.layer * row - 2, width + 3, row - gap + 4]);
    columnFrame.hidden = cellFrame.hidden = token === null;
    if (token === null) return;
    const [x, wide] = [token * cell - 2, Math.max(cell, 3) + 3];
    put(columnFrame, [x, -2, wide, height + 2]);
    put(cellFrame, [x, (pointed?.layer ?? shared.layer) * row - 2, wide, row - gap + 4]);
    cellFrame.classList.toggle("lk-rt-frame-held", held === token);
    const { scrollLeft, clientWidth } = scrolled;
    const seen = token * cell >= scrollLeft && (token + 1) * cell <= scrollLeft + clientWidth;
    if (follow && !seen) scrolled.scrollLeft = token * cell - clientWidth / 2;
  }

  return {
    element: box("lk-rt-strip", names, scrolled, counts),
    /** The trace is another. */
    fill() {
      layout = null;
    },
    paint,
    light,
    place,
    resize,
    scrolls: () => layout !== null && layout.width > scrolled.clientWidth,
  };
}
