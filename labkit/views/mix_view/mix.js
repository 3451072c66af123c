// The mix view: a slider for the bytes, the bits of each matrix, predicted and measured damage beside uniform bits.

import { bytesOf } from "../kit/codes.js";
import { colour, hexOf, needsLight } from "../kit/colour.js";
import { box, make, section, setText, significant, thousands } from "../kit/common.js";
import { sliderFor } from "../kit/controls.js";
import { statusLine } from "../kit/field.js";
import { legend } from "../kit/legend.js";
import { mount } from "../kit/mount.js";
import { axis, linePath, shape, share, tickText } from "../kit/plot.js";
import { table } from "../kit/table.js";
import { fromCurve, megabytes, powers } from "./logic.js";

/** @typedef {import("../kit/mount.js").Mounted} Mounted */
/** @typedef {import("./logic.js").Shown} Shown */
/** @typedef {import("./logic.js").MatrixCell} MatrixCell */

const HEIGHT = 300;
const [LEFT, RIGHT, TOP, BOTTOM] = [56, 14, 10, 34];
const STEPS = 1000; // of the slider
const [PALE, DEEP] = [0.08, 0.85]; // of the colour map: the number has to be read on it

/** A measured KL with its interval, where it has one. @param {{kl: number, kl_low: number | null, kl_high: number | null}} row */
const between = ({ kl, kl_low, kl_high }) => significant(kl) + (kl_low === null || kl_high === null ? "" : ` (${significant(kl_low)} to ${significant(kl_high)})`);

/**
 * The bits of each matrix as a table. Returns {element, draw(shown)}.
 * @param {Mounted} view
 */
function heatMap(view) {
  const { rows, columns, formats, cells } = view.get("options");
  const { element, title } = section(view.id("bits"), "Bits per weight of each matrix", "lk-mix-pane");
  const grid = make("table", "lk-mix-cells");
  grid.setAttribute("aria-labelledby", title.id);
  const head = make("tr");
  for (const name of ["layer", ...columns]) {
    const cell = make("th", "", name);
    cell.setAttribute("scope", "col");
    cell.title = name;
    head.append(cell);
  }
  grid.append(head);
  /** @type {HTMLElement[][]} */
  const places = rows.map((/** @type {string} */ name) => {
    const line = make("tr");
    const label = make("th", "", name);
    label.setAttribute("scope", "row");
    const made = columns.map(() => make("td"));
    line.append(label, ...made);
    grid.append(line);
    return made;
  });
  const foot = make("p", "lk-mix-foot lk-muted");
  const key = make("div", "lk-small");
  const scroller = box("lk-mix-scroll", grid);
  scroller.tabIndex = 0;
  scroller.setAttribute("role", "region");
  scroller.setAttribute("aria-label", "Bits of each matrix");
  element.append(scroller, foot, key);
  const every = cells.flatMap((/** @type {MatrixCell} */ cell) => cell.in.flatMap((each) => (each === null ? [] : [each[0]])));
  const [low, high] = [Math.min(...every), Math.max(...every)];
  const paint = (/** @type {HTMLElement} */ node, /** @type {number} */ bits) => {
    const rgb = colour(PALE + (DEEP - PALE) * (high > low ? (bits - low) / (high - low) : 0.5), view.theme.dark());
    node.style.backgroundColor = hexOf(rgb);
    node.style.color = needsLight(rgb) ? "#ffffff" : "#000000";
  };
  /** @param {Event} event */
  function point(event) {
    const said = event.target instanceof HTMLElement ? event.target.dataset.said : undefined;
    setText(foot, said ?? "Point at a matrix for its format, bytes and cost.");
  }
  grid.addEventListener("pointerover", point);
  grid.addEventListener("pointerleave", point);

  return {
    element,
    /** @param {Shown} shown */
    draw(shown) {
      cells.forEach((/** @type {MatrixCell} */ cell, /** @type {number} */ i) => {
        const own = cell.in[shown.chosen[i]];
        if (own === null) return;
        const [bits, bytes, kl] = own;
        const node = places[cell.row][cell.column];
        setText(node, bits.toFixed(1));
        paint(node, bits);
        const where = rows[cell.row] === "ends" ? columns[cell.column] : `layer ${rows[cell.row]}, ${columns[cell.column]}`;
        node.dataset.said = `${where}: ${formats[shown.chosen[i]]}, ${bits.toFixed(2)} bits per weight, ${thousands(bytes)} bytes; alone it costs ${significant(kl)} nats.`;
      });
      const counts = formats.map((/** @type {string} */ _name, /** @type {number} */ k) => shown.chosen.filter((each) => each === k).length);
      const items = formats.map((/** @type {string} */ name, /** @type {number} */ k) => {
        const sample = make("span", "lk-sample");
        const bits = cells.flatMap((/** @type {MatrixCell} */ cell) => cell.in[k]?.[0] ?? []);
        paint(sample, bits.reduce((/** @type {number} */ sum, /** @type {number} */ each) => sum + each, 0) / bits.length);
        return { sample, text: `${name}: ${counts[k]} of ${cells.length}` };
      });
      key.replaceChildren(legend(items));
      setText(foot, "Point at a matrix for its format, bytes and cost.");
    },
  };
}

