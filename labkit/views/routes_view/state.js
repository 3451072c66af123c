// What the panes share: the traces on show, which experts have a colour, which token and which expert is in focus.

import { Codes } from "../kit/codes.js";
import { NO_COLOUR, changedTokens, colouredExperts, decodeRoutes, exampleToken, firstChoices, tokensOf } from "./logic.js";
import { heldRoutes, liveRoutes } from "./source.js";

/** @typedef {import("./logic.js").Route} Route */
/** @typedef {import("./logic.js").Place} Place */

export class Shared {
  /** @type {Route[]} */
  routes = [];
  /** By layer and token, 1 or 2 where the second trace chooses otherwise; null where the traces aren't of the same ids.
   * @type {Uint8Array[] | null} */
  changes = null;
  /** By layer, the experts that have the colours. @type {number[][]} */
  slots = [];
  /** The expert whose bar is pointed at, and the one that is held. @type {number | null} */
  pointedExpert = null;
  /** @type {number | null} */
  heldExpert = null;
  /** Called when another expert's tokens are to be lit, and when another token of a text that both traces have is in focus.
   * @type {() => void} */
  shine = () => {};
  /** @type {(from: number, token: number | null) => void} */
  link = () => {};

  /** @param {import("../kit/mount.js").Mounted} view */
  constructor(view) {
    const { palette, others, levels } = view.get("constants");
    this.view = view;
    /** Colours on light paper and on dark. @type {[string, string][]} */
    this.palette = palette;
    /** Of those without a colour of their own. @type {[string, string]} */
    this.others = others;
    this.codes = new Codes(levels);
    /** @type {import("./logic.js").Facts} */
    this.facts = view.get("facts");
    this.source = view.exported ? heldRoutes(view.get("probabilities"), this.codes, this.facts) : liveRoutes(view.wire);
  }

  /** The traces are others. */
  read() {
    const { view } = this;
    this.heldExpert = this.pointedExpert = null;
    this.facts = view.get("facts");
    this.routes = decodeRoutes(this.codes, this.facts, view.get("texts"), view.get("experts"), view.get("weights"), view.get("load"));
    const [first, second] = this.routes;
    this.changes = this.facts.same ? this.facts.layers.map((_, layer) => changedTokens(first, second, layer)) : null;
    this.readColours();
  }

  readColours() {
    const picked = this.view.get("picked");
    this.slots = this.facts.layers.map((name, layer) => {
      const [first, ...others] = this.routes.map((route) => firstChoices(route, layer));
      const firsts = first.map((count, expert) => others.reduce((sum, other) => sum + other[expert], count));
      return colouredExperts(firsts, this.palette.length, picked[String(name)], this.slots[layer]);
    });
  }

  /** The layer on show, its place among the routed ones. */
  get layer() {
    return Math.max(0, this.facts.layers.indexOf(this.view.get("layer")));
  }

  set layer(place) {
    this.view.set("layer", this.facts.layers[place]);
  }

  /** What the layer on show is called. */
  get name() {
    return this.facts.layers[this.layer];
  }

  /** Which of the colours an expert has. @type {(layer: number, expert: number) => number} */
  slot(layer, expert) {
    return this.slots[layer].indexOf(expert);
  }

  /** The token of a trace that is held, or null. @param {number} which */
  held(which) {
    const [trace, token] = this.view.get("held");
    return trace === which || (this.facts.same && trace !== undefined) ? token : null;
  }

  /** The expert whose tokens are lit, in every trace. */
  get expert() {
    return this.pointedExpert ?? this.heldExpert;
  }

  /** @param {number | null} expert */
  pointExpert(expert) {
    if (this.pointedExpert === expert) return;
    this.pointedExpert = expert;
    this.shine();
  }

  /** @param {number | null} expert */
  holdExpert(expert) {
    if (this.heldExpert === expert) return;
    this.heldExpert = expert;
    this.shine();
  }

  /** An expert's bar was clicked: hold it or let it go, and give it a colour where it has none. @param {number} expert */
  chooseExpert(expert) {
    if (this.heldExpert === expert || this.slot(this.layer, expert) !== NO_COLOUR) {
      this.holdExpert(this.heldExpert === expert ? null : expert);
      return;
    }
    this.heldExpert = expert;
    const all = this.view.get("picked");
    const before = (all[String(this.name)] ?? []).filter((/** @type {number} */ each) => each !== expert);
    this.view.set("picked", { ...all, [String(this.name)]: [...before, expert].slice(-this.palette.length) });
  }

  /** The token to show while none is pointed at; of a text traced twice, one that chooses otherwise. @param {number} which */
  example(which) {
    const first = this.changes?.[this.layer].findIndex((mark) => mark > 0) ?? -1;
    return first >= 0 ? first : exampleToken(this.routes[this.changes ? 0 : which], this.layer);
  }
}

/** One trace's pane: its route, and which token of it is in focus. */
export class Focus {
  /** Under the pointer; the strip points at other layers, too. @type {Place | null} */
  pointed = null;
  /** Reached by a key. @type {number | null} */
  cursor = null;
  /** In focus in the other pane. @type {number | null} */
  linked = null;
  /** Shown while there is none. */
  example = 0;

  /** @param {Shared} shared @param {number} which */
  constructor(shared, which) {
    this.shared = shared;
    this.which = which;
  }

  get route() {
    return this.shared.routes[this.which];
  }

  get held() {
    return this.shared.held(this.which);
  }

  /** The token in focus, or null. */
  get chosen() {
    return this.pointed?.token ?? this.held ?? this.linked ?? this.cursor;
  }

  get token() {
    return this.chosen ?? this.example;
  }

  /** What the layer's tokens are lit by, or null: 2 where the expert in focus is the first choice. */
  get lit() {
    const { expert, layer } = this.shared;
    return expert === null ? null : tokensOf(this.route, layer, expert);
  }

  /** The question for the exact numbers of the token in focus. */
  get question() {
    return { version: this.shared.view.get("version"), trace: this.which, layer: this.shared.layer, token: this.token };
  }

  /** An expert's share of the choices in the layer on show. @param {number} expert */
  share(expert) {
    const { counted, k } = this.route;
    return counted > 0 ? this.route.load(this.shared.layer)[expert] / (counted * k) : 0;
  }

  /** @param {number | null} token */
  hold(token) {
    this.shared.view.set("held", token === null ? [] : [this.which, token]);
  }
}
