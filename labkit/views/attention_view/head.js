// One head in full: the pattern on a canvas that zooms and pans, its labels, and what is under the pointer.

import { pixelRatio } from "../kit/canvas.js";
import { box, make, pixels, unread } from "../kit/common.js";
import { button } from "../kit/controls.js";
import { pictureGrid } from "../kit/grid.js";
import { footLine } from "./foot.js";
import { ROW_GAP, drawChips, drawLabels, labelWidths } from "./labels.js";
import { cellAfterKey, cellCount, layout, saySharing } from "./logic.js";
import { OVERVIEW, painter } from "./paint.js";
import { aligned, cellUnder, revealing, wholePlane, zoomed } from "./plane.js";
import { Shown } from "./shown.js";
import { ZOOM_STEP, zoomWindow } from "./zoom.js";

/** @typedef {import("../kit/keys.js").Cell} Cell */
/** @typedef {import("./plane.js").Place} Place */

/**
 * which: 0 for the shown head, 1 for the one beside it. point(which, cell) tells which cell is under the pointer or the keyboard.
 * Returns {element, grid, shown, receive({codes, summary}), resize(), recolour(), link(place), drawMark()}.
 * @param {import("./shared.js").Shared} shared
 * @param {number} which
 * @param {{point: (which: number, cell: Cell | null) => void, mark: (layer: number, head: number) => void, leave: () => void}} actions
 */
