// What the map knows of all heads: their thumbnails and measures as far as they have come, their order, which one is in focus.

import { floatsOf } from "../kit/codes.js";
import { arranged, decodeMap, mapLayout, sayMeasure } from "./logic.js";

const GIVEN = "given:"; // what the names of measures that were handed in begin with

/** @type {(value: number) => boolean} */
const known = (value) => !Number.isNaN(value);

export class HeadMap {
  /** Slots, from above to below: the one the keyboard is on, and the one under the pointer. @type {number | null} */
  cursor = null;
  /** @type {number | null} */
  pointed = null;
  /** Slot → place, layer's place in the list × heads + head. @type {number[]} */
  order = [];

  /** @param {import("./shared.js").Shared} shared */
  constructor(shared) {
    const { layers, heads, measures } = shared.facts;
    this.shared = shared;
    this.count = layers.length * heads;
    const extra = shared.view.get("extra");
    const given = measures.filter(({ name }) => name.startsWith(GIVEN));
    /** Measures handed in, by name. */
    this.extra = new Map(given.map(({ name }, i) => [name, floatsOf(extra, this.count, 4 * i * this.count)]));
    this.decoded = this.#decode();
    this.layout = this.#measure(0);
  }

  /** Parts of the map have come, or what it shows is another. @param {number} width */
  read(width) {
    this.decoded = this.#decode();
    this.resize(width);
  }

  /** @param {number} width */
  resize(width) {
    this.layout = this.#measure(width);
    this.order = arranged(this.count, this.shared.view.get("order"), this.values());
  }

  #decode() {
    const { facts, parts, view } = this.shared;
    const names = facts.measures.map(({ name }) => name).filter((name) => !name.startsWith(GIVEN));
    const shape = { layers: facts.layers.length, heads: facts.heads, names, aside: this.aside };
    return decodeMap(parts.map((name) => view.get(name)), shape);
  }

  /** @param {number} width */
  #measure(width) {
    const { layers, heads, kv_heads: kvHeads } = this.shared.facts;
    return mapLayout({ layers: layers.length, heads, kvHeads, width, order: this.shared.view.get("order") });
  }

  /** Whether the map is that without the first token; a file has the whole one alone. */
  get aside() {
    return !this.shared.view.exported && this.shared.view.get("aside");
  }

  get whole() {
    return this.decoded.done === this.shared.facts.layers.length;
  }

  /** The measure of choice. */
  get measure() {
    return this.shared.facts.measures.find(({ name }) => name === this.shared.view.get("measure"));
  }

  /** Its value where a head looks evenly; not known where the first token is set aside. */
  get even() {
    return this.aside ? null : (this.measure?.uniform ?? null);
  }

  /** A measure by place, NaN where it is not known; undefined where there is none of that name. @returns {Float32Array | undefined} */
  values(name = this.shared.view.get("measure")) {
    return this.extra.get(name) ?? this.decoded.measures.get(name);
  }

  /** The values of the measure of choice that are known. */
  get finite() {
    return [...(this.values() ?? [])].filter(known);
  }

  /** The measures that tell something of this text, and those that may. */
  get offered() {
    const { facts, view } = this.shared;
    return facts.measures.filter(({ name }) => !this.whole || this.values(name)?.some(known) || name === view.get("measure"));
  }

  /** [layer, head] of a place. @type {(place: number) => [number, number]} */
  headOf(place) {
    const { layers, heads } = this.shared.facts;
    return [layers[Math.floor(place / heads)], place % heads];
  }

  /** The slot of a head; -1 where it is not on the map. @type {(layer: number, head: number) => number} */
  slotOf(layer, head) {
    const { layers, heads } = this.shared.facts;
    return this.order.indexOf(layers.indexOf(layer) * heads + head);
  }

  /** The upper left corner of a slot's thumbnail in CSS pixels. @param {number} slot */
  corner(slot) {
    const { x, columns, rowPitch } = this.layout;
    return { x: x(slot % columns), y: Math.floor(slot / columns) * rowPitch };
  }

  /** Whether a head can be shown. @type {(layer: number, head: number) => boolean} */
  there(layer, head) {
    return this.shared.heads(0, layer).includes(head);
  }

  /** What the bars show, in sentences. */
  legend() {
    const { measure, finite, even } = this;
    if (this.shared.facts.tokens[0] === 1) return "One token can only look at itself: there is nothing to measure.";
    if (!measure || finite.length === 0) return measure && this.whole ? `${measure.title}: not defined for this text.` : "";
    const said = [`Bar: ${measure.title}, up to ${sayMeasure(Math.max(...finite), measure.unit)}.`];
    if (Math.min(...finite) < 0) said.push("Orange: below zero.");
    if (even !== null) said.push(`Looking evenly at everything would give ${sayMeasure(even, measure.unit)} (the tick).`);
    return said.join(" ");
  }

  /** What else is to be known about the map. */
  notes() {
    const { facts, view } = this.shared;
    const { done, rows } = this.decoded;
    const said = this.finite.length > 0 && facts.tokens[0] > 1 && this.measure?.text ? [this.measure.text] : [];
    if (facts.kv_heads < facts.heads && view.get("order") === "layers") said.push("Heads that share keys and values stand together.");
    if (done > 0 && rows < facts.tokens[0]) said.push(`From ${rows} of the ${facts.tokens[0]} rows, evenly spread.`);
    if (facts.layers.some((layer) => !this.there(layer, 0))) said.push("Pale heads are not in this file.");
    if (view.exported && view.get("aside")) said.push("The thumbnails show all weights, the first token's too.");
    return said.join(" ");
  }

  /** How far the map is; "" once it is whole. */
  progress() {
    const { state, message } = this.shared.view.get("map_status");
    if (state === "failed") return message;
    return this.whole ? "" : `Computing the map: ${this.decoded.done} of ${this.shared.facts.layers.length} layers …`;
  }

  /** What is said of a head in one line. @param {number} place */
  line(place) {
    const [layer, head] = this.headOf(place);
    const parts = [`layer ${layer} · head ${head}`];
    const [measure, values] = [this.measure, this.values()];
    if (measure && values) parts.push(`${measure.title} ${sayMeasure(values[place], measure.unit)}`);
    /** @type {[string, (value: number) => string][]} */
    const others = [
      ["distance", (value) => `looks ${value.toFixed(1)} tokens back`],
      ["first", (value) => `${Math.round(100 * value)} % on the first token`],
      ["induction", (value) => `induction ${sayMeasure(value, "share")}`],
    ];
    for (const [name, say] of others) {
      const value = this.decoded.measures.get(name)?.[place] ?? NaN;
      if (name !== measure?.name && known(value)) parts.push(say(value));
    }
    if (this.shared.marked(layer, head)) parts.push("marked");
    if (!this.there(layer, head)) parts.push("not in this file");
    return parts.join(" · ");
  }
}
