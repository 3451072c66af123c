// One trace: its text, all its layers, the loads of the layer on show, and the token in focus.

import { aloud } from "../kit/aloud.js";
import { make, spokenLabel, thousands } from "../kit/common.js";
import { table } from "../kit/table.js";
import { nameOf, quoted } from "../kit/token_list.js";
import { barChart } from "./chart.js";
import {
  NO_COLOUR,
  against,
  byChance,
  choices,
  inOrder,
  number,
  sharePercent,
} from "./logic.js";
import { layerStrip } from "./strip.js";
import { litBy, routesText } from "./text.js";

const ASK_AFTER = 60; // ms; for a pointer on its way the panel is not drawn, and the kernel not asked
const FEW_EXPERTS = 64;
const FEW_TOKENS = 60; // up to which the text leaves no room beside it for the token's panel

/**
 * context: what the panes share (see routes.js). Returns {element, fill(), paint(), resize(), link(token), close()}.
 * fill: the trace is another. paint: the layer, the colours, the order, or what is pointed at changed.
 */
export function routesPane({ which, context, prefix }) {
  const element = make("section", "lk-rt-pane");
  const head = make("div", "lk-rt-panehead");
  const name = make("h2", "lk-rt-name");
  head.append(name);
  const left = make("div", "lk-rt-left");
  const right = make("div", "lk-rt-right");
  const note = make("p", "lk-muted lk-rt-cut");
  const foot = make("p", "lk-rt-foot");
  const said = aloud();
  const stripTitle = make("h2", "lk-rt-h", "All layers ");
  const stripNote = make("span", "lk-muted lk-rt-unit");
  stripTitle.append(stripNote);
  const loads = make("div", "lk-rt-loads");
  const panel = make("div", "lk-rt-token-panel");

  let route = null;
  let pointed = null; // [layer, token]; the strip points at other layers, too
  let cursor = null;
  let linked = null;
  let example = 0;
  let askTimer = null;
  let readAt = null; // an expert of the probability chart under the pointer
  let numbers = null; // what that chart shows, and of which version, layer and token

  const layer = () => context.layer();
  const held = () => context.held(which);
  const slotHere = (expert) => context.slot(layer(), expert);
  const token = () => pointed?.[1] ?? held() ?? linked ?? cursor ?? example;
  const { expert } = context;
  const layerName = (i) => context.facts().layers[i];

  // ---------------------------------------------------------------------------------------------------- the parts

  const moves = {
    move(toLayer, toToken) {
      pointed = null;
      cursor = toToken;
      if (held() !== null && held() !== toToken) context.hold(null);
      if (toLayer !== layer()) context.setLayer(toLayer);
      follow(true);
      say();
    },
    leave() {
      const something = held() !== null || cursor !== null || context.heldExpert() !== null;
      pointed = null;
      cursor = null;
      context.hold(null);
      context.holdExpert(null);
      follow(false);
      return something;
    },
  };
  function hold(i) {
    cursor = i;
    context.hold(held() === i ? null : [which, i]);
    follow(false);
    say();
  }
  const text = routesText({
    label: "Tokens of the text",
    prefix: `${prefix}-token`,
    actions: {
      ...moves,
      point(i) {
        if ((pointed?.[1] ?? null) === i) return;
        pointed = i === null ? null : [layer(), i];
        follow(false);
      },
      choose: hold,
    },
  });
  const strip = layerStrip({
    label: "The first expert of each token in each layer",
    context,
    actions: {
      ...moves,
      point(cell) {
        if (String(cell) === String(pointed)) return;
        pointed = cell;
        follow(false, true);
      },
      choose(toLayer, toToken, byKey = false) {
        const other = toLayer !== layer();
        if (other) context.setLayer(toLayer);
        if (!other || byKey || held() !== toToken) hold(toToken);
      },
      layer: (i) => context.setLayer(i),
    },
  });
  const chart = barChart({
    heading: "",
    unit: "",
    label: "Experts by load: arrow keys move, Enter holds one and gives it a colour, Escape lets go",
    prefix: `${prefix}-bar`,
    actions: {
      point(e, byKey = false) {
        context.pointExpert(e);
        if (byKey) say(true);
      },
      choose(e) {
        context.choose(e);
        say(true);
      },
      leave() {
        context.pointExpert(null);
        if (context.heldExpert() === null) chart.list.blur();
        context.holdExpert(null);
      },
    },
  });
  const bandKey = make("p", "lk-rt-key");
  loads.append(chart.element, bandKey);

  const panelTitle = make("h2", "lk-rt-h");
  const path = make("ol", "lk-rt-path");
  path.setAttribute("aria-label", "Experts of this token in each layer, the largest weight first");
  path.tabIndex = 0; // it scrolls
  const pathTitle = make("p", "lk-muted");
  const chosenTable = make("div", "lk-rt-chosen");
  const probability = barChart({ heading: "Router probability ", unit: "", label: "Router probability of each expert", prefix: `${prefix}-probability` });
  const probabilityNote = make("p", "lk-muted lk-rt-reading");
  const pathBox = make("div", "lk-rt-pathbox");
  pathBox.append(pathTitle, path);
  const probabilityBox = make("div", "lk-rt-probability");
  probabilityBox.append(probability.element, probabilityNote, chosenTable);
  const panelBody = make("div", "lk-rt-panelbody");
  panelBody.append(pathBox, probabilityBox);
  panel.append(panelTitle, panelBody);

  left.append(text.element, foot, note, stripTitle, strip.element);
  right.append(loads, panel);
  element.append(head, left, right, said.element);

  // ------------------------------------------------------------------------------------------------------- drawing

  function fill() {
    const facts = context.facts();
    route = context.route(which);
    pointed = cursor = linked = null;
    head.hidden = facts.tokens.length < 2;
    const n = facts.tokens[which];
    name.textContent = `${facts.names[which]} `;
    name.append(make("span", "lk-muted", `${thousands(n)} token${n === 1 ? "" : "s"}`));
    element.setAttribute("aria-label", facts.tokens.length < 2 ? "Routes" : facts.names[which]);
    text.fill(route);
    strip.fill(route, facts.layers);
    const many = route.experts > FEW_EXPERTS;
    element.classList.toggle("lk-rt-many", many);
    const low = route.n <= FEW_TOKENS || facts.tokens.length > 1;
    element.classList.toggle("lk-rt-low", low);
    if (many) element.insertBefore(loads, said.element);
    else right.prepend(loads);
    if (low) element.insertBefore(panel, said.element);
    else right.append(panel);
    const cut = [];
    if (route.n < route.tokens) cut.push(`The first ${thousands(route.n)} of ${thousands(route.tokens)} tokens are drawn; the loads count all of them.`);
    const aside = route.tokens - route.counted;
    if (aside > 0) cut.push(`${aside} special token${aside === 1 ? " is" : "s are"} not counted in the loads (dotted frame).`);
    note.textContent = cut.join(" ");
    note.hidden = cut.length === 0;
    example = context.example(which);
    paint();
    drawPanel(); // at once: a printed page, too, has it
  }

  const shareOf = (e) => (route.counted > 0 ? route.load(layer())[e] / (route.counted * route.k) : 0);

  function paint() {
    const changed = context.changed();
    text.paint({ layer: layer(), slot: slotHere, changed: changed?.[layer()] ?? null });
    drawStripNote();
    drawLoads();
    strip.paint({
      layer: layer(),
      slot: (l, each) => context.slot(l, each),
      changed,
      counts: context.facts().same ? context.facts().changed : null,
      lit: null,
    });
    shine(false);
    follow(false);
  }

  function drawStripNote() {
    const parts = ["the first expert of each token, a row for each layer"];
    if (context.facts().same) parts.push("at its end how many tokens choose otherwise");
    if (strip.scrolls()) parts.push("longer than its box: scroll it sideways");
    stripNote.textContent = parts.join("; ");
  }

  function drawLoads() {
    const load = route.load(layer());
    const total = route.counted * route.k;
    const uniform = 1 / route.experts;
    chart.heading.textContent = `Load in layer ${layerName(layer())} `;
    chart.unit.textContent = `share of the ${thousands(total)} choices`;
    const { band } = route;
    chart.draw({
      order: inOrder(load, context.order()),
      share: shareOf,
      slot: slotHere,
      line: { value: uniform, title: "uniform" },
      band,
      marked: (e) => e === expert(),
      say: (e) => sayLoad(e),
    });
    bandKey.replaceChildren();
    if (band === null) {
      bandKey.append("No token is counted here.");
      return;
    }
    bandKey.append(
      make("span", "lk-rt-keyline"),
      ` uniform ${sharePercent(uniform)} `,
      make("span", "lk-rt-keyband"),
      ` choosing at random gives ${sharePercent(band[0])} to ${sharePercent(band[1])} in 95 % of cases `,
      make("span", "lk-muted", `(of ${route.experts} bars ${byChance(route.experts)} would stand outside)`),
    );
  }

  const SIDE = { above: ", more than random choice gives", below: ", less than random choice gives", within: ", as random choice may give", "": "" };

  function sayLoad(e) {
    const count = route.load(layer())[e];
    return `expert ${e}: ${sharePercent(shareOf(e))} of the choices, ${thousands(count)} token${count === 1 ? "" : "s"}${SIDE[against(shareOf(e), route.band)]}`;
  }

  /** Light what the expert in focus takes. */
  function shine(words = true) {
    const e = expert();
    const marks = litBy(route, layer(), e);
    text.light(marks);
    strip.light(marks);
    chart.mark((each) => each === e);
    if (words) drawFoot();
  }

  function drawFoot() {
    const e = pointed === null ? expert() : null;
    if (e !== null) {
      const marks = litBy(route, layer(), e);
      const firsts = marks.reduce((sum, mark) => sum + Number(mark === 2), 0);
      const strong = make("strong", "", `Expert ${e}`);
      const count = route.load(layer())[e];
      foot.replaceChildren(
        strong,
        ` takes ${thousands(count)} of ${thousands(route.counted)} tokens in layer ${layerName(layer())}, ${thousands(firsts)} of them first: ` +
          `${sharePercent(shareOf(e))} of the choices${SIDE[against(shareOf(e), route.band)]}.`,
      );
      return;
    }
    const i = token();
    const at = pointed?.[0] ?? layer();
    const all = choices(route, at, i);
    const exact = at === layer() ? known(i) : null;
    const weight = (j) => (exact?.weights ? number(exact.weights[j], true) : `about ${number(all[j].weight, false)}`);
    const parts = [quoted(nameOf(route, i)), ` (token ${thousands(i)}) goes in layer ${layerName(at)} to `, make("strong", "", `expert ${all[0].expert}`), ` (weight ${weight(0)})`];
    if (all.length > 1) parts.push(` and to ${listed(all.slice(1).map((each) => each.expert))}`);
    parts.push(".");
    foot.replaceChildren(...parts);
  }

  const listed = (numbers) => (numbers.length < 2 ? numbers.join("") : `${numbers.slice(0, -1).join(", ")} and ${numbers.at(-1)}`);

  const known = (i) => (numbers?.of === `${context.version()} ${layer()} ${i}` ? numbers : null);

  /** The exact numbers of a token in the layer on show: asked for where they are not here. */
  function asked(i) {
    const place = { version: context.version(), trace: which, layer: layer(), token: i };
    return context.source().token(place, () => {
      if (token() === i) {
        drawToken();
        drawFoot();
      }
    });
  }

  /** The focus is another: everything that shows it. byStrip: the pointer is over the strip, which then stays put. */
  function follow(reveal, byStrip = false) {
    const i = token();
    const fixed = held() === i;
    const shown = pointed !== null || cursor !== null || linked !== null || held() !== null;
    text.focus(shown ? i : null, { held: fixed, follow: reveal || byStrip });
    strip.focus(pointed?.[0] ?? layer(), shown ? i : null, fixed, reveal);
    drawFoot();
    clearTimeout(askTimer);
    askTimer = setTimeout(drawPanel, ASK_AFTER);
    context.linked(which, pointed !== null || cursor !== null ? i : null);
  }

  function chip(l, each, more, room) {
    const slot = context.slot(l, each.expert);
    const box = make("span", `lk-rt-chip lk-rt-c${slot}`);
    const text_ = String(each.expert);
    // cut in half, a number would be another one
    if (each.part * room >= 7.5 * text_.length + 2) box.append(text_);
    else box.append(make("span", "lk-spoken", `expert ${text_}`));
    box.style.flexGrow = String(Math.max(0.04, each.part));
    box.title = `expert ${each.expert}: weight about ${number(each.weight, false)}`;
    box.append(make("span", "lk-spoken", ` weight about ${number(each.weight, false)}${more ? "," : ""}`));
    return box;
  }

  let drawnPath = "";
  function drawPath() {
    const i = token();
    const caption = held() === i ? "held" : pointed === null && cursor === null && linked === null ? "an example; point at any other token" : "";
    panelTitle.replaceChildren(quoted(nameOf(route, i)), make("span", "lk-muted lk-rt-unit", ` token ${thousands(i)}${caption ? `, ${caption}` : ""}`));
    const key = `${context.version()} ${i} ${layer()} ${context.colours()} ${path.clientWidth}`;
    if (drawnPath === key) return;
    drawnPath = key;
    const few = route.k === 1 ? "its expert" : `its ${route.k} experts, as wide as their weights`;
    pathTitle.textContent = `In each layer ${few}`;
    const room = Math.max(120, path.clientWidth - 44 - 3 * route.k);
    const rows = Array.from({ length: route.layers }, (_, l) => {
      const row = make("li", l === layer() ? "lk-rt-on" : "");
      const label = make("span", "lk-rt-pathlayer", String(layerName(l)));
      label.prepend(make("span", "lk-spoken", "layer "));
      const line = make("span", "lk-rt-chips");
      line.append(...choices(route, l, i).map((each, j) => chip(l, each, j < route.k - 1, room)));
      row.append(label, line);
      row.dataset.layer = String(l);
      return row;
    });
    path.replaceChildren(...rows);
    const row = rows[layer()];
    if (path.scrollHeight > path.clientHeight) path.scrollTop = row.offsetTop - path.clientHeight / 2;
  }
  path.addEventListener("click", (event) => {
    const row = /** @type {any} */ (event.target).closest?.("li");
    if (row) context.setLayer(Number(row.dataset.layer));
  });

  function drawPanel() {
    drawPath();
    drawToken();
    drawFoot();
  }

  function drawToken() {
    const i = token();
    const found = asked(i);
    const facts = context.facts();
    probability.heading.textContent = `Router probability in layer ${layerName(layer())} `;
    if (found === null) return; // still on its way: what is there stays
    probabilityNote.hidden = false;
    const all = choices(route, layer(), i);
    const chosen = new Set(all.map((each) => each.expert));
    if (found === undefined) {
      numbers = null;
      probability.element.hidden = true;
      probabilityNote.textContent = `This file holds the probabilities of the first ${thousands(facts.with_probabilities[which])} tokens only; the weights are of all.`;
    } else {
      numbers = { ...found, of: `${context.version()} ${layer()} ${i}` };
      probability.element.hidden = false;
      const { probabilities } = found;
      probability.draw({
        order: inOrder(route.load(layer()), context.order()),
        share: (e) => probabilities[e],
        slot: (e) => (chosen.has(e) ? (slotHere(e) === NO_COLOUR ? "chosen" : slotHere(e)) : NO_COLOUR),
        line: facts.router === "sigmoid" ? null : { value: 1 / route.experts, title: "uniform" },
        band: null,
        marked: (e) => chosen.has(e),
        say: () => "",
        summary: all.map((each) => `expert ${each.expert} ${number(probabilities[each.expert], found.exact)}`).join(", "),
      });
      drawReading();
    }
    const columns = ["Expert", "Weight", "Router probability"];
    const rows = all.map((each, j) => [
      make("span", `lk-rt-chip lk-rt-c${slotHere(each.expert)}`, String(each.expert)),
      found?.weights ? number(found.weights[j], true) : `about ${number(each.weight, false)}`,
      found ? `${found.exact ? "" : "about "}${number(found.probabilities[each.expert], found.exact)}` : "not in this file",
    ]);
    chosenTable.replaceChildren(table({ columns, rows }));
  }

  function drawReading() {
    if (numbers === null) return;
    const facts = context.facts();
    if (readAt !== null) {
      const value = numbers.probabilities[readAt];
      probabilityNote.textContent = `expert ${readAt}: ${numbers.exact ? "" : "about "}${number(value, numbers.exact)}`;
      return;
    }
    const parts = [facts.router === "sigmoid" ? "Each expert's own: they don't sum to 1." : ""];
    if (!facts.alone) parts.push("A balancing bias or groups of experts have a say in the choice, so that the chosen need not be the most probable.");
    probabilityNote.textContent = parts.filter(Boolean).join(" ") || "Filled: the chosen ones. Point at a bar for its number.";
  }
  probability.list.addEventListener("pointermove", (event) => {
    readAt = probability.expertAt(event);
    drawReading();
  });
  probability.list.addEventListener("pointerleave", () => {
    readAt = null;
    drawReading();
  });

  function say(ofExpert = false) {
    said.say(() => {
      const e = expert();
      if (ofExpert && e !== null) return `${sayLoad(e)}${context.heldExpert() === e ? ", held" : ""}`;
      const i = token();
      const all = choices(route, layer(), i);
      return (
        `${spokenLabel(nameOf(route, i), 40)}, token ${i}, layer ${layerName(layer())}: ` +
        `${all.map((each) => `expert ${each.expert}, weight about ${number(each.weight, false)}`).join("; ")}${held() === i ? "; held" : ""}`
      );
    });
  }

  return {
    element,
    fill,
    paint,
    shine,
    /** The same token of the other pane is in focus; null: none is. */
    link(i) {
      if (linked === i || (i !== null && i >= route.n)) return;
      linked = i;
      if (pointed === null && cursor === null) follow(false);
    },
    resize() {
      strip.resize(left.clientWidth);
      text.frame();
      drawStripNote();
      drawPath();
      chart.resize();
      probability.resize();
    },
    heldChanged() {
      if (held() !== null) cursor = held();
      follow(false);
    },
    close() {
      said.close();
      clearTimeout(askTimer);
    },
  };
}
