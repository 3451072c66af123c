// Upright bars, one for each expert: the loads of a layer, and one token's router probabilities.

import { columns } from "../kit/columns.js";
import { make } from "../kit/common.js";
import { axisPercent, everyNth, niceTop } from "./logic.js";

const WIDEST_BAR = 26;
const FEW = 64; // experts, up to which bars stand apart

/**
 * A chart of E bars. With `actions` (point(expert or null), choose(expert), leave()) it is a list to move in, else a
 * picture whose numbers stand beside it. Returns {element, list, draw({order, share, slot, line, band, marked, say}), resize(),
 * mark(marked), expertAt(event), heading, unit}.
 *
 * draw: order: expert numbers from left to right; share(expert) its bar; slot(expert) its colour; line, band: {value, title}
 * and [low, high] in shares; marked(expert): a frame around it; say(expert): what is said of it.
 */
export function barChart({ heading, unit, label, prefix, actions = null }) {
  const element = make("div", "lk-rt-chart");
  const title = make("h2", "lk-rt-h");
  const head = make("span", "", heading);
  const units = make("span", "lk-muted lk-rt-unit", unit);
  title.append(head, " ", units);
  const plot = make("div", "lk-rt-plot");
  const scale = make("div", "lk-rt-scale");
  const field = make("div", "lk-rt-field");
  const grey = make("div", "lk-rt-band");
  const line = make("div", "lk-rt-line");
  const names = make("div", "lk-rt-names");
  const below = make("p", "lk-rt-axis", "expert");
  let given = null;
  const expertOf = (i) => (i === null ? null : given.order[i]);
  const bars = columns({
    label,
    id: prefix,
    className: "lk-rt-bars",
    actions: actions && {
      point: (i, byKey) => actions.point(expertOf(i), byKey),
      choose: (i) => actions.choose(expertOf(i)),
      leave: actions.leave,
    },
  });
  for (const part of [scale, grey, line, names, below]) part.setAttribute("aria-hidden", "true");
  field.append(grey, bars.list, line);
  plot.append(scale, field, make("div"), names);
  element.append(title, plot, below);

  function draw(next) {
    given = next;
    const { order, share, slot, marked } = given;
    bars.list.classList.toggle("lk-rt-dense", order.length > FEW);
    const reach = Math.max(...order.map((e) => share(e) || 0), given.line?.value ?? 0, given.band?.[1] ?? 0);
    const top = niceTop(reach * 1.02);
    field.style.maxWidth = names.style.maxWidth = `${order.length * WIDEST_BAR}px`;
    bars.draw({
      count: order.length,
      height: (i) => (share(order[i]) > 0 ? share(order[i]) / top : 0),
      look: (i) => `lk-rt-c${slot(order[i])}`,
      marked: (i) => marked(order[i]),
      say: (i) => given.say(order[i]),
    });
    const height = (value) => `${(100 * value) / top}%`;
    line.hidden = !given.line;
    if (given.line) line.style.bottom = height(given.line.value);
    grey.hidden = !given.band;
    if (given.band) {
      grey.style.bottom = height(given.band[0]);
      grey.style.height = height(given.band[1] - given.band[0]);
    }
    const marks = [make("span", "", axisPercent(top)), make("span", "", "0 %")];
    marks[0].style.bottom = "100%";
    marks[1].style.bottom = "0";
    // the uniform level is named where the ends leave room for it
    if (given.line && given.line.value / top > 0.16 && given.line.value / top < 0.86) {
      const mark = make("span", "lk-rt-uniform", given.line.title);
      mark.style.bottom = height(given.line.value);
      marks.push(mark);
    }
    scale.replaceChildren(...marks);
    resize();
    if (!actions) bars.list.setAttribute("aria-label", `${label}: ${given.summary ?? ""}`);
  }

  function resize() {
    if (given === null) return;
    const room = field.clientWidth || 300;
    const count = given.order.length;
    const every = everyNth(count, room, 8 + 6.5 * String(count - 1).length);
    names.replaceChildren(
      ...given.order.map((expert, i) => {
        const name = make("span", "", i % every === 0 ? String(expert) : "");
        name.classList.toggle("lk-rt-marked", given.marked(expert));
        return name;
      }),
    );
  }

  return {
    element,
    list: bars.list,
    draw,
    resize,
    heading: head,
    unit: units,
    /** Frame the bars of the experts with marked(expert). */
    mark: (marked) => bars.mark((i) => marked(given.order[i])),
    /** The expert whose bar is under a pointer, or null. */
    expertAt: (event) => (given ? expertOf(bars.at(event)) : null),
  };
}