export function headPane(shared, which, actions) {
  const { view, facts } = shared;
  const shown = new Shown(shared, redraw);
  const paint = painter(shown);
  const foot = footLine(shown);
  const zoom = zoomWindow(shown, redraw);
  let width = 0;
  let frame = 0;

  const grid = pictureGrid("lk-att-grid", {
    at: (x, y) => (zoom.dragged() ? null : under(x, y)),
    point,
    choose(cell) {
      if (!zoom.dragged()) hold(cell);
    },
    key: keyDown,
    also: (event) => isPlus(event) && event.shiftKey && !event.ctrlKey && !event.metaKey,
  });
  const fit = button("Fit", "Fit: show the whole pattern", () => zoom.set(shown.whole));
  const closer = button("+", "Zoom in", () => zoom.by(ZOOM_STEP));
  const farther = button("−", "Zoom out", () => zoom.by(1 / ZOOM_STEP));
  const markButton = button("Mark", "", () => actions.mark(shown.summary.layer, shown.summary.head));
  const parts = elements(view.id(`reading-${which}`), grid, [farther, closer, fit, markButton]);
  const { base, over, reading, plot, rowLabels, columnLabels, overview } = parts;
  const element = box("lk-att-figure", parts.titleBar, reading, plot, foot.element, foot.spoken);
  zoom.listen(grid, overview);

  // ------------------------------------------------------------------------------------------------ what is shown

  /** @param {{codes: Uint8Array, summary: import("./source.js").Summary}} found */
  function receive({ codes, summary }) {
    const { trace, layer, head } = summary;
    const changed = trace !== shown.trace || !shown.sized;
    shown.show({ codes, summary });
    if (cellCount(codes.length) !== shown.cells) throw new RangeError(`${codes.length} bytes for ${shown.cells} cells`);
    parts.title.textContent = `${facts.tokens.length > 1 ? `${facts.names[trace]}: ` : ""}layer ${layer} · head ${head}`;
    parts.title.append(" ", make("span", "lk-att-shares lk-muted", saySharing(head, facts.heads, facts.kv_heads)));
    grid.setAttribute(
      "aria-label",
      `Attention pattern, layer ${layer}, head ${head}: arrow keys move from cell to cell, Home and End to ` +
        "the ends of a row, plus and minus zoom, 0 shows all, Escape leaves",
    );
    if (changed) {
      shown.held = shown.pointed = null;
      if (width > 0) measure();
    }
    redraw();
    drawMark();
    drawPlace();
  }

  function measure() {
    const was = !shown.sized || shown.full ? null : shown.seen;
    const size = layout(shown.cells, { width, dpr: pixelRatio(), ...labelWidths(shown, element, width) });
    shown.size = size;
    shown.whole = wholePlane(size, shown.pool);
    shown.seen = was === null ? shown.whole : zoomed(was, shown.whole, 1);
    base.width = base.height = shown.devicePixels();
    pixels(grid, { width: size.side, height: size.side, left: size.gutter });
    pixels(columnLabels, { left: size.gutter });
    pixels(rowLabels, { width: size.gutter - ROW_GAP });
    pixels(plot, { width: Math.ceil(size.gutter + size.side + size.overhang) });
    pixels(overview, { left: size.gutter + size.side - OVERVIEW - 6 });
  }

  function redraw() {
    if (frame || !shown.sized) return;
    frame = requestAnimationFrame(() => {
      frame = 0;
      draw();
    });
  }

  function draw() {
    if (!shown.sized || shown.codes.length === 0) return;
    const { q, u } = paint.pattern(base);
    reading.textContent =
      "Each row is a token; the shade shows how much it looks at each token up to itself." +
      (shown.summary.aside ? " The first token is set aside: what goes to others is scaled to 100 %." : "") +
      (u > 1 ? ` A cell is ${u} × ${u} tokens and shows their highest weight.` : "") +
      (q > 1 ? ` At this size a dot shows the highest weight of ${q} × ${q} cells.` : "");
    for (const each of [fit, farther]) each.setAttribute("aria-disabled", String(shown.full)); // disabled, it would lose the focus
    grid.classList.toggle("lk-att-zoomed", !shown.full);
    drawLabels(shown, parts);
    paint.overview(overview);
    drawPlace();
  }

  // ------------------------------------------------------------------------------------------ the cell under the pointer

  function drawPlace() {
    if (shown.sized) {
      const at = shown.cell(shown.focus);
      paint.cross(over, at);
      drawChips(shown, parts, at);
    }
    foot.draw();
    foot.ask();
  }

  function tell() {
    drawPlace();
    actions.point(which, shown.cell(shown.pointed ?? shown.held));
  }

  /** @param {Cell | null} cell */
  function point(cell) {
    if (cell?.row === shown.pointed?.row && cell?.column === shown.pointed?.column) return;
    shown.pointed = cell;
    tell();
  }

  /** @param {Cell | null} cell */
  function hold(cell) {
    shown.held = cell;
    tell();
    foot.saySoon();
  }

  /** The cell under a point; null outside of the half that is drawn. @type {(x: number, y: number) => Cell | null} */
  function under(x, y) {
    const u = shown.unit();
    return cellUnder(shown.seen, shown.size.side, shown.tokens, u, shown.crowd(), shown.reader(u), x, y);
  }

  /** @param {KeyboardEvent} event */
  function keyDown(event) {
    if (event.key === "Escape") {
      if (shown.pointed === null && shown.held === null) {
        if (shown.full) actions.leave();
        else zoom.set(shown.whole);
      }
      shown.pointed = null;
      hold(null);
    } else if (isPlus(event) || event.key === "-") zoom.by(isPlus(event) ? ZOOM_STEP : 1 / ZOOM_STEP);
    else if (event.key === "0") zoom.set(shown.whole);
    else return moveBy(event.key);
    return true;
  }

  /** Move the held cell as a key says; whether the key says anything. @param {string} key */
  function moveBy(key) {
    const u = shown.unit();
    const now = shown.pointed ?? shown.held;
    const link = shown.summary.links[0];
    const start = aligned(now ?? (link ? { row: link.query, column: link.key } : { row: 0, column: 0 }), u);
    const cell = { row: start.row / u, column: start.column / u };
    const target = now === null && key.startsWith("Arrow") ? cell : cellAfterKey(key, cell, Math.ceil(shown.tokens / u));
    if (target === null) return false;
    const at = { row: target.row * u, column: target.column * u };
    shown.pointed = null;
    if (!shown.full) zoom.set(revealing(shown.seen, shown.whole, at, u));
    hold(at);
    return true;
  }

  function drawMark() {
    const on = shared.marked(shown.summary.layer, shown.summary.head);
    markButton.textContent = on ? "Marked" : "Mark";
    markButton.setAttribute("aria-pressed", String(on));
  }

  view.atEnd(() => cancelAnimationFrame(frame));
  return {
    element,
    grid,
    shown,
    receive,
    drawMark,
    resize() {
      const now = Math.ceil(element.getBoundingClientRect().width);
      if (now === width || now === 0) return;
      width = now;
      if (shown.codes.length === 0) return;
      measure();
      draw();
    },
    recolour: draw,
    /** Point at a cell from elsewhere, or at a row; null to stop. @param {Place | null} place */
    link(place) {
      shown.linked = place;
      if (shown.sized && shown.pointed === null && shown.held === null) drawPlace();
    },
  };
}

/** @param {KeyboardEvent} event */
const isPlus = ({ key }) => key === "+" || key === "=";

/** What the pane consists of; reading says what the picture shows.
 * @param {string} readingId @param {HTMLElement} grid @param {HTMLElement[]} tools */
function elements(readingId, grid, tools) {
  const title = make("h2", "lk-att-title");
  const titleBar = box("lk-controls lk-att-titlebar", title, box("lk-controls lk-att-tools", ...tools));
  const reading = make("p", "lk-att-reading lk-muted");
  reading.id = readingId;
  const [rowLabels, columnLabels] = [make("div", "lk-att-rows"), make("div", "lk-att-columns")];
  const [base, over, overview] = ["base", "over", "overview"].map((name) => make("canvas", `lk-att-${name}`));
  const [rowChip, columnChip] = ["row", "column"].map((name) => make("span", `lk-att-chip lk-att-${name}-chip`));
  unread(rowLabels, columnLabels, rowChip, columnChip, base, over, overview);
  overview.hidden = rowChip.hidden = columnChip.hidden = true;
  grid.setAttribute("aria-describedby", readingId);
  grid.append(base, over);
  const plot = box("lk-att-plot", rowLabels, grid, columnLabels, overview, rowChip, columnChip);
  return { titleBar, title, reading, plot, base, over, overview, rowLabels, columnLabels, rowChip, columnChip };
}
