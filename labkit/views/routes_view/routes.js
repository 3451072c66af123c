// The routes view as a widget: the box to type in, the bar, one trace or two.

import { button, checkbox, picker, setOptions } from "../kit/controls.js";
import { make, thousands, visibleLabel } from "../kit/common.js";
import { entryField } from "../kit/field.js";
import { mount } from "../kit/mount.js";
import { NO_COLOUR, OTHERS, PALETTE, changedTokens, colouredExperts, decodeRoutes, exampleToken, firstChoices } from "./logic.js";
import { routesPane } from "./pane.js";
import { heldRoutes, liveRoutes } from "./source.js";

const ORDER_TITLES = [{ value: "number", title: "by number" }, { value: "most", title: "most chosen first" }];

function render(widget) {
  const view = mount(widget, "lk-routes");
  const { exported, model, root, set } = view;
  PALETTE.forEach(([light, dark], i) => root.style.setProperty(`--lk-e${i}`, `light-dark(${light}, ${dark})`));
  root.style.setProperty("--lk-eo", `light-dark(${OTHERS.join(", ")})`);

  let facts = model.get("facts");
  let routes = [];
  let slots = []; // by layer, its coloured experts
  let slotOf = []; // by layer, expert -> colour
  let changes = null;
  let heldExpert = null;
  let pointedExpert = null;
  let painted = 0;
  const source = exported ? heldRoutes(model, facts) : liveRoutes(view.wire);

  const context = {
    facts: () => facts,
    route: (which) => routes[which],
    source: () => source,
    version: () => model.get("version"),
    layer: () => Math.max(0, facts.layers.indexOf(model.get("layer"))),
    setLayer: (place) => set("layer", facts.layers[place]),
    order: () => model.get("order"),
    slot: (layer, expert) => slotOf[layer].get(expert) ?? NO_COLOUR,
    colours: () => painted,
    held(which) {
      const [trace, token] = model.get("held");
      return trace === which || (facts.same && trace !== undefined) ? token : null;
    },
    hold: (place) => set("held", place ?? []),
    /** The expert whose tokens are lit, in every trace: the one pointed at, else the one held. */
    expert: () => pointedExpert ?? heldExpert,
    heldExpert: () => heldExpert,
    pointExpert(expert) {
      if (pointedExpert === expert) return;
      pointedExpert = expert;
      for (const pane of panes) pane.shine();
    },
    holdExpert(expert) {
      if (heldExpert === expert) return;
      heldExpert = expert;
      for (const pane of panes) pane.shine();
    },
    /** An expert's bar was clicked: hold it or let it go, and give it a colour where it has none. */
    choose(expert) {
      const layer = context.layer();
      if (heldExpert !== expert && context.slot(layer, expert) === NO_COLOUR) {
        const name = String(facts.layers[layer]);
        const before = model.get("picked")[name] ?? [];
        heldExpert = expert;
        set("picked", { ...model.get("picked"), [name]: [...before.filter((e) => e !== expert), expert].slice(-PALETTE.length) });
      } else context.holdExpert(heldExpert === expert ? null : expert);
    },
    changed: () => changes,
    /** The token to show while none is pointed at; of a text traced twice, one that chooses otherwise. */
    example(which) {
      if (!facts.same) return exampleToken(routes[which], context.layer());
      const first = changes[context.layer()].findIndex((mark) => mark > 0);
      return first >= 0 ? first : exampleToken(routes[0], context.layer());
    },
    linked(which, token) {
      if (facts.same) panes[1 - which].link(token);
    },
    dark: view.theme.dark,
    tone: view.theme.colour,
  };

  // -------------------------------------------------------------------------------------------------------- the top

  const head = make("p", "lk-rt-head lk-muted");
  const typed = entryField(view, {
    trait: "typed",
    status: "status",
    title: "Your text",
    hint: "Type a text and see which experts its tokens go to",
    busyText: "computing the routes …",
    lines: 2,
  });

  const bar = make("div", "lk-rt-bar-top");
  const layerPicker = picker("Layer", view.id("layer"));
  const orderPicker = picker("Loads", view.id("order"), ORDER_TITLES);
  const numbers = checkbox("Expert numbers under the tokens", view.id("numbers"), (on) => set("numbers", on));
  const back = button("Colour the most chosen again", "", () => {
    const { [String(model.get("layer"))]: _gone, ...rest } = model.get("picked");
    set("picked", rest);
  });
  bar.append(layerPicker.pair, orderPicker.pair, numbers.pair, back);
  const legend = make("p", "lk-rt-legend");
  const difference = make("p", "lk-rt-difference");

  const panes = facts.tokens.map((_, which) => routesPane({ which, context, prefix: view.id(which) }));
  const body = make("div", "lk-rt-body");
  body.append(...panes.map(({ element }) => element));
  const notes = make("p", "lk-muted lk-rt-notes");
  root.append(head, typed.element, bar, legend, difference, body, notes);
  root.classList.toggle("lk-rt-two", panes.length > 1);

  function drawHead() {
    const counts = facts.tokens.map((n, i) => `${facts.tokens.length > 1 ? `${facts.names[i]}: ` : ""}${thousands(n)} token${n === 1 ? "" : "s"}`);
    const layers = `${facts.layers.length} routed layer${facts.layers.length === 1 ? "" : "s"}`;
    head.replaceChildren(
      make("strong", "", visibleLabel(facts.model, 80)),
      ` · ${counts.join(" · ")} · ${layers}, each with ${facts.experts} experts: ${sameCount() ? facts.k[0] : facts.k.map((k, i) => `${facts.names[i]} ${k}`).join(", ")} for every token`,
    );
    typed.element.hidden = !facts.can_take || exported;
    const said = [];
    if (facts.layers.length > 1) said.push("Experts of different layers have nothing in common: the same number or colour in two rows is not the same expert.");
    if (exported) said.push("Without the notebook, weights and probabilities are known to about two digits.");
    if (exported && facts.with_probabilities.some((n, i) => n < facts.drawn[i])) {
      said.push(`This file holds the router probabilities of the first ${listedCounts()} tokens.`);
    }
    notes.textContent = said.join(" ");
  }
  const sameCount = () => facts.k.every((k) => k === facts.k[0]);
  const listedCounts = () => [...new Set(facts.with_probabilities.map((n) => thousands(n)))].join(" and ");

  function drawLegend() {
    const layer = context.layer();
    const chips = slots[layer].flatMap((expert, slot) => (expert === NO_COLOUR ? [] : [make("span", `lk-rt-chip lk-rt-c${slot}`, String(expert))]));
    const others = facts.experts - chips.length;
    legend.replaceChildren("Colour and number: the expert with the largest weight in layer ", make("strong", "", String(facts.layers[layer])), ". ");
    chips.forEach((chip) => legend.append(chip, " "));
    if (others > 0) {
      legend.append(make("span", "lk-rt-chip lk-rt-c-1", chips.length > 0 ? `the other ${others}` : `${others}`));
      if (chips.length > 0) legend.append(" – click a bar to colour it");
    }
    drawDifference(layer);
    back.hidden = !(model.get("picked")[String(facts.layers[layer])]?.length > 0);
  }

  function drawDifference(layer) {
    difference.hidden = !facts.same;
    if (!facts.same) return;
    const [sets, firsts, n] = [facts.changed[layer], facts.changed_first[layer], facts.tokens[0]];
    const [fewer, more] = [Math.min(...facts.k), Math.max(...facts.k)];
    if (sets === 0) {
      if (fewer < more) {
        difference.textContent = `In layer ${facts.layers[layer]}, every token's ${fewer} expert${fewer === 1 ? " is" : "s are"} among its ${more}.`;
        return;
      }
      difference.textContent = `In layer ${facts.layers[layer]}, every token chooses the same experts ${facts.names.join(" and ")}.`;
      return;
    }
    const others = fewer < more ? `with ${fewer} what is not among the ${more}` : "other experts";
    const tokens = `${thousands(sets)} of ${thousands(n)} tokens choose${sets === 1 ? "s" : ""} ${others}`;
    difference.replaceChildren(
      make("strong", "", `In layer ${facts.layers[layer]}, ${tokens}`),
      ` (`,
      make("span", "lk-rt-changed1", "underlined twice"),
      `)${firsts > 0 ? `, ${thousands(firsts)} of them another first one` : ", none of them another first one"}.`,
    );
  }

  // ------------------------------------------------------------------------------------------------------- the data

  function readColours() {
    const picked = model.get("picked");
    const before = slots;
    slots = facts.layers.map((layer, l) => {
      const other = routes[1] && firstChoices(routes[1], l);
      const firsts = firstChoices(routes[0], l).map((count, e) => count + (other?.[e] ?? 0));
      return colouredExperts(firsts, picked[String(layer)] ?? [], before[l] ?? []);
    });
    slotOf = slots.map((experts) => new Map(experts.flatMap((expert, slot) => (expert === NO_COLOUR ? [] : [[expert, slot]]))));
    painted += 1;
  }

  function readTrace() {
    heldExpert = pointedExpert = null;
    facts = model.get("facts");
    routes = decodeRoutes(facts, model.get("texts"), model.get("experts"), model.get("weights"), model.get("load"));
    changes = facts.same ? facts.layers.map((_, l) => changedTokens(routes[0], routes[1], l)) : null;
    readColours();
    drawHead();
    setOptions(layerPicker.select, facts.layers, model.get("layer"));
    drawLegend();
    for (const pane of panes) pane.fill();
    for (const pane of panes) pane.resize();
  }

  // ------------------------------------------------------------------------------------------------------ listening

  layerPicker.select.addEventListener("change", () => set("layer", Number(layerPicker.select.value)));
  orderPicker.select.addEventListener("change", () => set("order", orderPicker.select.value));

  const repaint = () => {
    for (const pane of panes) pane.paint();
  };
  function layerChanged() {
    heldExpert = pointedExpert = null; // another layer's expert of this number is another expert
    setOptions(layerPicker.select, facts.layers, model.get("layer"));
    drawLegend();
    repaint();
  }
  function orderChanged() {
    orderPicker.select.value = model.get("order");
    repaint();
  }
  function numbersChanged() {
    numbers.box.checked = model.get("numbers");
    root.classList.toggle("lk-rt-numbers", model.get("numbers"));
  }
  function pickedChanged() {
    readColours();
    drawLegend();
    repaint();
  }

  view.theme.read();
  numbersChanged();
  orderPicker.select.value = model.get("order");
  readTrace();
  view.on("version", readTrace);
  view.on("layer", layerChanged);
  view.on("order", orderChanged);
  view.on("numbers", () => {
    numbersChanged();
    for (const pane of panes) pane.resize();
  });
  view.on("picked", pickedChanged);
  view.on("held", () => panes.forEach((pane) => pane.heldChanged()));
  view.themed(repaint);
  view.resized(() => {
    if (view.theme.read()) repaint();
    for (const pane of panes) pane.resize();
  });
  for (const pane of panes) view.atEnd(pane.close);
  return view.unmount;
}

export default { render };
