// Upright bars, one for each expert: the loads of a layer, and one token's router probabilities.

import { columns } from "../kit/columns.js";
import { box, make, unread } from "../kit/common.js";
import { tint } from "./colours.js";
import { axisPercent, everyNth, niceTop } from "./logic.js";

const WIDEST_BAR = 26;
const FEW = 64; // experts, up to which bars stand apart

/**
 * order: expert numbers from left to right; share(expert): its bar; slot(expert): its colour; uniform, band: a level and a range
 * of shares; marked(expert): a frame around it; say(expert): what is read out of it; summary: of a picture.
 * @typedef {{order: number[], share: (expert: number) => number, slot: (expert: number) => number | string, uniform: number | null,
 *   band?: [number, number] | null, marked: (expert: number) => boolean, say?: (expert: number) => string, summary?: string}} Bars
 */

/**
 * A chart of E bars: with `actions` a list to move in, else a picture whose numbers stand beside it. Returns {element, list,
 * draw(bars), resize(), mark(marked), expertAt(event), setTitle(heading, unit)}.
 * @param {{label: string, id: string, actions?: import("../kit/columns.js").ColumnActions | null}} given
 */
export function barChart({ label, id, actions = null }) {
  const [head, unit] = [make("span"), make("span", "lk-muted lk-small")];
  const title = make("h2");
  title.append(head, " ", unit);
  const [scale, grey, line, names] = ["scale", "band", "line", "names"].map((name) => make("div", `lk-rt-${name} lk-muted lk-tiny`));
  const below = make("p", "lk-rt-axis lk-muted lk-tiny", "expert");
  /** @type {Bars | null} */
  let given = null;
  const expertOf = (/** @type {number | null} */ i) => (i === null || given === null ? null : given.order[i]);
  const bars = columns({
    label,
    id,
    className: "lk-rt-bars",
    actions: actions && {
      point: (i, byKey) => actions.point(expertOf(i), byKey),
      choose: (i) => actions.choose?.(/** @type {number} */ (expertOf(i))),
      leave: actions.leave,
    },
  });
  unread(scale, grey, line, names, below);
  const field = box("lk-rt-field", grey, bars.list, line);
  const element = box("lk-rt-chart", title, box("lk-rt-plot", scale, field, make("div"), names), below);

  /** @param {Bars} next */
  function draw(next) {
    given = next;
    const { order, share, slot, uniform, band = null, marked, say, summary } = next;
    bars.list.classList.toggle("lk-rt-dense", order.length > FEW);
    const top = niceTop(Math.max(...order.map((expert) => share(expert) || 0), uniform ?? 0, band?.[1] ?? 0) * 1.02);
    field.style.maxWidth = names.style.maxWidth = `${order.length * WIDEST_BAR}px`;
    bars.draw({
      count: order.length,
      height: (i) => (share(order[i]) > 0 ? share(order[i]) / top : 0),
      look: (i) => `lk-rt-c${slot(order[i])}`,
      dress: (fill, i) => tint(fill, slot(order[i])),
      marked: (i) => marked(order[i]),
      say: say && ((i) => say(order[i])),
    });
    const up = (/** @type {number} */ value) => `${(100 * value) / top}%`;
    line.hidden = uniform === null;
    line.style.bottom = up(uniform ?? 0);
    grey.hidden = band === null;
    grey.style.bottom = up(band?.[0] ?? 0);
    grey.style.height = up((band?.[1] ?? 0) - (band?.[0] ?? 0));
    /** @type {[number, string, string][]} */
    const marks = [[top, axisPercent(top), ""], [0, "0 %", ""]];
    // the uniform level is named where the ends leave room for it
    if (uniform !== null && uniform / top > 0.16 && uniform / top < 0.86) marks.push([uniform, "uniform", "lk-rt-uniform"]);
    scale.replaceChildren(
      ...marks.map(([value, text, className]) => {
        const mark = make("span", className, text);
        mark.style.bottom = up(value);
        return mark;
      }),
    );
    resize();
    if (!actions) bars.list.setAttribute("aria-label", `${label}: ${summary ?? ""}`);
  }

  function resize() {
    if (given === null) return;
    const { order, marked } = given;
    const every = everyNth(order.length, field.clientWidth || 300, 8 + 6.5 * String(order.length - 1).length);
    names.replaceChildren(
      ...order.map((expert, i) => make("span", marked(expert) ? "lk-rt-on" : "", i % every === 0 ? String(expert) : "")),
    );
  }

  return {
    element,
    list: bars.list,
    draw,
    resize,
    /** @type {(heading: string, unit?: string) => void} */
    setTitle(heading, text = "") {
      head.textContent = heading;
      unit.textContent = text;
    },
    /** Frame the bars of the experts with marked(expert). @param {(expert: number) => boolean} marked */
    mark: (marked) => bars.mark((i) => marked(/** @type {number} */ (expertOf(i)))),
    /** The expert whose bar is under a pointer, or null. @param {PointerEvent} event */
    expertAt: (event) => expertOf(bars.at(event)),
  };
}
