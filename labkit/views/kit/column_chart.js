// Upright bars over an axis, with the level and the band that they are held against.

import { columns } from "./columns.js";
import { box, make, unread } from "./common.js";

const WIDEST_BAR = 26;
const FEW = 64; // bars, up to which they stand apart
const STEPS = [1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10];

/** A round number at or above a value, for the top of an axis of shares; at most 1. @param {number} value */
export function niceTop(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return Math.min(1, (STEPS.find((step) => step * power >= value * 0.9999) ?? 10) * power);
}

/** A share as a percentage for an axis: no more digits than it needs. @param {number} share */
export const axisPercent = (share) => `${Number((100 * share).toPrecision(2))} %`;

/** Every how many labels of a width can be written, so that they don't touch.
 * @type {(count: number, room: number, width: number) => number} */
export function everyNth(count, room, width) {
  const fit = Math.max(1, Math.floor(room / width));
  const least = Math.ceil(count / fit);
  return [1, 2, 4, 5, 8, 10, 16, 20, 32, 50, 64, 100].find((step) => step >= least) ?? least;
}

/**
 * order: what the bars stand for, by number, from left to right, where that is no end of the axis; share(item): 0 to 1; look,
 * dress, marked, say: as `columns` has them, of an item; tick(height): what the axis says at its top; level, band: a share, and a
 * range of shares; summary: of a picture. ends: what stands at the axis' two ends, with bars as wide as there is room, instead
 * of a number under each.
 * @typedef {{order: number[], share: (item: number) => number, look?: (item: number) => string, dress?: (fill: HTMLElement, item: number) => void,
 *   marked?: (item: number) => boolean, say?: (item: number) => string, tick?: (top: number) => string, level?: number | null,
 *   band?: [number, number] | null, summary?: string, ends?: [string, string]}} Bars
 */

/**
 * With `actions` a list to move in, of items; else a picture whose numbers stand beside it. below: what the axis shows. Returns
 * {element, list, draw(bars), resize(), mark(marked), itemAt(event)}.
 * @param {{label: string, id: string, below: string, actions?: import("./columns.js").ColumnActions | null}} given
 */
export function columnChart({ label, id, below, actions = null }) {
  const [scale, grey, line, names] = ["scale", "band", "line", "names"].map((name) => make("div", `lk-chart-${name} lk-muted lk-tiny`));
  const axis = make("p", "lk-chart-axis lk-muted lk-tiny", below);
  /** @type {Bars | null} */
  let given = null;
  const itemOf = (/** @type {number | null} */ i) => (i === null || given === null ? null : given.order[i]);
  const bars = columns({
    label,
    id,
    actions: actions && {
      point: (i, byKey) => actions.point(itemOf(i), byKey),
      choose: (i) => actions.choose?.(/** @type {number} */ (itemOf(i))),
      leave: actions.leave,
    },
  });
  unread(scale, grey, line, names, axis);
  const field = box("lk-chart-field", grey, bars.list, line);
  const element = box("lk-chart", scale, field, names, axis);

  /** @param {Bars} next */
  function draw(next) {
    given = next;
    const { order, share, look, dress, marked, say, tick = axisPercent, level = null, band = null, summary = "", ends } = next;
    element.classList.toggle("lk-chart-dense", order.length > FEW);
    const top = ends ? 1 : niceTop(Math.max(...order.map((item) => share(item) || 0), level ?? 0, band?.[1] ?? 0) * 1.02);
    field.style.maxWidth = names.style.maxWidth = ends ? "" : `${order.length * WIDEST_BAR}px`;
    bars.draw({
      count: order.length,
      height: (i) => (share(order[i]) > 0 ? share(order[i]) / top : 0),
      look: look && ((i) => look(order[i])),
      dress: dress && ((fill, i) => dress(fill, order[i])),
      marked: marked && ((i) => marked(order[i])),
      say: say && ((i) => say(order[i])),
    });
    const up = (/** @type {number} */ value) => `${(100 * value) / top}%`;
    line.hidden = level === null;
    line.style.bottom = up(level ?? 0);
    grey.hidden = band === null;
    grey.style.bottom = up(band?.[0] ?? 0);
    grey.style.height = up((band?.[1] ?? 0) - (band?.[0] ?? 0));
    /** @type {[number, string][]} */
    const ticks = [[top, tick(top)], [0, tick(0)]];
    // the level is named where the ends leave room for it
    if (level !== null && level / top > 0.16 && level / top < 0.86) ticks.push([level, "uniform"]);
    scale.replaceChildren(
      ...ticks.map(([value, text]) => {
        const mark = make("span", "", text);
        mark.style.bottom = up(value);
        return mark;
      }),
    );
    resize();
    if (!actions) bars.list.setAttribute("aria-label", `${label}: ${summary}`);
  }

  function resize() {
    if (given === null) return;
    const { order, marked, ends } = given;
    const every = everyNth(order.length, field.clientWidth || 300, 8 + 6.5 * String(order.length - 1).length);
    const written = ends ?? order.map((item, i) => (i % every === 0 ? String(item) : ""));
    names.classList.toggle("lk-chart-ends", ends !== undefined);
    names.replaceChildren(...written.map((text, i) => make("span", !ends && marked?.(order[i]) ? "lk-chart-on" : "", text)));
  }

  return {
    element,
    list: bars.list,
    draw,
    resize,
    /** Frame the bars of the items with marked(item). @param {(item: number) => boolean} marked */
    mark: (marked) => bars.mark((i) => marked(/** @type {number} */ (itemOf(i)))),
    /** The item whose bar is under a pointer, or null. @param {PointerEvent} event */
    itemAt: (event) => itemOf(bars.at(event)),
  };
}
