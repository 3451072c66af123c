// One head in full: the pattern on a canvas that zooms and pans, its labels, and what is under the pointer.

import { make, ownKey, visibleLabel } from "../kit/common.js";
import { button } from "../kit/controls.js";
import { cellAfterKey, cellCount, layout, saySharing } from "./logic.js";
import { COLUMN_GAP, LABEL_CHARACTERS, ROW_GAP, axisLabel, drawLabels, labelWidths } from "./labels.js";
import { aligned, cellUnder, crowd, isWhole, panned, revealing, wholePlane, zoomed } from "./plane.js";
import { OVERVIEW, painter } from "./paint.js";
import { Shown } from "./shown.js";
import { footLine } from "./foot.js";

const TILE_DELAY = 80; // ms; a window on its way asks for no tiles
const ZOOM_STEP = 1.6;

/**
 * which: 0 for the shown head, 1 for the one beside it. actions: point(which, cell) tells that a cell {row, column, unit}
 * or null is under the pointer or the keyboard; mark(layer, head); leave().
 * Returns {element, grid, shown, receive(trace, codes, summary), resize(width), recolour(), link(cell), setMarked(marked), picture()}.
 */
export function headPane({ view, which, facts, texts, source, context, actions }) {
  const parts = elements(view.id(`reading-${which}`));
  const { element, grid, base, over, reading, plot, rowLabels, columnLabels, overview, rowChip, columnChip } = parts;
  const shown = new Shown({ facts, texts, source, redraw });
  const paint = painter(shown, context);
  const foot = footLine(shown);
  const fit = button("Fit", "Fit: show the whole pattern", () => setWindow(shown.whole));
  const closer = button("+", "Zoom in", () => zoomBy(ZOOM_STEP));
  const farther = button("−", "Zoom out", () => zoomBy(1 / ZOOM_STEP));
  const markButton = button("Mark", "", () => actions.mark(shown.summary.layer, shown.summary.head));
  parts.tools.append(farther, closer, fit, markButton);
  element.append(foot.element, foot.spoken);
  let width = 0;
  let frame = 0;
  let resting = 0; // the timer until tiles are asked for

  // ------------------------------------------------------------------------------------------------ what is shown

  function receive(trace, codes, summary) {
    const changed = trace !== shown.trace || shown.size === null;
    Object.assign(shown, { trace, codes, summary });
    if (cellCount(codes.length) !== shown.cells) throw new RangeError(`${codes.length} bytes for ${shown.cells} cells`);
    paint.forget();
    const { layer, head } = summary;
    parts.title.textContent = `${facts.tokens.length > 1 ? `${facts.names[trace]}: ` : ""}layer ${layer} · head ${head}`;
    parts.title.append(make("span", "lk-att-shares", saySharing(head, facts.heads, facts.kv_heads)));
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
    drawPlace();
  }

  function measure() {
    const was = shown.size === null || shown.full ? null : shown.seen;
    const size = layout(shown.cells, { width, dpr: globalThis.devicePixelRatio || 1, ...labelWidths(shown, element, width) });
    shown.size = size;
    shown.whole = wholePlane(size, shown.pool);
    shown.seen = was === null ? shown.whole : zoomed(was, shown.whole, 1);
    for (const canvas of [base, over]) canvas.width = canvas.height = shown.devicePixels();
    grid.style.width = grid.style.height = `${size.side}px`;
    for (const part of [grid, columnLabels]) part.style.left = `${size.gutter}px`;
    rowLabels.style.width = `${size.gutter - ROW_GAP}px`;
    plot.style.width = `${Math.ceil(size.gutter + size.side + size.overhang)}px`;
    overview.style.left = `${size.gutter + size.side - OVERVIEW - 6}px`;
  }

  function redraw() {
    if (frame || shown.size === null) return;
    frame = requestAnimationFrame(() => {
      frame = 0;
      draw();
    });
  }

  function draw() {
    if (shown.size === null || shown.codes.length === 0) return;
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

  // ---------------------------------------------------------------------------------------------- zooming and panning

  function setWindow(next) {
    shown.seen = isWhole(next, shown.whole) ? shown.whole : next;
    shown.moving = true;
    clearTimeout(resting);
    resting = setTimeout(() => {
      shown.moving = false;
      redraw();
    }, TILE_DELAY);
    redraw();
  }

  /** fx, fy: shares of the window of the point that stays; without them the cell of the keyboard, else the diagonal's middle. */
  function zoomBy(factor, fx, fy) {
    const { held, seen } = shown;
    const x = fx ?? (held ? (held.column - seen.left) / seen.span : 0.5);
    const y = fy ?? (held ? (held.row - seen.top) / seen.span : 0.5);
    setWindow(zoomed(seen, shown.whole, factor, x, y));
  }

  // ------------------------------------------------------------------------------------------ the cell under the pointer

  function drawPlace() {
    if (shown.size !== null) {
      const at = shown.cell(shown.pointed ?? shown.held ?? shown.linked);
      paint.cross(over, at);
      drawChips(at);
    }
    foot.draw();
    foot.ask();
  }

  /** The names of a cell's row and column, over the labels. */
  function drawChips(at) {
    rowChip.hidden = columnChip.hidden = true;
    if (at === null) return;
    const u = shown.unit();
    const { size, seen } = shown;
    const name = (chip, token) => {
      chip.replaceChildren(make("span", "lk-att-number", `${token} `), axisLabel(shown.label(token, u), LABEL_CHARACTERS));
    };
    const y = shown.middleOf(at.row, u, seen.top);
    rowChip.hidden = y < 0 || y > size.side;
    name(rowChip, at.row);
    rowChip.style.top = `${y}px`;
    rowChip.style.maxWidth = `${size.gutter}px`;
    rowChip.style.right = `${size.side + Math.ceil(size.overhang) + 3}px`;
    if (at.column === undefined) return;
    const diagonal = shown.onDiagonal(at.column, u);
    const x = diagonal ? ((at.column + u - seen.left) * size.side) / seen.span + COLUMN_GAP - 3 : shown.middleOf(at.column, u, seen.left);
    columnChip.hidden = x < 0 || x > size.side + size.overhang;
    name(columnChip, at.column);
    columnChip.style.top = `${diagonal ? shown.middleOf(at.column, u, seen.top) : size.side + 14}px`;
    columnChip.style.left = `${size.gutter + Math.max(0, x - (diagonal ? 0 : 20))}px`;
  }

  function tell() {
    const at = shown.cell(shown.pointed ?? shown.held);
    actions.point(which, at === null ? null : { ...at, unit: shown.unit() });
  }

  function point(cell) {
    if (cell?.row === shown.pointed?.row && cell?.column === shown.pointed?.column) return;
    shown.pointed = cell;
    drawPlace();
    tell();
  }

  function hold(cell) {
    shown.held = cell;
    drawPlace();
    tell();
    foot.saySoon();
  }

  /** The cell under an event, {row, column}; null outside of the half that is drawn. */
  function under(event) {
    const bounds = grid.getBoundingClientRect();
    const u = shown.unit();
    const q = u < shown.pool ? 1 : shown.full ? shown.size.q : crowd(shown.seen, u, shown.devicePixels());
    return cellUnder(shown.seen, shown.size.side, shown.tokens, u, q, shown.reader(u), event.clientX - bounds.left, event.clientY - bounds.top);
  }

  /** Where in the window an event is, as shares of it. @type {(event: MouseEvent) => [number, number]} */
  function shares(event) {
    const bounds = grid.getBoundingClientRect();
    return [(event.clientX - bounds.left) / bounds.width, (event.clientY - bounds.top) / bounds.height];
  }

  function keyDown(event) {
    const plus = event.key === "+" || event.key === "=";
    if (!ownKey(event) && !(plus && event.shiftKey && !event.ctrlKey && !event.metaKey)) return;
    if (event.key === "Escape") {
      if (shown.pointed === null && shown.held === null) {
        if (shown.full) actions.leave();
        else setWindow(shown.whole);
      }
      shown.pointed = null;
      hold(null);
    } else if (plus || event.key === "-") zoomBy(plus ? ZOOM_STEP : 1 / ZOOM_STEP);
    else if (event.key === "0") setWindow(shown.whole);
    else if (!moveBy(event.key)) return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** Move the held cell as a key says; whether the key says anything. */
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
    if (!shown.full) setWindow(revealing(shown.seen, shown.whole, at, u));
    hold(at);
    return true;
  }

  // ------------------------------------------------------------------------------------------------------ listening

  let drag = null; // {x, y, far}: where the pointer was, and how far it came

  grid.addEventListener("pointermove", (event) => {
    if (drag) {
      const scale = shown.seen.span / shown.size.side;
      drag.far += Math.abs(event.clientX - drag.x) + Math.abs(event.clientY - drag.y);
      setWindow(panned(shown.seen, shown.whole, (drag.x - event.clientX) * scale, (drag.y - event.clientY) * scale));
      [drag.x, drag.y] = [event.clientX, event.clientY];
      if (drag.far > 3) {
        point(null);
        return;
      }
    }
    if (event.pointerType !== "touch") point(under(event));
  });
  grid.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || shown.full) return;
    drag = { x: event.clientX, y: event.clientY, far: 0 };
    grid.setPointerCapture(event.pointerId);
    grid.classList.add("lk-att-dragging");
  });
  for (const name of ["pointerup", "pointercancel"]) {
    grid.addEventListener(name, () => {
      grid.classList.remove("lk-att-dragging");
      setTimeout(() => {
        drag = null;
      }, 0); // after the click that ends a drag
    });
  }
  grid.addEventListener("pointerleave", () => point(null));
  grid.addEventListener("click", (event) => {
    if (!drag || drag.far <= 3) hold(under(event));
  });
  grid.addEventListener("dblclick", (event) => {
    zoomBy(ZOOM_STEP ** 2, ...shares(event));
    event.preventDefault();
  });
  grid.addEventListener(
    "wheel",
    (event) => {
      if (!event.ctrlKey && !event.metaKey) return; // a plain wheel scrolls the notebook
      zoomBy(Math.exp(-Math.max(-60, Math.min(60, event.deltaY)) / 100), ...shares(event));
      event.preventDefault();
    },
    { passive: false },
  );
  overview.addEventListener("pointerdown", (event) => {
    const scale = shown.whole.span / OVERVIEW;
    const { span } = shown.seen;
    setWindow(panned({ left: 0, top: 0, span }, shown.whole, event.offsetX * scale - span / 2, event.offsetY * scale - span / 2));
  });
  grid.addEventListener("keydown", keyDown);
  view.atEnd(() => {
    cancelAnimationFrame(frame);
    clearTimeout(resting);
    foot.close();
  });

  return {
    element,
    grid,
    shown,
    receive,
    resize(now) {
      if (now === width || now <= 0) return;
      width = now;
      if (shown.codes.length === 0) return;
      measure();
      draw();
    },
    recolour() {
      paint.forget();
      draw();
    },
    /** Point at a cell from elsewhere: {row, column} or only {row}; null to stop. */
    link(cell) {
      shown.linked = cell;
      if (shown.pointed === null && shown.held === null) drawPlace();
    },
    setMarked(marked) {
      const on = marked.some(([layer, head]) => layer === shown.summary.layer && head === shown.summary.head);
      markButton.textContent = on ? "Marked" : "Mark";
      markButton.setAttribute("aria-pressed", String(on));
    },
    /** What a picture to keep is made of. */
    picture() {
      const { cells: n, pool, summary } = shown;
      const starts = Array.from({ length: n }, (_, i) => i * pool);
      return {
        codes: shown.codes,
        n,
        labels: starts.map((token) => visibleLabel(shown.label(token, pool), LABEL_CHARACTERS)),
        numbers: starts,
        image: paint.picture(1).canvas.toDataURL("image/png"),
        title: `${facts.model} · layer ${summary.layer} · head ${summary.head}${summary.aside ? " · first token set aside" : ""}`,
      };
    },
  };
}

