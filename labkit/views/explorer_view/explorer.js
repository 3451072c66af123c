// The explorer: controls for a model and a machine, bytes against the memory, the roofline, advice in words.

import { box, make, section, setText, significant, thousands } from "../kit/common.js";
import { picker, sliderFor } from "../kit/controls.js";
import { statusLine } from "../kit/field.js";
import { legend } from "../kit/legend.js";
import { mount } from "../kit/mount.js";
import { linePath, shape, share } from "../kit/plot.js";
import { table } from "../kit/table.js";
import { corners, decades, duration, reach, stacked, ticks } from "./logic.js";

/** @typedef {import("../kit/mount.js").Mounted} Mounted */
/** @typedef {import("./logic.js").Point} Point */
/**
 * What the kernel sends of a plan.
 * @typedef {{title: string, fits: boolean, bottleneck: string, parts: [string, number, string][], total: string,
 *   usable: [number, string], points: Point[], peak: number | null, bandwidth: number, device: string, said: string[],
 *   assumed: string[]}} Shown
 */

const HEIGHT = 280;
const [LEFT, RIGHT, TOP, BOTTOM] = [58, 14, 12, 36];
const BAR = 30;
const [LIFT, DROP] = [-10, 18]; // of a point's name, so that it stands above or below the line
const STEPS = { prefill: "reading the prompts", token: "making a token" };
/** Operations a byte, in three digits. @param {number} value */
const perByte = (value) => (value < 1000 ? significant(value) : thousands(Number(value.toPrecision(3))));
const series = (/** @type {number} */ i) => `--lk-colour: var(--lk-series-${i % 6})`;

/** @param {Mounted} view @param {(change: Record<string, unknown>) => void} choose */
function controls(view, choose) {
  const { precisions, caches, splits, counts, tokens, batches } = view.get("offered");
  const list = (/** @type {string} */ name, /** @type {string} */ key, /** @type {import("../kit/controls.js").Option[]} */ options, number = false) => {
    const made = picker(name, view.id(key), options, (value) => choose({ [key]: number ? Number(value) : value }));
    return { key, element: made.pair, follow: (/** @type {any} */ value) => void (made.select.value = String(value)) };
  };
  const slider = (/** @type {string} */ name, /** @type {string} */ key, /** @type {number[]} */ values, /** @type {string} */ unit) => {
    const made = sliderFor(name, view.id(key), { min: 0, max: values.length - 1, step: 1 }, (step) => {
      made.say(thousands(values[step]), `${values[step]} ${unit}`);
      choose({ [key]: values[step] });
    });
    const element = box("lk-explorer-slide", made.label, made.slider, made.output);
    const follow = (/** @type {any} */ value) => {
      made.slider.value = String(values.indexOf(value));
      made.say(thousands(value), `${value} ${unit}`);
    };
    return { key, element, follow };
  };
  const models = view.get("models");
  const own = view.get("settings").model;
  const splitting = Object.entries(splits).map(([value, title]) => ({ value, title: String(title) }));
  const made = [
    list("Model", "model", models.includes(own) ? models : [own, ...models]),
    list("Hardware", "device", view.get("devices")),
    list("Cards", "count", counts, true),
    list("Divided", "split", splitting),
    list("Weights", "precision", precisions),
    list("Cache", "cache", caches),
    slider("Tokens", "tokens", tokens, "tokens"),
    slider("Sequences", "batch", batches, "sequences at once"),
  ];
  const element = box("lk-explorer-bar", ...made.map((each) => each.element));
  element.setAttribute("role", "group");
  element.setAttribute("aria-label", "What is planned");
  return { element, follow: (/** @type {Record<string, unknown>} */ settings) => made.forEach(({ key, follow }) => follow(settings[key])) };
}

/** Bytes by part, a bar against a line. @param {Mounted} view */
function bytesPane(view) {
  const { element } = section(view.id("bytes"), "Bytes against the memory", "lk-explorer-pane");
  const picture = shape("svg", { role: "img", class: "lk-explorer-bytes" });
  const list = make("div", "lk-explorer-parts");
  element.append(picture, list);
  return {
    element,
    /** @param {Shown} shown @param {number} width */
    draw({ parts, total, usable }, width) {
      const { parts: places, end } = stacked(parts.map(([, size]) => size), usable[0]);
      for (const [name, value] of Object.entries({ width, height: BAR + 24, viewBox: `0 0 ${width} ${BAR + 24}` })) picture.setAttribute(name, String(value));
      picture.setAttribute("aria-label", `${total} of ${usable[1]} that can be used`);
      picture.replaceChildren();
      places.forEach(([from, to], i) => {
        const part = shape("rect", { x: from * width, y: 4, width: Math.max(0, (to - from) * width), height: BAR, class: "lk-explorer-part", style: series(i) });
        part.append(shape("title", {}, `${parts[i][0]}: ${parts[i][2]}`));
        picture.append(part);
      });
      const at = end * width;
      const side = at > width / 2 ? "end" : "start";
      picture.append(shape("path", { d: `M${at} 0V${BAR + 10}`, class: "lk-explorer-end" }));
      picture.append(shape("text", { x: at, y: BAR + 21, class: "lk-explorer-tick", "text-anchor": side }, `${usable[1]} can be used`));
      const rows = parts.map(([name, size, words], i) => {
        const sample = make("span", "lk-sample lk-explorer-part");
        sample.setAttribute("style", series(i));
        sample.setAttribute("aria-hidden", "true");
        return [box("lk-explorer-name", sample, ` ${name}`), words, `${significant((100 * size) / usable[0])} %`];
      });
      list.replaceChildren(table({ columns: ["part", "bytes", "of the memory"], rows, numbers: ["bytes", "of the memory"] }));
    },
  };
}

