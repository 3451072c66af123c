// What one pane shows of a head: which codes, which part of them, and which cell is pointed at. Places are in tokens.

import { pixelRatio } from "../kit/canvas.js";
import { aligned, crowd, isWhole, unitOf } from "./plane.js";
import { codeReader } from "./source.js";

/** @typedef {import("../kit/keys.js").Cell} Cell */
/** @typedef {import("./plane.js").Place} Place */

/** @type {import("./logic.js").Layout} */
const NO_SIZE = { n: 0, cell: 0, side: 0, q: 1, m: 0, step: 1, gutter: 0, overhang: 0 };

export class Shown {
  /** Of the trace: which, its tokens as labels and how many, and how many of them a cell of the codes stands for. */
  trace = 0;
  /** @type {string[]} */
  labels = [];
  tokens = 0;
  pool = 1;
  codes = new Uint8Array(0);
  /** Cells along a side of the codes. */
  cells = 0;
  /** What the kernel says of the head (`read_head`). @type {import("./source.js").Summary} */
  summary = { trace: 0, layer: 0, head: 0, aside: false, links: [] };
  /** The picture's measures; of no size until it has a width. */
  size = NO_SIZE;
  /** The whole plane and the window of it that is seen. @type {import("./plane.js").Window} */
  whole = { left: 0, top: 0, span: 1 };
  seen = this.whole;
  /** Where the keyboard or a click is, and where the pointer is. @type {Cell | null} */
  held = null;
  /** @type {Cell | null} */
  pointed = null;
  /** What another part of the view points at. @type {Place | null} */
  linked = null;
  /** Whether the window is on its way, so that no tiles are asked for. */
  moving = false;

  /** redraw: called when a tile that was not here has come.
   * @param {import("./shared.js").Shared} shared @param {() => void} redraw */
  constructor(shared, redraw) {
    this.shared = shared;
    this.redraw = redraw;
  }

  /** Another head is shown. @param {{codes: Uint8Array, summary: import("./source.js").Summary}} head */
  show({ codes, summary }) {
    const { facts, texts } = this.shared;
    const { trace } = summary;
    Object.assign(this, { trace, codes, summary, labels: texts[trace], tokens: facts.tokens[trace], pool: facts.pools[trace] });
    this.cells = Math.ceil(this.tokens / this.pool);
  }

  /** The cell, or the row, that is shown as pointed at. */
  get focus() {
    return this.pointed ?? this.held ?? this.linked;
  }

  /** Whether the picture has a size yet. */
  get sized() {
    return this.size !== NO_SIZE;
  }

  get full() {
    return isWhole(this.seen, this.whole);
  }

  devicePixels() {
    return Math.round(this.size.side * pixelRatio());
  }

  /** Tokens along a side of the cells that are drawn and pointed at. */
  unit() {
    return this.full ? this.pool : unitOf(this.seen, this.pool, this.devicePixels());
  }

  /** Cells that share a dot, along a side. */
  crowd() {
    if (this.unit() < this.pool) return 1;
    return this.full ? this.size.q : crowd(this.seen, this.pool, this.devicePixels());
  }

  /** The question for anything about this head. */
  place() {
    const { layer, head, aside } = this.summary;
    return { trace: this.trace, layer, head, aside: Boolean(aside) };
  }

  /** @type {(unit: number, row: number, column: number, asking?: boolean) => import("./source.js").Tile | null} */
  tile(unit, row, column, asking = true) {
    return this.shared.source.tile({ ...this.place(), pool: unit, row, column }, this.redraw, asking);
  }

  /** The code of a cell, read at a unit. */
  reader(unit = this.unit()) {
    return codeReader(this.codes, this.pool, unit, this.shared.constants.tile, (row, column) => this.tile(unit, row, column));
  }

  /** The text of a cell's tokens along one side. @type {(token: number, unit: number) => string} */
  label(token, unit) {
    if (unit === 1) return this.labels[token];
    return this.labels.slice(token, token + unit).join("").slice(0, 80);
  }

  /** What was chosen among other cells, before a zoom or in the text, is the cell of now that it lies in.
   * @type {<At extends Place>(at: At | null) => At | null} */
  cell(at) {
    return at === null ? null : aligned(at, this.unit());
  }

  /** The middle of a cell's side in CSS pixels, from where the window starts.
   * @type {(token: number, unit: number, start: number) => number} */
  middleOf(token, unit, start) {
    return ((token + unit / 2 - start) * this.size.side) / this.seen.span;
  }

  /** Where a column ends in CSS pixels, from the left of the window. @type {(token: number, unit: number) => number} */
  endOf(token, unit) {
    return ((token + unit - this.seen.left) * this.size.side) / this.seen.span;
  }

  /** Whether the diagonal is in sight where a column begins. @type {(token: number, unit: number) => boolean} */
  onDiagonal(token, unit) {
    const middle = token + unit / 2;
    return middle >= this.seen.top && middle <= this.seen.top + this.seen.span;
  }
}
