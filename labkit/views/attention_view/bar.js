// The bar above the panes: which head, which beside it, the colours and their legend.

import { brushOf } from "../kit/canvas.js";
import { colour } from "../kit/colour.js";
import { box, make } from "../kit/common.js";
import { button, picker, setOptions, traitBox, traitPicker } from "../kit/controls.js";
import { SCALES, onScale } from "./logic.js";

/** @typedef {import("./shared.js").Shared} Shared */

/**
 * choose(layer, head); keep(kind) saves a picture. Returns {element, status, draw() after a change of what is chosen, drawLegend()}.
 * @param {Shared} shared
 * @param {{choose: (layer: number, head: number) => void, keep: (kind: "svg" | "png") => void}} actions
 */
export function controlBar(shared, actions) {
  const { view, facts } = shared;
  const layer = picker("Layer", view.id("layer"));
  const head = picker("Head", view.id("head"));
  const compare = picker("Beside it", view.id("compare"));
  const besideLayer = picker("Layer beside", view.id("beside-layer"));
  const besideHead = picker("Head beside", view.id("beside-head"));
  const scale = traitPicker(view, "Colours", "scale", Object.fromEntries(Object.entries(SCALES).map(([name, { title }]) => [name, title])));
  const aside = traitBox(view, "Set the first token aside", "aside");
  aside.title = "Leave out what goes to the first token, and scale the rest of each row to 100 %";
  const status = make("span", "lk-att-status lk-muted");
  status.setAttribute("role", "status");
  const save = make("span", "lk-pair");
  save.append(
    make("span", "lk-muted", "Save"),
    button("SVG", "Save this head as an SVG picture", () => actions.keep("svg")),
    button("PNG", "Save this head as a PNG picture", () => actions.keep("png")),
  );
  const pairs = [layer, head, compare, besideLayer, besideHead].map(({ pair }) => pair);
  const legend = colourLegend(shared);
  const element = box("lk-att-top", box("lk-controls lk-att-bar", ...pairs, scale, aside, save, status), legend.element);
  const showBeside = (/** @type {number[]} */ place) => view.set("beside", place);

  function draw() {
    setOptions(layer.select, shared.layers(0), view.get("layer"));
    setOptions(head.select, shared.heads(0, view.get("layer")), view.get("head"));
    const names = facts.tokens.length > 1 ? facts.names : ["another head"];
    const [trace, layerBeside, headBeside] = view.get("beside");
    const options = [{ value: "", title: "nothing" }, ...names.map((title, value) => ({ value, title }))];
    setOptions(compare.select, options, trace ?? "");
    besideLayer.pair.hidden = besideHead.pair.hidden = trace === undefined;
    if (trace === undefined) return;
    setOptions(besideLayer.select, shared.layers(trace), layerBeside);
    setOptions(besideHead.select, shared.heads(trace, layerBeside), headBeside);
  }

  /** A head of a layer: the one that is wanted where it is there, else the first.
   * @type {(trace: number, at: number, wanted: number) => number} */
  const nearest = (trace, at, wanted) => {
    const there = shared.heads(trace, at);
    return there.includes(wanted) ? wanted : there[0];
  };

  for (const { select } of [layer, head]) {
    select.addEventListener("change", () => {
      const at = Number(layer.select.value);
      actions.choose(at, nearest(0, at, Number(head.select.value)));
    });
  }
  compare.select.addEventListener("change", () => {
    if (compare.select.value === "") return showBeside([]);
    const trace = Number(compare.select.value);
    const [, layerBeside = view.get("layer"), headBeside = view.get("head")] = view.get("beside");
    const layers = shared.layers(trace);
    const at = layers.includes(layerBeside) ? layerBeside : layers[0];
    if (at !== undefined) return showBeside([trace, at, nearest(trace, at, headBeside)]);
    status.textContent = "No head of it is in this file.";
    return draw();
  });
  for (const { select } of [besideLayer, besideHead]) {
    select.addEventListener("change", () => {
      const [trace] = view.get("beside");
      const at = Number(besideLayer.select.value);
      showBeside([trace, at, nearest(trace, at, Number(besideHead.select.value))]);
    });
  }

  return { element, status, draw, drawLegend: legend.draw };
}

/** The scale of the colours, with numbers. @param {Shared} shared */
function colourLegend(shared) {
  const title = make("span");
  const strip = make("canvas", "lk-att-strip");
  strip.width = 256;
  strip.height = 1;
  strip.setAttribute("role", "img");
  const marks = make("div", "lk-att-marks");
  const element = box("lk-att-legend lk-muted lk-small", title, box("lk-att-scale", strip, marks));

  function draw() {
    const { scale, dark } = shared;
    const brush = brushOf(strip);
    for (let i = 0; i < 256; i += 1) {
      brush.fillStyle = `rgb(${colour(i / 255, dark).join(" ")})`;
      brush.fillRect(i, 0, 1, 1);
    }
    const { title: name, marks: wanted } = SCALES[scale];
    strip.setAttribute("aria-label", `Colour scale of the weights, ${name}, from ${wanted[0]} to 1`);
    title.textContent = `Weight, ${name} scale`;
    marks.replaceChildren(
      ...wanted.map((weight) => {
        const mark = make("span", "", weight === wanted[0] && scale === "log" ? `≤ ${weight}` : String(weight));
        mark.style.insetInlineStart = `${100 * onScale(weight, scale)}%`;
        return mark;
      }),
    );
  }
  return { element, draw };
}
