// The routes view as a widget: the box to type in, the bar, one trace or two.

import { box, make } from "../kit/common.js";
import { button, picker, setOptions, traitBox, traitPicker } from "../kit/controls.js";
import { entryField } from "../kit/field.js";
import { mount } from "../kit/mount.js";
import { traceHead } from "../kit/trace_head.js";
import { chip, setColours } from "./colours.js";
import { NO_COLOUR } from "./logic.js";
import { routesPane } from "./pane.js";
import { Shared } from "./state.js";
import { differenceSentence, notes, routersLine } from "./words.js";

/** @param {{model: import("../kit/ask.js").Model, el: HTMLElement}} widget */
function render(widget) {
  const view = mount(widget, "lk-routes lk-panes");
  const { exported, get, root } = view;
  const shared = new Shared(view);
  setColours(root, shared.palette, shared.others);

  const typed = entryField(view, {
    trait: "typed",
    status: "status",
    title: "Your text",
    hint: "Type a text and see which experts its tokens go to",
    busyText: "computing the routes …",
    lines: 2,
  });
  const controls = controlBar(shared);
  const head = make("div");
  const legend = make("p", "lk-rt-legend");
  const difference = make("p", "lk-rt-difference");
  const panes = shared.facts.tokens.map((_, which) => routesPane(shared, which));
  const body = box(panes.length > 1 ? "lk-rt-body lk-split" : "", ...panes.map(({ element }) => element));
  const below = make("p", "lk-muted lk-small lk-rt-notes");
  root.append(head, typed.element, controls.element, legend, difference, body, below);
  root.classList.toggle("lk-rt-two", panes.length > 1);
  shared.shine = () => panes.forEach((pane) => pane.shine());
  shared.link = (from, token) => {
    if (shared.facts.same) panes[1 - from].link(token);
  };

  function drawHead() {
    const { facts } = shared;
    head.replaceChildren(traceHead(facts, routersLine(facts)));
    typed.element.hidden = !facts.can_take || exported;
    below.textContent = notes(facts, exported);
  }

  /** What depends on the layer and on its colours. */
  function drawLayer() {
    const { facts, layer, slots } = shared;
    const chips = slots[layer].flatMap((expert, slot) => (expert === NO_COLOUR ? [] : [chip(slot, expert), " "]));
    const others = facts.experts - chips.length / 2;
    const coloured = chips.length > 0;
    if (others > 0) chips.push(chip(NO_COLOUR, coloured ? `the other ${others}` : others), coloured ? " – click a bar to colour it" : "");
    const name = make("strong", "", String(shared.name));
    legend.replaceChildren("Colour and number: the expert with the largest weight in layer ", name, ". ", ...chips);
    difference.hidden = !facts.same;
    if (facts.same) difference.replaceChildren(...differenceSentence(facts, layer));
    controls.draw();
  }

  const paint = () => panes.forEach((pane) => pane.paint());
  const resize = () => panes.forEach((pane) => pane.resize());

  function readTraces() {
    shared.read();
    drawHead();
    drawLayer();
    for (const pane of panes) pane.fill();
    resize();
  }

  function numbersChanged() {
    root.classList.toggle("lk-rt-numbers", get("numbers"));
    resize();
  }

  view.theme.read();
  root.classList.toggle("lk-rt-numbers", get("numbers"));
  readTraces();
  view.on("version", readTraces);
  view.on("layer", () => {
    shared.heldExpert = shared.pointedExpert = null; // another layer's expert of this number is another expert
    drawLayer();
    paint();
  });
  view.on("order", paint);
  view.on("numbers", numbersChanged);
  view.on("picked", () => {
    shared.readColours();
    drawLayer();
    paint();
  });
  view.on("held", () => panes.forEach((pane) => pane.heldChanged()));
  view.themed(paint);
  view.resized(() => {
    if (view.theme.read()) paint();
    resize();
  });
  return view.unmount;
}

/** What the view's traits can be set by. @param {Shared} shared */
function controlBar(shared) {
  const { view } = shared;
  const { id, get, set } = view;
  const layer = picker("Layer", id("layer"));
  const order = traitPicker(view, "Loads", "order", get("constants").orders);
  const numbers = traitBox(view, "Expert numbers under the tokens", "numbers");
  const back = button("Colour the most chosen again", "", () => {
    const { [String(get("layer"))]: _gone, ...rest } = get("picked");
    set("picked", rest);
  });
  layer.select.addEventListener("change", () => set("layer", Number(layer.select.value)));
  return {
    element: box("lk-controls", layer.pair, order, numbers, back),
    draw() {
      setOptions(layer.select, shared.facts.layers, get("layer"));
      back.hidden = !(get("picked")[String(get("layer"))]?.length > 0);
    },
  };
}

export default { render };
