// Upright bars, one for each expert: the loads of a layer, and one token's router probabilities.

import { make, ownKey } from "../kit/common.js";
import { axisPercent, everyNth, niceTop } from "./logic.js";

const WIDEST_BAR = 26;
const FEW = 64; // experts, up to which bars stand apart

/**
 * A chart of E bars. With `actions` (point(expert or null), choose(expert), leave()) it is a list to move in, else a
 * picture whose numbers stand beside it. Returns {element, draw({order, share, slot, line, band, marked, say}), resize(),
 * cursor(), heading}.
 *
 * draw: order: expert numbers from left to right; share(expert) its bar; slot(expert) its colour; line, band: {value, title}
 * and [low, high] in shares; marked(expert): a frame around it; say(expert): what is said of it.
 */
export function barChart({ heading, unit, label, prefix, actions = null }) {
  const element = make("div", "lk-rt-chart");
  const title = make("h2", "lk-rt-h", heading);
  const units = make("span", "lk-rt-muted lk-rt-unit", unit);
  title.append(" ", units);
  const plot = make("div", "lk-rt-plot");
  const scale = make("div", "lk-rt-scale");
  const field = make("div", "lk-rt-field");
  const grey = make("div", "lk-rt-band");
  const line = make("div", "lk-rt-line");
  const bars = make("div", "lk-rt-bars");
  const names = make("div", "lk-rt-names");
  const below = make("p", "lk-rt-axis", "expert");
  for (const part of [scale, grey, line, names, below]) part.setAttribute("aria-hidden", "true");
  bars.setAttribute("role", actions ? "listbox" : "img");
  bars.setAttribute("aria-label", label);
  if (actions) {
    bars.tabIndex = 0;
    bars.setAttribute("aria-orientation", "horizontal");
  }
  field.append(grey, bars, line);
  plot.append(scale, field, make("div"), names);
  element.append(title, plot, below);

  let given = null;
  let nodes = [];
  let cursor = null; // a place in the order

  function draw(next) {
    given = next;
    const { order, share, slot, marked } = given;
    bars.classList.toggle("lk-rt-dense", order.length > FEW);
    if (nodes.length !== order.length) {
      nodes = order.map((_, i) => {
        const node = make("div", "lk-rt-bar");
        node.dataset.at = String(i);
        if (actions) {
          node.id = `${prefix}-${i}`;
          node.setAttribute("role", "option");
        }
        node.append(make("div", "lk-rt-fill"));
        return node;
      });
      bars.replaceChildren(...nodes);
    }
    const reach = Math.max(...order.map((e) => share(e) || 0), given.line?.value ?? 0, given.band?.[1] ?? 0);
    const top = niceTop(reach * 1.02);
    field.style.maxWidth = names.style.maxWidth = `${order.length * WIDEST_BAR}px`;
    order.forEach((expert, i) => {
      const value = share(expert);
      const fill = nodes[i].firstChild;
      fill.style.height = `${value > 0 ? (100 * value) / top : 0}%`;
      fill.className = `lk-rt-fill lk-rt-f${slot(expert)}`;
      const on = marked(expert);
      nodes[i].classList.toggle("lk-rt-marked", on);
      if (actions) {
        nodes[i].setAttribute("aria-selected", String(on));
        nodes[i].setAttribute("aria-label", given.say(expert));
      }
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
    if (!actions) bars.setAttribute("aria-label", `${label}: ${given.summary ?? ""}`);
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

  const placeAt = (event) => {
    const box = bars.getBoundingClientRect();
    const i = Math.floor(((event.clientX - box.left) / box.width) * (given?.order.length ?? 0));
    return given && i >= 0 && i < given.order.length ? i : null;
  };

  function setCursor(i) {
    if (cursor !== null) nodes[cursor]?.classList.remove("lk-rt-cursor");
    cursor = i;
    if (cursor === null) bars.removeAttribute("aria-activedescendant");
    else {
      nodes[cursor].classList.add("lk-rt-cursor");
      bars.setAttribute("aria-activedescendant", nodes[cursor].id);
    }
  }

  if (actions) {
    bars.addEventListener("pointermove", (event) => {
      const i = event.pointerType === "touch" ? null : placeAt(event);
      if (i !== null) actions.point(given.order[i]);
    });
    bars.addEventListener("pointerleave", () => actions.point(null));
    bars.addEventListener("click", (event) => {
      const i = placeAt(event);
      if (i === null) return;
      setCursor(i);
      actions.choose(given.order[i]);
    });
    bars.addEventListener("blur", () => {
      setCursor(null);
      actions.point(null);
    });
    bars.addEventListener("keydown", (event) => {
      if (!ownKey(event) || given === null) return;
      const last = given.order.length - 1;
      const now = cursor ?? -1;
      const moves = { ArrowRight: now + 1, ArrowLeft: now - 1, Home: 0, End: last };
      if (event.key === "Escape") {
        setCursor(null);
        actions.leave();
      } else if ((event.key === "Enter" || event.key === " ") && cursor !== null) actions.choose(given.order[cursor]);
      else if (Object.hasOwn(moves, event.key)) {
        setCursor(Math.max(0, Math.min(last, moves[event.key])));
        actions.point(given.order[cursor], true);
      } else return;
      event.preventDefault();
      event.stopPropagation();
    });
  }

  return { element, bars, draw, resize, heading: title.firstChild, unit: units, placeAt, at: (i) => given.order[i] };
}