/** The roofline with its operating points. @param {Mounted} view */
function roofPane(view) {
  const { element } = section(view.id("roof"), "Roofline", "lk-explorer-pane");
  const picture = shape("svg", { role: "img", class: "lk-explorer-roofline" });
  const foot = make("p", "lk-muted lk-small");
  element.append(picture, legend([{ sample: "lk-explorer-roof", text: "what one card allows" }, { sample: "lk-explorer-dot", text: "what is reached" }], { quiet: true }), foot);
  return {
    element,
    /** @param {Shown} shown @param {number} width */
    draw(shown, width) {
      for (const [name, value] of Object.entries({ width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}` })) picture.setAttribute(name, String(value));
      picture.replaceChildren();
      if (shown.points.length === 0) {
        setText(foot, "The operations of this model are not known, so that no point can be drawn.");
        return;
      }
      const ends = reach(shown);
      const log = (/** @type {{low: number, high: number}} */ { low, high }) => ({ low: Math.log10(low), high: Math.log10(high) });
      const x = (/** @type {number} */ value) => LEFT + (width - LEFT - RIGHT) * share(Math.log10(value), log(ends.x));
      const y = (/** @type {number} */ value) => HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share(Math.log10(value), log(ends.y));
      for (const power of ticks(ends.y.low, ends.y.high)) {
        picture.append(shape("path", { d: `M${LEFT} ${y(power)}H${width - RIGHT}`, class: "lk-explorer-rule" }));
        picture.append(shape("text", { x: LEFT - 6, y: y(power) + 4, class: "lk-explorer-tick", "text-anchor": "end" }, `${significant(power / 1e12)} T`));
      }
      for (const power of decades(ends.x.low, ends.x.high)) {
        picture.append(shape("text", { x: x(power), y: HEIGHT - BOTTOM + 15, class: "lk-explorer-tick", "text-anchor": "middle" }, power < 1e5 ? thousands(power) || String(power) : `${power / 1000}k`));
      }
      picture.append(shape("text", { x: width - RIGHT, y: HEIGHT - 3, class: "lk-explorer-tick", "text-anchor": "end" }, "operations a byte; upward operations a second"));
      picture.append(shape("path", { d: linePath(corners(shown, ends.x).map(([at, value]) => [x(at), y(value)])), class: "lk-explorer-roof" }));
      for (const point of shown.points) {
        const [cx, cy] = [x(point.intensity), y(point.attained)];
        const name = point.phase === "token" ? "token" : "prompt";
        const mark = shape("circle", { cx, cy, r: 6, class: "lk-explorer-dot" });
        mark.append(shape("title", {}, `${name}: ${perByte(point.intensity)} operations a byte, bound by ${point.bound}`));
        const left = cx > width - 90;
        picture.append(mark, shape("text", { x: cx + (left ? LIFT : -LIFT), y: cy + DROP, class: "lk-explorer-label", "text-anchor": left ? "end" : "start" }, name));
      }
      const words = shown.points.map(({ phase, seconds, intensity, bound }) => `${STEPS[/** @type {keyof typeof STEPS} */ (phase)] ?? phase}: ${perByte(intensity)} operations a byte, ${duration(seconds)}, bound by ${bound}`);
      picture.setAttribute("aria-label", `Roofline of ${shown.device}. ${words.join("; ")}.`);
      setText(foot, `${words.join("; ")}.`);
    },
  };
}

/** @param {{model: import("../kit/ask.js").Model, el: HTMLElement}} widget */
function render(widget) {
  const view = mount(widget, "lk-explorer");
  const line = statusLine();
  /** @type {Record<string, unknown>} */
  let wanted = { ...view.get("settings") };
  const choose = (/** @type {Record<string, unknown>} */ change) => {
    wanted = { ...wanted, ...change };
    line.hear(view.wire.tell({ settings: wanted }));
  };
  const bar = controls(view, choose);
  bar.element.hidden = view.exported;
  line.element.hidden = view.exported;
  const title = make("p", "lk-explorer-title");
  const verdict = make("strong", "lk-explorer-verdict");
  const words = make("span");
  title.setAttribute("role", "status");
  title.append(verdict, " ", words);
  const advice = make("div", "lk-explorer-advice");
  const [bytes, roof] = [bytesPane(view), roofPane(view)];
  const assumed = make("details", "lk-explorer-assumed");
  view.root.append(bar.element, line.element, title, advice, box("lk-explorer-panes", bytes.element, roof.element), assumed);
  let width = 0;

  function draw() {
    /** @type {Shown} */
    const shown = view.get("shown");
    setText(verdict, shown.fits ? "It fits." : "It does not fit.");
    verdict.classList.toggle("lk-explorer-not", !shown.fits);
    setText(words, shown.title);
    advice.replaceChildren(...shown.said.map((sentence) => make("p", "", sentence)));
    const list = make("ul");
    list.append(...shown.assumed.map((sentence) => make("li", "", sentence)));
    assumed.replaceChildren(make("summary", "", "What this rests on"), list);
    if (width === 0) return;
    for (const pane of [bytes, roof]) if (pane.element.clientWidth > 0) pane.draw(shown, pane.element.clientWidth);
  }
  const follow = () => {
    wanted = { ...view.get("settings") };
    bar.follow(wanted);
  };
  follow();
  draw();
  view.on("settings", follow);
  view.on("shown", draw);
  view.on("status", () => line.draw(view.get("status"), "planning …"));
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