/** What the pane consists of; reading says what the picture shows. */
function elements(readingId) {
  const element = make("div", "lk-att-figure");
  const titleBar = make("div", "lk-att-titlebar");
  const [title, tools] = [make("h2", "lk-att-title"), make("div", "lk-att-tools")];
  titleBar.append(title, tools);
  const reading = make("p", "lk-att-reading");
  reading.id = readingId;
  const plot = make("div", "lk-att-plot");
  const [rowLabels, columnLabels] = [make("div", "lk-att-rows"), make("div", "lk-att-columns")];
  const [base, over, overview] = [make("canvas", "lk-att-base"), make("canvas", "lk-att-over"), make("canvas", "lk-att-overview")];
  const rowChip = make("span", "lk-att-chip lk-att-row-chip");
  const columnChip = make("span", "lk-att-chip lk-att-column-chip");
  for (const part of [rowLabels, columnLabels, rowChip, columnChip, base, over, overview]) part.setAttribute("aria-hidden", "true");
  overview.hidden = rowChip.hidden = columnChip.hidden = true;
  const grid = make("div", "lk-att-grid");
  grid.tabIndex = 0;
  grid.setAttribute("role", "application");
  grid.setAttribute("aria-describedby", readingId);
  grid.append(base, over);
  plot.append(rowLabels, grid, columnLabels, overview, rowChip, columnChip);
  element.append(titleBar, reading, plot);
  return { element, title, tools, reading, plot, grid, base, over, overview, rowLabels, columnLabels, rowChip, columnChip };
}
