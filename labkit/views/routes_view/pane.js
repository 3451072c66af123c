// One trace: its text, all its layers, the loads of the layer on show, and the token in focus.

import { aloud } from "../kit/aloud.js";
import { box, counted, make, sayOrHide } from "../kit/common.js";
import { loadChart } from "./loads.js";
import { Focus } from "./state.js";
import { layerStrip } from "./strip.js";
import { routesText } from "./text.js";
import { tokenPanel } from "./token_panel.js";
import { cutNote, expertSentence, loadWords, spokenToken, tokenSentence } from "./words.js";

const ASK_AFTER = 60; // ms; for a pointer on its way the panel is not drawn, and the kernel not asked
const FEW_EXPERTS = 64;
const FEW_TOKENS = 60; // up to which the text leaves no room beside it for the token's panel

/**
 * Returns {element, fill(), paint(), shine(), link(token), heldChanged(), resize()}. fill: the trace is another; paint: the layer,
 * the colours or the order are; shine: another expert's tokens are lit; link: a token of the other pane is in focus.
 * @param {import("./state.js").Shared} shared
 * @param {number} which
 */
export function routesPane(shared, which) {
  const { view } = shared;
  const focus = new Focus(shared, which);
  const id = (/** @type {string} */ name) => view.id(`${which}-${name}`);
  const said = aloud(view);
  const soon = view.later(ASK_AFTER);

  // ------------------------------------------------------------------------------------------------ what is in focus

  const moves = {
    /** A key leads to a place. @param {import("./logic.js").Place} to */
    move({ layer, token }) {
      focus.pointed = null;
      focus.cursor = token;
      if (focus.held !== null && focus.held !== token) focus.hold(null);
      if (layer !== shared.layer) shared.layer = layer;
      follow(true);
      say();
    },
    /** Escape; whether there was something to let go. */
    leave() {
      const something = focus.held !== null || focus.cursor !== null || shared.heldExpert !== null;
      focus.pointed = focus.cursor = null;
      focus.hold(null);
      shared.holdExpert(null);
      follow(false);
      return something;
    },
  };

  /** @param {number} token */
  function hold(token) {
    focus.cursor = token;
    focus.hold(focus.held === token ? null : token);
    follow(false);
    say();
  }

  const text = routesText(focus, id("token"), {
    ...moves,
    point(token) {
      if ((focus.pointed?.token ?? null) === token) return;
      focus.pointed = token === null ? null : { layer: shared.layer, token };
      follow(false);
    },
    choose: hold,
  });
  const strip = layerStrip(focus, {
    ...moves,
    point(place) {
      if (place?.layer === focus.pointed?.layer && place?.token === focus.pointed?.token) return;
      focus.pointed = place;
      follow(false, true);
    },
    choose({ layer, token }, byKey) {
      const other = layer !== shared.layer;
      if (other) shared.layer = layer;
      if (!other || byKey || focus.held !== token) hold(token);
    },
  });
  const loads = loadChart(focus, id("bar"), sayExpert);
  const panel = tokenPanel(focus, id("probability"), drawFoot);

  // -------------------------------------------------------------------------------------------------------- drawing

  const name = make("h2", "lk-rt-name");
  const head = box("lk-rt-panehead", name);
  const foot = make("p", "lk-foot");
  const note = make("p", "lk-muted lk-small lk-rt-cut");
  const stripTitle = make("h2", "", "All layers ");
  const stripNote = make("span", "lk-muted lk-small");
  stripTitle.append(stripNote);
  const left = box("lk-rt-left", text.element, foot, note, stripTitle, strip.element);
  const right = box("lk-rt-right", loads.element, panel.element);
  const element = make("section", "lk-rt-pane lk-split");
  element.append(head, left, right, said.element);

  function fill() {
    const { names, tokens } = shared.facts;
    const { route } = focus;
    focus.pointed = focus.cursor = focus.linked = null;
    head.hidden = tokens.length < 2;
    name.replaceChildren(`${names[which]} `, make("span", "lk-muted", counted(tokens[which], "token")));
    element.setAttribute("aria-label", tokens.length < 2 ? "Routes" : names[which]);
    arrange(route.experts > FEW_EXPERTS, route.n <= FEW_TOKENS || tokens.length > 1);
    text.fill();
    strip.fill();
    sayOrHide(note, cutNote(route));
    focus.example = shared.example(which);
    paint();
    panel.draw(); // at once: a printed page, too, has it
  }

  /** Many experts' bars, and the panel of a short text's token, have the whole width.
   * @type {(many: boolean, low: boolean) => void} */
  function arrange(many, low) {
    element.classList.toggle("lk-rt-many", many);
    element.classList.toggle("lk-rt-low", low);
    if (many) said.element.before(loads.element);
    else right.prepend(loads.element);
    if (low) said.element.before(panel.element);
    else right.append(panel.element);
  }

  function paint() {
    text.paint();
    drawStripNote();
    loads.draw();
    strip.paint();
    text.light();
    follow(false);
  }

  function drawStripNote() {
    const parts = ["the first expert of each token, a row for each layer"];
    if (shared.facts.same) parts.push("at its end how many tokens choose otherwise");
    if (strip.scrolls()) parts.push("longer than its box: scroll it sideways");
    stripNote.textContent = parts.join("; ");
  }

  /** The focus is another: everything that shows it. byStrip: the pointer is over the strip, which then stays put. */
  function follow(/** @type {boolean} */ reveal, byStrip = false) {
    text.focus(focus.chosen, { held: focus.held === focus.token, follow: reveal || byStrip });
    strip.place(reveal);
    drawFoot();
    soon(() => {
      panel.draw();
      drawFoot();
    });
    shared.link(which, focus.pointed?.token ?? focus.cursor);
  }

  function drawFoot() {
    const { lit } = focus;
    const { expert } = shared;
    foot.replaceChildren(...(expert !== null && lit && !focus.pointed ? expertSentence(focus, expert, lit) : tokenSentence(focus)));
  }

  function say() {
    said.say(() => spokenToken(focus));
  }

  function sayExpert() {
    said.say(() => {
      const { expert, heldExpert } = shared;
      return expert === null ? spokenToken(focus) : `${loadWords(focus, expert)}${expert === heldExpert ? ", held" : ""}`;
    });
  }

  return {
    element,
    fill,
    paint,
    shine() {
      text.light();
      strip.light();
      loads.mark();
      drawFoot();
    },
    /** @param {number | null} token */
    link(token) {
      if (focus.linked === token || (token !== null && token >= focus.route.n)) return;
      focus.linked = token;
      if (focus.pointed === null && focus.cursor === null) follow(false);
    },
    heldChanged() {
      if (focus.held !== null) focus.cursor = focus.held;
      follow(false);
    },
    resize() {
      strip.resize(left.clientWidth);
      text.frame();
      drawStripNote();
      panel.drawPath();
      loads.resize();
      panel.resize();
    },
  };
}
