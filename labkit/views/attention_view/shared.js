// What all panes of the attention view look up: its facts, where numbers come from, which heads there are, its colours.

import { stamp } from "../kit/canvas.js";
import { Codes } from "../kit/codes.js";
import { dots, palette } from "./logic.js";
import { fileSource, kernelSource } from "./source.js";

/** @typedef {{name: string, title: string, unit: string, text: string, uniform: number | null}} Measure */
/**
 * What attention_view/__init__.py says; names, tokens, pools: one for each trace.
 * @typedef {{model: string, names: string[], tokens: number[], pools: number[], layers: number[], heads: number, kv_heads: number,
 *   chosen: [number, number] | null, measures: Measure[], can_ablate: boolean, same_text: boolean}} Facts
 */

/** levels: of the codes; tile: cells along the side of one; parts: how many traits hold the map; orders, scales: what the map can
 * be sorted by, and the colour scales, with what they are called.
 * @typedef {{levels: number, tile: number, parts: number, orders: Record<string, string>, scales: Record<string, string>}} Constants */

export class Shared {
  /** In which colours what is on show was drawn. */
  #key = "";
  /** What was drawn in them, by its codes. @type {WeakMap<Uint8Array, Map<number, HTMLCanvasElement>>} */
  #pictures = new WeakMap();

  /** @param {import("../kit/mount.js").Mounted} view */
  constructor(view) {
    this.view = view;
    /** @type {Constants} */
    this.constants = view.get("constants");
    this.codes = new Codes(this.constants.levels);
    /** The traits that hold the map. */
    this.parts = Array.from({ length: this.constants.parts }, (_, i) => `map_${i}`);
    /** @type {Facts} */
    this.facts = view.get("facts");
    /** Of each trace, its tokens. @type {string[][]} */
    this.texts = view.get("texts");
    this.source = view.exported ? fileSource(view.model, this.facts, this.codes) : kernelSource(view.wire, view.get);
    /** RGBA of each code. */
    this.palette = palette(this.codes, false);
  }

  /** Read the colours of now; whether they are others than before. */
  recolour() {
    const { theme, root, get } = this.view;
    theme.read();
    const key = `${theme.dark()} ${get("scale")}`;
    if (!root.isConnected || key === this.#key) return false;
    this.#key = key;
    this.palette = palette(this.codes, theme.dark(), get("scale"));
    this.#pictures = new WeakMap();
    return true;
  }

  /** What codes look like in these colours, made once; as: what else it hangs on.
   * @type {(codes: Uint8Array, as: number, make: (palette: Uint8ClampedArray) => HTMLCanvasElement) => HTMLCanvasElement} */
  drawn(codes, as, make) {
    const kept = this.#pictures.get(codes) ?? new Map();
    const made = kept.get(as) ?? make(this.palette);
    this.#pictures.set(codes, kept.set(as, made));
    return made;
  }

  /** A pattern of n × n cells in colour, q × q of them to a dot. @type {(codes: Uint8Array, n: number, q?: number) => HTMLCanvasElement} */
  picture(codes, n, q = 1) {
    const m = Math.ceil(n / q);
    return this.drawn(codes, q, (palette) => stamp(dots(codes, n, q), m, m, palette));
  }

  /** The layers of a trace in which a head can be shown: all, or those that a file holds. @param {number} trace */
  layers(trace) {
    if (this.source.live) return this.facts.layers;
    return [...new Set(this.source.held.flatMap((each) => (each.trace === trace ? [each.layer] : [])))];
  }

  /** The heads of a layer that can be shown. @type {(trace: number, layer: number) => number[]} */
  heads(trace, layer) {
    if (this.source.live) return Array.from({ length: this.facts.heads }, (_, i) => i);
    return this.source.held.flatMap((each) => (each.trace === trace && each.layer === layer ? [each.head] : []));
  }

  /** [layer, head] that can be shown: those that are wanted, else the first there is; null: none of the trace.
   * @type {(trace: number, layer: number, head: number) => [number, number] | null} */
  nearest(trace, layer, head) {
    const layers = this.layers(trace);
    if (layers.length === 0) return null;
    const at = layers.includes(layer) ? layer : layers[0];
    const heads = this.heads(trace, at);
    return [at, heads.includes(head) ? head : heads[0]];
  }

  /** @type {(layer: number, head: number) => boolean} */
  marked(layer, head) {
    return this.view.get("marked").some((/** @type {number[]} */ each) => each[0] === layer && each[1] === head);
  }
}
