// What one pane shows of a head: which codes, which part of them, and which cell is pointed at. Places are in tokens.

import { aligned, isWhole, unitOf } from "./plane.js";
import { codeReader } from "./source.js";

export class Shown {
  trace = 0;
  codes = new Uint8Array(0);
  /** What the kernel says of the head. @type {Record<string, any>} */
  summary = {};
  /** The picture's measures (`layout`); null until it has a width. @type {Record<string, any> | null} */
  size = null;
  /** The whole plane and the window of it that is seen: {left, top, span}. */
  whole = { left: 0, top: 0, span: 1 };
  seen = this.whole;
  /** Where the keyboard or a click is, where the pointer is, and what another part of the view points at ({row} or a cell):
   * first tokens of a cell, {row, column}. @type {{row: number, column?: number} | null} */
  held = null;
  pointed = null;
  linked = null;
  /** Whether the window is on its way, so that no tiles are asked for. */
  moving = false;

  /** facts, texts: of the view; source: of numbers; redraw: called when a tile that was not here has come. */
  constructor({ facts, texts, source, redraw }) {
    this.facts = facts;
    this.texts = texts;
    this.source = source;
    this.redraw = redraw;
  }

  get tokens() {
    return this.facts.tokens[this.trace];
  }

  get pool() {
    return this.facts.pools[this.trace];
  }

  /** Cells along a side of the codes. */
  get cells() {
    return Math.ceil(this.tokens / this.pool);
  }

  get labels() {
    return this.texts[this.trace];
  }

  get full() {
    return isWhole(this.seen, this.whole);
  }

  devicePixels() {
    return Math.round(this.size.side * (globalThis.devicePixelRatio || 1));
  }

  /** Tokens along a side of the cells that are drawn and pointed at. */
  unit() {
    return this.full ? this.pool : unitOf(this.seen, this.pool, this.devicePixels());
  }

  /** The question for anything about this head. */
  place() {
    const { layer, head, aside } = this.summary;
    return { trace: this.trace, layer, head, aside: Boolean(aside) };
  }

  tile(unit, row, column, asking = true) {
    return this.source.tile({ ...this.place(), pool: unit, row, column }, this.redraw, asking);
  }

  /** The code of a cell, read at a unit. */
  reader(unit = this.unit()) {
    return codeReader(this.codes, this.pool, unit, unit < this.pool ? (row, column) => this.tile(unit, row, column) : null);
  }

  /** The text of a cell's tokens along one side. */
  label(token, unit) {
    if (unit === 1) return this.labels[token];
    return this.labels.slice(token, token + unit).join("").slice(0, 80);
  }

  last(token, unit) {
    return Math.min(this.tokens, token + unit) - 1;
  }

  /** What was chosen among other cells, before a zoom or in the text, is the cell of now that it lies in. */
  cell(at) {
    return at === null ? null : aligned(at, this.unit());
  }

  /** The middle of a cell's side in CSS pixels, from where the window starts. */
  middleOf(token, unit, start) {
    return ((token + unit / 2 - start) * this.size.side) / this.seen.span;
  }

  /** Whether the diagonal is in sight where a column begins. */
  onDiagonal(token, unit) {
    const middle = token + unit / 2;
    return middle >= this.seen.top && middle <= this.seen.top + this.seen.span;
  }
}