/**
 * Predicted KL of all budgets, uniform bits, what was measured, and where the slider stands.
 * @param {Mounted} view
 */
function chart(view) {
  const { element } = section(view.id("damage"), "Damage by size", "lk-mix-pane");
  const picture = shape("svg", { role: "img", class: "lk-mix-svg" });
  const measured = view.get("measured");
  const key = legend([
    { sample: "lk-mix-curve", text: "the best mix, predicted" },
    { sample: "lk-mix-now", text: "this budget" },
    { sample: "lk-mix-uniform", text: "uniform bits, predicted" },
    ...(measured.length > 0 ? [{ sample: "lk-mix-measured", text: "measured on other texts, 95 %" }] : []),
  ], { quiet: true });
  element.append(picture, key);
  return {
    element,
    /** @type {(shown: Shown, width: number) => void} */
    draw(shown, width) {
      const { sizes, predicted } = view.get("curve");
      const uniform = view.get("uniform");
      const heights = [...predicted, ...uniform.map((/** @type {any} */ row) => row.predicted_kl), ...measured.flatMap((/** @type {any} */ row) => [row.kl, row.kl_low, row.kl_high])].filter((value) => value > 0);
      const least = heights.length > 0 ? Math.min(...heights) : 1e-6;
      const ends = { low: Math.log10(least) - 0.1, high: Math.log10(Math.max(...heights, least * 10)) + 0.1 };
      const bytes = [...sizes, ...uniform.map((/** @type {any} */ row) => row.size_bytes), ...measured.map((/** @type {any} */ row) => row.size_bytes)];
      const across = axis([Math.min(...bytes) / 1e6, Math.max(...bytes) / 1e6], width < 420 ? 4 : 6);
      const x = (/** @type {number} */ size) => LEFT + (width - LEFT - RIGHT) * share(size / 1e6, across);
      const y = (/** @type {number} */ kl) => HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share(Math.log10(Math.max(kl, least)), ends);
      for (const [name, value] of Object.entries({ width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}` })) picture.setAttribute(name, String(value));
      picture.replaceChildren();
      for (const power of powers(10 ** ends.low, 10 ** ends.high)) {
        picture.append(shape("path", { d: `M${LEFT} ${y(power)}H${width - RIGHT}`, class: "lk-mix-rule" }));
        picture.append(shape("text", { x: LEFT - 6, y: y(power) + 4, class: "lk-mix-tick lk-mix-up" }, power >= 0.001 && power < 1000 ? String(Number(power.toPrecision(1))) : power.toExponential(0).replace("e+", "e").replace("-", "−")));
      }
      for (const tick of across.ticks) {
        if (tick < across.low) continue;
        picture.append(shape("text", { x: x(tick * 1e6), y: HEIGHT - BOTTOM + 15, class: "lk-mix-tick" }, tickText(tick, across.step)));
      }
      picture.append(shape("text", { x: width - RIGHT, y: HEIGHT - 3, class: "lk-mix-tick lk-mix-up" }, "MB, everything counted; KL upward, nats a token, logarithmic"));
      picture.append(shape("path", { d: linePath(sizes.map((/** @type {number} */ size, /** @type {number} */ i) => [x(size), y(predicted[i])])), class: "lk-mix-curve" }));
      for (const row of uniform) {
        const mark = shape("rect", { x: x(row.size_bytes) - 4, y: y(row.predicted_kl) - 4, width: 8, height: 8, class: "lk-mix-uniform" });
        mark.append(shape("title", {}, `all in ${row.format}, ${megabytes(row.size_bytes)}: ${significant(row.predicted_kl)} predicted`));
        const end = x(row.size_bytes) > width - 70;
        picture.append(mark, shape("text", { x: x(row.size_bytes) + (end ? -8 : 8), y: y(row.predicted_kl) - 6, class: `lk-mix-label ${end ? "lk-mix-up" : ""}` }, row.format));
      }
      for (const row of measured) {
        const at = x(row.size_bytes);
        const mark = shape("path", { d: `M${at} ${y(row.kl_low ?? row.kl)}V${y(row.kl_high ?? row.kl)}M${at - 4} ${y(row.kl)}h8`, class: "lk-mix-measured" });
        mark.append(shape("title", {}, `${row.what}, ${megabytes(row.size_bytes)}: ${between(row)} measured`));
        picture.append(mark);
      }
      const [cx, cy] = [x(shown.size), y(shown.predicted)];
      picture.append(shape("path", { d: `M${cx} ${TOP}V${HEIGHT - BOTTOM}`, class: "lk-mix-here" }), shape("circle", { cx, cy, r: 6, class: "lk-mix-now" }));
      picture.setAttribute("aria-label", `KL divergence by size. This budget: ${megabytes(shown.size)}, ${significant(shown.predicted)} nats predicted.`);
    },
  };
}

/** Uniform bits beside the mix of as many bytes, and what was measured. @param {Mounted} view */
function tables(view) {
  const rows = view.get("uniform").map((/** @type {any} */ row) => [row.format, megabytes(row.size_bytes), significant(row.predicted_kl), significant(row.mix_kl)]);
  const element = box("lk-mix-tables", table({ caption: "At equal bytes: KL predicted", columns: ["all in", "size", "uniform", "mix"], rows, numbers: ["size", "uniform", "mix"] }));
  const measured = view.get("measured");
  if (measured.length > 0) {
    const lines = measured.map((/** @type {any} */ row) => [row.what, megabytes(row.size_bytes), between(row)]);
    element.append(table({ caption: "Measured on other texts", columns: ["what", "size", "KL (95 %)"], rows: lines, numbers: ["size", "KL (95 %)"] }));
  }
  return element;
}

/** @param {{model: import("../kit/ask.js").Model, el: HTMLElement}} widget */
function render(widget) {
  const view = mount(widget, "lk-mix");
  const { exported, root } = view;
  root.classList.add("lk-panes");
  const [low, high] = /** @type {number[]} */ (view.get("ends"));
  const line = statusLine();
  const { label, slider, output, say } = sliderFor("Budget", view.id("budget"), { min: 0, max: STEPS, step: 1 }, (step) => {
    budget = budgetAt(step);
    if (!exported) line.hear(view.wire.tell({ budget }));
    draw();
  });
  const facts = make("p", "lk-mix-facts");
  const [map, damage] = [heatMap(view), chart(view)];
  const panes = box("lk-mix-panes", map.element, box("lk-mix-side", damage.element, tables(view)));
  line.element.hidden = exported;
  root.append(box("lk-mix-bar", label, slider, output), facts, line.element, panes);
  let budget = view.get("budget");
  let width = 0;
  const budgetAt = (/** @type {number} */ step) => Math.round(low + ((high - low) * step) / STEPS);

  /** @returns {Shown} */
  const shown = () => (exported && budget !== view.get("shown").budget ? fromCurve(view.get("curve"), bytesOf(view.get("chosen")), budget) : view.get("shown"));

  function draw() {
    const now = shown();
    say(`${megabytes(budget)} (${thousands(budget)} bytes)`, megabytes(budget));
    const strong = (/** @type {string} */ text) => make("strong", "", text);
    facts.replaceChildren(strong(`${thousands(now.size)} bytes`), " used · ", strong(now.bits.toFixed(2)), " bits per weight where it is quantized · ", strong(`KL ${significant(now.predicted)}`), " nats a token predicted");
    map.draw(now);
    if (width > 0 && damage.element.clientWidth > 0) damage.draw(now, damage.element.clientWidth);
  }
  const follow = () => {
    budget = view.get("budget");
    const step = high > low ? Math.round((STEPS * (budget - low)) / (high - low)) : 0;
    if (budgetAt(Number(slider.value)) !== budget) slider.value = String(step);
    draw();
  };
  follow();
  view.on("budget", follow);
  view.on("shown", draw);
  view.on("status", () => line.draw(view.get("status"), "solving …"));
  view.themed(draw);
  view.resized((found) => {
    width = found;
    view.theme.read();
    draw();
  });
  view.atEnd(line.clear);
  return view.unmount;
}

export default { render };
