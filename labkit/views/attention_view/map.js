// The map: a thumbnail of every head, layers downward, with a bar for the measure of choice.

import { aloud } from "../kit/aloud.js";
import { sized } from "../kit/canvas.js";
import { box, make, pixels, unread } from "../kit/common.js";
import { picker, setOptions, traitPicker } from "../kit/controls.js";
import { pictureGrid } from "../kit/grid.js";
import { LARGEST_PITCH, slotAfterKey, slotAt } from "./logic.js";
import { mapPainter } from "./map_paint.js";
import { HeadMap } from "./map_state.js";

const PEEK = 116; // CSS pixels of the larger copy
const NAMES = 30; // beside the thumbnails, for the layers' numbers
const LEAST_WIDTH = 210;

/**
 * open(layer, head, beside, byKey) shows a head; mark(layer, head) marks or unmarks it.
 * Returns {element, grid, update(), resize(), recolour(), paintOver()}.
 * @param {import("./shared.js").Shared} shared
 * @param {{open: (layer: number, head: number, beside: boolean, byKey: boolean) => void, mark: (layer: number, head: number) => void}} actions
 */
export function headMap(shared, actions) {
  const { view, facts } = shared;
  const map = new HeadMap(shared);
  const painter = mapPainter(map);
  let width = 0;

  const measure = picker("Bars", view.id("measure"), [], (value) => view.set("measure", value));
  const order = traitPicker(view, "Order", "order", shared.constants.orders);
  const legend = make("p", "lk-att-maplegend lk-muted lk-small");
  legend.id = view.id("legend");
  const grid = pictureGrid("lk-att-mapgrid", {
    label: `Map of ${map.count} heads: arrow keys move, Enter shows a head, Shift and Enter beside the other, Space marks it`,
    at(x, y) {
      const slot = slotAt(map.layout, x, y);
      return slot !== null && slot < map.count ? slot : null;
    },
    point,
    choose(slot, event) {
      if (slot === null) return;
      map.cursor = slot;
      if (event.ctrlKey || event.metaKey) actions.mark(...headAt(slot));
      else actions.open(...headAt(slot), event.shiftKey, false);
    },
    key: keyDown,
    also: (event) => event.key === "Enter" && event.shiftKey,
  });
  grid.setAttribute("aria-describedby", legend.id);
  const [canvas, over] = [make("canvas", "lk-att-mapcanvas"), make("canvas", "lk-att-mapover")];
  const [layerNames, headNames] = [make("div", "lk-att-maplayers"), make("div", "lk-att-mapheads")];
  grid.append(canvas, over);
  const scrolled = box("lk-att-mapbox", headNames, box("lk-att-mapfield", layerNames, grid));
  const [peekCanvas, peekLine] = [make("canvas", "lk-att-peekcanvas"), make("p")];
  const peek = box("lk-att-peek lk-small", peekCanvas, peekLine);
  peek.hidden = true;
  unread(canvas, over, layerNames, headNames, peek);
  const notes = make("p", "lk-att-mapnotes lk-muted lk-small");
  const progress = make("p", "lk-att-progress lk-muted lk-small");
  progress.setAttribute("role", "status");
  const said = aloud(view);
  const controls = box("lk-controls", measure.pair, order);
  view.root.style.setProperty("--lk-att-map", `${Math.max(LEAST_WIDTH, 40 + NAMES + LARGEST_PITCH * facts.heads)}px`);
  const element = box("lk-att-map", controls, legend, scrolled, notes, progress, said.element, peek);

  const headAt = (/** @type {number} */ slot) => map.headOf(map.order[slot]);

  /** Parts came, or the measure or the order is another. */
  function update() {
    map.read(width - NAMES);
    setOptions(measure.select, map.offered.map(({ name, title }) => ({ value: name, title })), view.get("measure"));
    legend.textContent = map.legend();
    notes.textContent = map.notes();
    progress.textContent = map.progress();
    if (width > 0) draw();
  }

  function draw() {
    const { pitch, rowPitch, size, x, width: wide, height } = map.layout;
    pixels(grid, { width: wide, height });
    headNames.hidden = layerNames.hidden = view.get("order") === "highest";
    /** @type {(numbers: number[], every: number, place: (i: number) => Record<string, number>) => HTMLElement[]} */
    const names = (numbers, every, place) =>
      numbers.flatMap((number, i) => (i % every > 0 ? [] : [pixels(make("span", "lk-muted", String(number)), place(i))]));
    const heads = Array.from({ length: facts.heads }, (_, i) => i);
    headNames.replaceChildren(...names(heads, pitch >= 16 ? 1 : 8, (i) => ({ left: x(i) + size / 2 })));
    layerNames.replaceChildren(...names(facts.layers, Math.ceil(13 / rowPitch), (i) => ({ top: i * rowPitch + size / 2 })));
    paint();
  }

  function paint() {
    painter.heads(canvas);
    paintOver();
  }

  function paintOver() {
    if (width > 0) painter.frames(over);
  }

  /** A larger copy of the head in focus, beside it. */
  function showPeek() {
    const slot = map.pointed ?? (document.activeElement === grid ? map.cursor : null);
    peek.hidden = slot === null;
    if (slot === null) return;
    peekLine.textContent = map.line(map.order[slot]);
    const brush = sized(peekCanvas, PEEK, PEEK);
    const small = painter.thumbnail(map.order[slot]);
    if (small) brush.drawImage(small, 0, 0, PEEK, PEEK);
    const { x, y } = map.corner(slot);
    const home = element.getBoundingClientRect();
    const at = grid.getBoundingClientRect();
    const left = at.left - home.left + x + map.layout.size + 10;
    pixels(peek, {
      left: Math.max(0, Math.min(left, view.root.clientWidth - PEEK - 60)),
      top: at.top - home.top + y + map.layout.rowPitch + 6,
    });
  }

  /** @param {number | null} slot */
  function point(slot) {
    if (slot === map.pointed) return;
    map.pointed = slot;
    paintOver();
    showPeek();
  }

  /** @param {KeyboardEvent} event */
  function keyDown({ key, shiftKey }) {
    const now = map.cursor ?? map.slotOf(view.get("layer"), view.get("head"));
    if (key === "Escape") {
      map.cursor = null;
      grid.blur();
    } else if (key === "Enter") actions.open(...headAt(now), shiftKey, true);
    else if (key === " ") actions.mark(...headAt(now));
    else {
      const target = slotAfterKey(key, now, map.layout);
      if (target === null) return false;
      map.cursor = target;
    }
    map.pointed = null;
    paintOver();
    showPeek();
    if (map.cursor !== null) {
      said.say(() => (map.cursor === null ? null : map.line(map.order[map.cursor])));
      const { y } = map.corner(map.cursor);
      if (scrolled.scrollHeight > scrolled.clientHeight) scrolled.scrollTop = Math.max(0, y - scrolled.clientHeight / 2);
    }
    return true;
  }

  grid.addEventListener("blur", showPeek);
  view.on("order", () => {
    map.cursor = null;
  });
  return {
    element,
    grid,
    update,
    paintOver,
    resize() {
      const now = Math.ceil(element.getBoundingClientRect().width);
      if (now === width || now === 0) return;
      width = now;
      map.resize(width - NAMES);
      draw();
    },
    recolour() {
      if (width > 0) paint();
    },
  };
}
