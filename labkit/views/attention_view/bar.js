// The bar above the panes: which head, which beside it, the colours and their legend.

import { ramp } from "../kit/colour.js";
import { colourScale } from "../kit/colour_scale.js";
import { box, make } from "../kit/common.js";
import { button, picker, setOptions, traitBox, traitPicker } from "../kit/controls.js";
import { statusLine } from "../kit/field.js";
import { SCALES, onScale } from "./logic.js";

/** @typedef {import("./shared.js").Shared} Shared */

/**
 * choose(layer, head); keep(kind) saves a picture. Returns {element, status, draw() after a change of what is chosen, drawLegend()}.
 * @param {Shared} shared
 * @param {{choose: (layer: number, head: number) => void, keep: (kind: "svg" | "png") => void}} actions
 */
export function controlBar(shared, actions) {
  const { view, facts } = shared;
  const shown = placePicker(shared, ["Layer", "Head"], () => 0, actions.choose);
  const compare = picker("Beside it", view.id("compare"), [], compareWith);
  const which = () => view.get("beside")[0];
  const beside = placePicker(shared, ["Layer beside", "Head beside"], which, (...place) => view.set("beside", [which(), ...place]));
  const scale = traitPicker(view, "Colours", "scale", shared.constants.scales);
  const aside = traitBox(view, "Set the first token aside", "aside");
  aside.title = "Leave out what goes to the first token, and scale the rest of each row to 100 %";
  const status = statusLine();
  const save = make("span", "lk-pair");
  save.append(
    make("span", "lk-muted", "Save"),
    button("SVG", "Save this head as an SVG picture", () => actions.keep("svg")),
    button("PNG", "Save this head as a PNG picture", () => actions.keep("png")),
  );
  const title = make("span");
  const colours = colourScale();
  const legend = box("lk-att-legend lk-muted lk-small", title, colours.element);
  const element = box("lk-controls lk-att-top", box("lk-controls lk-att-bar", ...shown.pairs, compare.pair, ...beside.pairs, scale, aside, save, status.element), legend);

  function draw() {
    shown.draw([0, view.get("layer"), view.get("head")]);
    const names = facts.tokens.length > 1 ? facts.names : ["another head"];
    const options = [{ value: "", title: "nothing" }, ...names.map((title, value) => ({ value, title }))];
    setOptions(compare.select, options, which() ?? "");
    beside.draw(view.get("beside"));
  }

  function drawLegend() {
    const scale = view.get("scale");
    const { marks } = SCALES[scale];
    const name = shared.constants.scales[scale];
    title.textContent = `Weight, ${name} scale`;
    const text = (/** @type {number} */ weight) => (weight === marks[0] && scale === "log" ? `≤ ${weight}` : String(weight));
    const along = marks.map((weight) => ({ at: onScale(weight, scale), text: text(weight) }));
    colours.draw(ramp(view.theme.dark()), along, `Colour scale of the weights, ${name}, from ${marks[0]} to 1`);
  }

  /** @param {string} chosen */
  function compareWith(chosen) {
    if (chosen === "") return view.set("beside", []);
    const [, layer = view.get("layer"), head = view.get("head")] = view.get("beside");
    const place = shared.nearest(Number(chosen), layer, head);
    if (place !== null) return view.set("beside", [Number(chosen), ...place]);
    status.say("No head of it is in this file.");
    return draw();
  }

  view.atEnd(status.clear);
  return { element, status, draw, drawLegend };
}

/**
 * Two lists to choose a layer and a head of a trace by. Returns {pairs, draw([trace, layer, head], or [] where none is to be chosen)}.
 * @param {Shared} shared
 * @param {string[]} names
 * @param {() => number} trace
 * @param {(layer: number, head: number) => void} choose
 */
function placePicker(shared, names, trace, choose) {
  const pickers = names.map((name) => picker(name, shared.view.id(name.replace(" ", "-")), [], changed));
  const [layers, heads] = pickers.map(({ select }) => select);

  function changed() {
    const place = shared.nearest(trace(), Number(layers.value), Number(heads.value));
    if (place !== null) choose(...place);
  }

  return {
    pairs: pickers.map(({ pair }) => pair),
    /** @param {number[]} place */
    draw([trace, layer, head]) {
      for (const { pair } of pickers) pair.hidden = trace === undefined;
      if (trace === undefined) return;
      setOptions(layers, shared.layers(trace), layer);
      setOptions(heads, shared.heads(trace, layer), head);
    },
  };
}
