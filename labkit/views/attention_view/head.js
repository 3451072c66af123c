// One head in full: the pattern on a canvas that zooms and pans, its labels, and what is under the pointer.

import { decimal, make, ownKey, spokenLabel, thousands, visibleLabel } from "../kit/common.js";
import { button } from "../kit/controls.js";
import {
  NOT_A_NUMBER,
  aboutWeight,
  cellAfterKey,
  cellCount,
  dots,
  exactWeight,
  labelled,
  layout,
  roughPercent,
  saySharing,
} from "./logic.js";
import { TILE, aligned, cellBox, cellUnder, crowd, isWhole, panned, revealing, ticks, tilesFor, unitOf, wholePlane, zoomed } from "./plane.js";
import { codeReader } from "./source.js";

const EXACT_DELAY = 60; // ms; a pointer on its way over many cells asks for none of them
const SAY_DELAY = 400; // ms; a key held down is not read out cell by cell
const TILE_DELAY = 80; // ms; a window on its way asks for no tiles
const LABEL_CHARACTERS = 18;
const GAP_FROM = 16; // device pixels of a dot, from where dots are drawn apart
const EXACT_KEPT = 5000;
const ROW_GAP = 6; // between a label and the picture
const COLUMN_GAP = 5;
const SMALLEST_LABEL = 14; // CSS pixels; where there is less room it is left out
const OVERVIEW = 92; // CSS pixels
const ZOOM_STEP = 1.6;
const STRIP = 76; // room for upright labels below a zoomed picture

/** A token's text for a label: one line, a space before the word as a muted dot, apart from the text around it. */
export function axisLabel(text, limit) {
  const element = make("bdi", "lk-label");
  const shown = visibleLabel(text, limit);
  if (shown.length > 1 && shown.startsWith("·")) element.append(make("span", "lk-att-dim", "·"), shown.slice(1));
  else element.append(shown === "" ? "(empty)" : shown);
  return element;
}

/** A token's text in a sentence, in quotes and without the space before it. */
export function quoted(text) {
  const shown = visibleLabel(text, 40);
  const word = shown.length > 1 && shown.startsWith("·") ? shown.slice(1) : shown;
  return make("bdi", "lk-att-quoted", `"${word}"`);
}

/**
 * which: 0 for the shown head, 1 for the one beside it. actions: point(which, cell) tells that a cell {row, column, unit}
 * or null is under the pointer or the keyboard; mark(layer, head).
 * Returns {element, receive(trace, codes, summary), resize(width), recolour(), link(cell), picture(), close(), ...}.
 */
export function headPane({ which, facts, texts, source, context, actions, prefix }) {
  const element = make("div", "lk-att-figure");
  const titleBar = make("div", "lk-att-titlebar");
  const title = make("h2", "lk-att-title");
  const shares = make("span", "lk-att-shares");
  const tools = make("div", "lk-att-tools");
  const fit = button("Fit", "Fit: show the whole pattern", () => setWindow(whole));
  const closer = button("+", "Zoom in", () => zoomBy(ZOOM_STEP));
  const farther = button("−", "Zoom out", () => zoomBy(1 / ZOOM_STEP));
  const markButton = button("Mark", "", () => actions.mark(summary.layer, summary.head));
  tools.append(farther, closer, fit, markButton);
  titleBar.append(title, tools);
  const reading = make("p", "lk-att-reading");
  reading.id = `${prefix}-reading-${which}`;
  const plot = make("div", "lk-att-plot");
  const rowLabels = make("div", "lk-att-rows");
  const grid = make("div", "lk-att-grid");
  const base = make("canvas", "lk-att-base");
  const over = make("canvas", "lk-att-over");
  const columnLabels = make("div", "lk-att-columns");
  const overview = make("canvas", "lk-att-overview");
  const rowChip = make("span", "lk-att-chip lk-att-row-chip");
  const columnChip = make("span", "lk-att-chip lk-att-column-chip");
  for (const part of [rowLabels, columnLabels, rowChip, columnChip, base, over, overview]) {
    part.setAttribute("aria-hidden", "true");
  }
  overview.hidden = rowChip.hidden = columnChip.hidden = true;
  grid.tabIndex = 0;
  grid.setAttribute("role", "application");
  grid.setAttribute("aria-describedby", reading.id);
  grid.append(base, over);
  plot.append(rowLabels, grid, columnLabels, overview, rowChip, columnChip);
  const foot = make("p", "lk-att-foot");
  const said = make("div", "lk-spoken");
  said.setAttribute("aria-live", "polite");
  element.append(titleBar, reading, plot, foot, said);

  let trace = 0;
  let codes = new Uint8Array(0);
  let summary = {};
  let size = null;
  let whole = { left: 0, top: 0, span: 1 };
  let seen = whole; // the window
  let width = 0;
  let pictures = new Map(); // cells to a dot -> canvas
  let held = null; // where the keyboard or a click is: {row, column}, first tokens of a cell
  let pointed = null; // where the pointer is
  let linked = null; // what another part of the view points at: {row} or {row, column}
  let frame = 0;
  let drag = null;
  const exact = new Map();
  const timers = { exact: null, say: null, tiles: null };

  const tokens = () => facts.tokens[trace];
  const pool = () => facts.pools[trace];
  const labels = () => texts[trace];
  const devicePixels = () => Math.round(size.side * (globalThis.devicePixelRatio || 1));
  const unit = () => (isWhole(seen, whole) ? pool() : unitOf(seen, pool(), devicePixels()));
  const placeKey = () => ({ trace, layer: summary.layer, head: summary.head, aside: Boolean(summary.aside) });
  const tileAt = (u) => (row, column) => source.tile({ ...placeKey(), pool: u, row, column }, redraw);
  const codeOfCell = (u = unit()) => codeReader(codes, pool(), u, u < pool() ? tileAt(u) : null);
  const lastOf = (token, u) => Math.min(tokens(), token + u) - 1;

  /** The text of a cell's tokens along one side. */
  function labelOf(token, u) {
    if (u === 1) return labels()[token];
    return labels().slice(token, token + u).join("").slice(0, 80);
  }

  // ------------------------------------------------------------------------------------------------ what is shown

  function receive(nextTrace, nextCodes, nextSummary) {
    const changed = nextTrace !== trace || size === null;
    trace = nextTrace;
    codes = nextCodes;
    summary = nextSummary;
    const n = Math.ceil(tokens() / pool());
    if (cellCount(codes.length) !== n) throw new RangeError(`${codes.length} bytes for ${n} cells`);
    pictures = new Map();
    title.textContent = `${facts.tokens.length > 1 ? `${facts.names[trace]}: ` : ""}layer ${summary.layer} · head ${summary.head}`;
    shares.textContent = saySharing(summary.head, facts.heads, facts.kv_heads);
    title.append(shares);
    grid.setAttribute(
      "aria-label",
      `Attention pattern, layer ${summary.layer}, head ${summary.head}: arrow keys move from cell to cell, Home and End to ` +
        "the ends of a row, plus and minus zoom, 0 shows all, Escape leaves",
    );
    if (changed) {
      held = pointed = null;
      if (width > 0) measure();
    }
    redraw();
    drawPlace();
  }

  function measure() {
    const dpr = globalThis.devicePixelRatio || 1;
    const n = Math.ceil(tokens() / pool());
    const was = size === null || isWhole(seen, whole) ? null : seen;
    size = layout(n, { width, dpr, ...labelWidths() });
    whole = wholePlane(size, pool());
    seen = was === null ? whole : zoomed(was, whole, 1);
    for (const canvas of [base, over]) canvas.width = canvas.height = devicePixels();
    grid.style.width = grid.style.height = `${size.side}px`;
    for (const part of [grid, columnLabels]) part.style.left = `${size.gutter}px`;
    rowLabels.style.width = `${size.gutter - ROW_GAP}px`;
    plot.style.width = `${Math.ceil(size.gutter + size.side + size.overhang)}px`;
    overview.style.left = `${size.gutter + size.side - OVERVIEW - 6}px`;
  }

  /** How wide each token's label is: its number, a gap, its text. */
  function labelWidths() {
    const cap = Math.round(Math.min(120, Math.max(52, width * 0.16)));
    element.style.setProperty("--lk-att-label", `${cap}px`);
    const brush = make("canvas").getContext("2d");
    brush.font = `11px ${getComputedStyle(element).getPropertyValue("--lk-sans") || "sans-serif"}`;
    const known = new Map();
    const of = (text) => {
      if (!known.has(text)) known.set(text, Math.ceil(brush.measureText(visibleLabel(text, LABEL_CHARACTERS)).width) + 2);
      return known.get(text);
    };
    const number = Math.ceil(brush.measureText(String(tokens() - 1)).width) + 5;
    const at = (i) => labelOf(i * pool(), pool());
    return {
      rows: (i) => Math.min(cap, of(at(i)) + number) + ROW_GAP,
      columns: (i) => Math.min(cap, of(at(i))) + COLUMN_GAP,
    };
  }

  // -------------------------------------------------------------------------------------------------------- drawing

  /** The whole pattern, q × q cells to a dot, in colour. */
  function picture(q) {
    const there = pictures.get(q);
    if (there) return there;
    const n = Math.ceil(tokens() / pool());
    const codesOfDots = dots(codes, n, q);
    const m = Math.ceil(n / q);
    const canvas = coloured(codesOfDots, m, m);
    const made = { canvas, codes: codesOfDots, m };
    pictures.set(q, made);
    return made;
  }

  function coloured(codesOfDots, across, down) {
    const colours = new Uint32Array(context.palette().buffer);
    const image = new ImageData(across, down);
    const pixels = new Uint32Array(image.data.buffer);
    for (let i = 0; i < pixels.length; i += 1) pixels[i] = colours[codesOfDots[i]];
    const canvas = make("canvas");
    canvas.width = across;
    canvas.height = down;
    canvas.getContext("2d").putImageData(image, 0, 0);
    return canvas;
  }

  function redraw() {
    if (frame || size === null) return;
    frame = requestAnimationFrame(() => {
      frame = 0;
      draw();
    });
  }

  function draw() {
    if (size === null || codes.length === 0) return;
    const full = isWhole(seen, whole);
    const u = unit();
    const q = u < pool() ? 1 : full ? size.q : crowd(seen, pool(), devicePixels());
    reading.textContent =
      "Each row is a token; the shade shows how much it looks at each token up to itself." +
      (summary.aside ? " The first token is set aside: what goes to others is scaled to 100 %." : "") +
      (u > 1 ? ` A cell is ${u} × ${u} tokens and shows their highest weight.` : "") +
      (q > 1 ? ` At this size a dot shows the highest weight of ${q} × ${q} cells.` : "");
    const brush = base.getContext("2d");
    const across = base.width;
    brush.setTransform(1, 0, 0, 1, 0, 0);
    brush.clearRect(0, 0, across, across);
    brush.imageSmoothingEnabled = false;
    const dotTokens = q * pool();
    const { canvas } = picture(u < pool() ? 1 : q);
    const pixel = across / seen.span; // device pixels to a token
    const dot = u < pool() ? pool() : dotTokens;
    brush.drawImage(
      canvas,
      seen.left / dot, seen.top / dot, seen.span / dot, seen.span / dot,
      0, 0, across, across,
    );
    if (u < pool()) drawTiles(brush, u, pixel);
    drawWindow(brush, across);
    if (u * q * pixel >= GAP_FROM) drawGaps(brush, u * q, pixel, across);
    if (u * q * pixel >= 6) crossOut(brush, u * q, pixel);
    for (const each of [fit, farther]) each.setAttribute("aria-disabled", String(full)); // disabled, it would lose the focus
    grid.classList.toggle("lk-att-zoomed", !full);
    drawLabels(full, u);
    drawOverview(full);
    drawPlace();
  }

  /** Where a sliding window keeps a token from looking: hatched, so that it is not taken for an exact zero. */
  function drawWindow(brush, across) {
    const reach = summary.window;
    if (!reach || reach >= tokens()) return;
    const pixel = across / seen.span;
    const x = (token) => (token - seen.left) * pixel;
    const y = (token) => (token - seen.top) * pixel;
    brush.save();
    brush.globalCompositeOperation = "destination-over"; // behind what is painted
    brush.beginPath();
    brush.moveTo(x(0), y(reach));
    brush.lineTo(x(tokens() - reach), y(tokens()));
    brush.lineTo(x(0), y(tokens()));
    brush.clip();
    brush.strokeStyle = context.tone(getComputedStyle(element).getPropertyValue("--lk-faint"));
    brush.globalAlpha = 0.5;
    brush.lineWidth = 1;
    brush.beginPath();
    for (let at = -across; at < across; at += 8) {
      brush.moveTo(at, across);
      brush.lineTo(at + across, 0);
    }
    brush.stroke();
    brush.restore();
  }

  function drawTiles(brush, u, pixel) {
    for (const { row, column } of tilesFor(seen, tokens(), u)) {
      const place = { ...placeKey(), pool: u, row, column };
      const found = source.tile(place, redraw, !waiting);
      if (!found) continue;
      const [down, across] = found.shape;
      const theme = context.stamp();
      if (found.theme !== theme) {
        found.drawn = coloured(found.codes, across, down);
        found.theme = theme;
      }
      const x = (column * TILE * u - seen.left) * pixel;
      const y = (row * TILE * u - seen.top) * pixel;
      brush.clearRect(x, y, across * u * pixel, down * u * pixel);
      brush.drawImage(found.drawn, x, y, across * u * pixel, down * u * pixel);
    }
  }

  function drawGaps(brush, dot, pixel, across) {
    const lines = (start) => {
      const first = Math.floor(start / dot) * dot;
      const found = [];
      for (let token = first; token <= start + seen.span + dot; token += dot) found.push(Math.round((token - start) * pixel));
      return found;
    };
    for (const x of lines(seen.left)) brush.clearRect(x - 1, 0, 1, across);
    for (const y of lines(seen.top)) brush.clearRect(0, y - 1, across, 1);
  }

  /** What is no number is crossed out, not only coloured. */
  function crossOut(brush, dot, pixel) {
    const read = codeOfCell();
    const size_ = dot * pixel;
    brush.strokeStyle = context.dark() ? "#15181b" : "#ffffff";
    brush.lineWidth = Math.max(1, size_ / 12);
    brush.beginPath();
    const firstRow = Math.floor(seen.top / dot) * dot;
    const firstColumn = Math.floor(seen.left / dot) * dot;
    for (let row = firstRow; row < Math.min(tokens(), seen.top + seen.span); row += dot) {
      for (let column = firstColumn; column < Math.min(row + 1, seen.left + seen.span); column += dot) {
        if (read(row, column) !== NOT_A_NUMBER) continue;
        const x = (column - seen.left) * pixel;
        const y = (row - seen.top) * pixel;
        brush.moveTo(x + 0.25 * size_, y + 0.25 * size_);
        brush.lineTo(x + 0.75 * size_, y + 0.75 * size_);
        brush.moveTo(x + 0.75 * size_, y + 0.25 * size_);
        brush.lineTo(x + 0.25 * size_, y + 0.75 * size_);
      }
    }
    brush.stroke();
  }

  const middleOf = (token, u, start) => ((token + u / 2 - start) * size.side) / seen.span;

  function drawLabels(full, u) {
    const rows = full ? labelled(size).map((i) => i * pool()) : ticks(seen.top, seen, size.side, tokens(), u);
    const columns = full ? rows : ticks(seen.left, seen, size.side, tokens(), u);
    rowLabels.replaceChildren(...rows.map((token) => rowLabel(token, u)));
    const below = columns.filter((token) => !onDiagonal(token, u) && token <= seen.top + seen.span);
    columnLabels.replaceChildren(...columns.filter((token) => onDiagonal(token, u)).map((token) => columnLabel(token, u)));
    columnLabels.append(...below.map((token) => uprightLabel(token, u)));
    plot.style.height = `${size.side + (full ? 0 : STRIP)}px`;
  }

  const onDiagonal = (token, u) => token + u / 2 >= seen.top && token + u / 2 <= seen.top + seen.span;

  function rowLabel(token, u) {
    const label = make("span", "lk-att-row");
    label.style.top = `${middleOf(token, u, seen.top)}px`;
    label.append(make("span", "lk-att-number", `${token} `), axisLabel(labelOf(token, u), LABEL_CHARACTERS));
    return label;
  }

  /** A column's name stands where the column begins: on the diagonal, in the half that nothing can look into. */
  function columnLabel(token, u) {
    const label = make("span", "lk-att-column");
    label.style.top = `${middleOf(token, u, seen.top)}px`;
    const left = ((token + u - seen.left) * size.side) / seen.span + COLUMN_GAP;
    const room = size.side + size.overhang - left;
    label.hidden = room < SMALLEST_LABEL;
    label.style.left = `${left}px`;
    label.style.maxWidth = `${Math.ceil(room)}px`;
    label.append(axisLabel(labelOf(token, u), LABEL_CHARACTERS));
    return label;
  }

  /** Where the diagonal is out of sight the name stands upright below. */
  function uprightLabel(token, u) {
    const label = make("span", "lk-att-upright");
    label.style.top = `${size.side + 4}px`;
    label.style.left = `${middleOf(token, u, seen.left)}px`;
    label.append(axisLabel(labelOf(token, u), LABEL_CHARACTERS));
    return label;
  }

  function drawOverview(full) {
    overview.hidden = full;
    if (full) return;
    const dpr = globalThis.devicePixelRatio || 1;
    overview.width = overview.height = Math.round(OVERVIEW * dpr);
    const brush = overview.getContext("2d");
    const n = Math.ceil(tokens() / pool());
    const { canvas, m } = picture(Math.max(1, Math.ceil(n / overview.width)));
    brush.imageSmoothingEnabled = m > overview.width;
    brush.drawImage(canvas, 0, 0, overview.width, overview.width);
    const scale = overview.width / whole.span;
    brush.strokeStyle = getComputedStyle(over).color;
    brush.lineWidth = 2 * dpr;
    brush.strokeRect(seen.left * scale, seen.top * scale, Math.max(4, seen.span * scale), Math.max(4, seen.span * scale));
  }

  // ---------------------------------------------------------------------------------------------- zooming and panning

  let waiting = false;
  function setWindow(next) {
    seen = next;
    if (isWhole(seen, whole)) seen = whole;
    waiting = true; // tiles are asked for when the window rests
    clearTimeout(timers.tiles);
    timers.tiles = setTimeout(() => {
      waiting = false;
      redraw();
    }, TILE_DELAY);
    redraw();
  }

  function zoomBy(factor, fx, fy) {
    let [x, y] = [fx, fy];
    const at = held;
    if (x === undefined) {
      // to the cell the keyboard is at, else to the diagonal's middle, where there is always something
      x = at ? (at.column - seen.left) / seen.span : 0.5;
      y = at ? (at.row - seen.top) / seen.span : 0.5;
    }
    setWindow(zoomed(seen, whole, factor, x, y));
  }

  // ------------------------------------------------------------------------------------------ the cell under the pointer

  // what was chosen among other cells, before a zoom or in the text, is the cell of now that it lies in
  const cellOf = (at) => (at === null ? null : aligned(at, unit()));
  const place = () => cellOf(pointed ?? held ?? linked);

  function drawPlace() {
    drawCross();
    drawFoot();
    askExact();
  }

  function drawCross() {
    if (size === null) return;
    const brush = over.getContext("2d");
    const dpr = globalThis.devicePixelRatio || 1;
    brush.setTransform(dpr, 0, 0, dpr, 0, 0);
    brush.clearRect(0, 0, size.side, size.side);
    const at = place();
    rowChip.hidden = columnChip.hidden = true;
    if (at === null) return;
    const u = unit();
    const column = at.column ?? null;
    const { side } = size;
    const { x, y, size: cell } = cellBox(seen, side, { row: at.row, column: column ?? 0 }, u);
    brush.fillStyle = brush.strokeStyle = getComputedStyle(over).color;
    brush.globalAlpha = 0.55;
    if (column === null) {
      const { x: end } = cellBox(seen, side, { row: at.row, column: at.row + u }, u);
      brush.fillRect(0, y - 1, end, 1);
      brush.fillRect(0, y + cell, end, 1);
    } else {
      // A line along the row from its name, and one down the column from its own.
      const own = cellBox(seen, side, { row: column, column: at.row + u }, u);
      const from = Math.max(0, Math.min(own.y, y));
      brush.fillRect(0, y + cell / 2 - 0.5, Math.max(0, x), 1);
      brush.fillRect(x + cell, y + cell / 2 - 0.5, Math.max(0, own.x - x - cell), 1);
      brush.fillRect(x + cell / 2 - 0.5, from, 1, Math.max(0, y - from));
      if (!onDiagonal(column, u)) brush.fillRect(x + cell / 2 - 0.5, y + cell, 1, side);
      brush.globalAlpha = 1;
      const frameSize = Math.max(cell, 5);
      const shift = (frameSize - cell) / 2;
      brush.lineWidth = 2;
      brush.strokeRect(x - shift, y - shift, frameSize, frameSize);
    }
    brush.globalAlpha = 1;
    const rowY = middleOf(at.row, u, seen.top);
    rowChip.hidden = rowY < 0 || rowY > side;
    rowChip.replaceChildren(make("span", "lk-att-number", `${at.row} `), axisLabel(labelOf(at.row, u), LABEL_CHARACTERS));
    rowChip.style.top = `${rowY}px`;
    rowChip.style.maxWidth = `${size.gutter}px`;
    rowChip.style.right = `${side + Math.ceil(size.overhang) + 3}px`;
    if (column === null) return;
    const diagonal = onDiagonal(column, u);
    const columnX = diagonal ? ((column + u - seen.left) * side) / seen.span + COLUMN_GAP - 3 : middleOf(column, u, seen.left);
    columnChip.hidden = columnX < 0 || columnX > side + size.overhang;
    columnChip.replaceChildren(
      make("span", "lk-att-number", `${column} `),
      axisLabel(labelOf(column, u), LABEL_CHARACTERS),
    );
    columnChip.style.top = `${diagonal ? middleOf(column, u, seen.top) : side + 14}px`;
    columnChip.style.left = `${size.gutter + Math.max(0, columnX - (diagonal ? 0 : 20))}px`;
  }

  const exactKey = (at, u) => `${trace} ${summary.layer} ${summary.head} ${Boolean(summary.aside)} ${u} ${at.row} ${at.column}`;
  const numbered = (token) => [quoted(labels()[token]), ` (${thousands(token)})`];

  function named(token, u) {
    if (u === 1) return numbered(token);
    return [quoted(labelOf(token, u)), ` (${thousands(token)} to ${thousands(lastOf(token, u))})`];
  }

  const sentence = (query, key, same, value) => [...query, " looks at ", ...(same ? ["itself"] : key), ": ", value];

  function drawFoot() {
    const at = cellOf(pointed ?? held ?? (linked?.column === undefined ? null : linked));
    if (at === null) {
      foot.replaceChildren(
        tokens() > 1 ? "Point at a cell, or move with the arrow keys, to read its weight." : "One token can only look at itself.",
      );
      return;
    }
    const u = unit();
    if (at.column > at.row) {
      foot.replaceChildren(...named(at.row, u), " can't look at ", ...named(at.column, u), ", which comes later.");
      return;
    }
    if (summary.window && at.row - at.column >= summary.window + u - 1) {
      foot.replaceChildren(
        ...named(at.row, u), " can't look at ", ...named(at.column, u),
        `: this layer looks back at most ${thousands(summary.window)} tokens.`,
      );
      return;
    }
    const found = exact.get(exactKey(at, u));
    const rough = aboutWeight(codeOfCell(u)(at.row, at.column));
    if (u === 1) {
      const value = make("strong", "", found ? exactWeight(found.weight) : rough);
      foot.replaceChildren(...sentence(numbered(at.row), numbered(at.column), at.row === at.column, value));
    } else if (found) {
      const value = make("strong", "", exactWeight(found.weight));
      const query = [quoted(found.query_text), ` (${thousands(found.query)})`];
      const key = [quoted(found.key_text), ` (${thousands(found.key)})`];
      foot.replaceChildren("Highest in this cell: ", ...sentence(query, key, found.query === found.key, value));
    } else {
      foot.replaceChildren(
        ...named(at.row, u), " look at ", ...(at.row === at.column ? ["themselves"] : named(at.column, u)), ": highest ",
        make("strong", "", rough),
      );
    }
  }

  function askExact() {
    clearTimeout(timers.exact);
    if (size === null) return;
    const at = cellOf(pointed ?? held);
    const u = unit();
    if (!source.live || at === null || at.column > at.row || exact.has(exactKey(at, u))) return;
    timers.exact = setTimeout(() => {
      const key = exactKey(at, u);
      source.exact({ ...placeKey(), row: at.row / u, column: at.column / u, pool: u }, (answer) => {
        if (exact.size > EXACT_KEPT) exact.clear();
        exact.set(key, answer);
        drawFoot();
      });
    }, EXACT_DELAY);
  }

  function saySoon() {
    clearTimeout(timers.say);
    timers.say = setTimeout(() => {
      said.textContent = held === null ? "" : spokenFoot();
    }, SAY_DELAY);
  }

  function spokenFoot() {
    if (unit() > 1) return foot.textContent;
    const value = foot.querySelector("strong")?.textContent ?? "";
    const key = held.row === held.column ? "itself" : `${spokenLabel(labels()[held.column], 40)}, token ${held.column}`;
    return `${spokenLabel(labels()[held.row], 40)}, token ${held.row}, looks at ${key}: ${value}`;
  }

  // ------------------------------------------------------------------------------------------------------ listening

  function tell() {
    const at = cellOf(pointed ?? held);
    actions.point(which, at === null ? null : { ...at, unit: unit() });
  }

  function point(cell) {
    if (cell?.row === pointed?.row && cell?.column === pointed?.column) return;
    pointed = cell;
    drawPlace();
    tell();
  }

  function under(event) {
    const bounds = grid.getBoundingClientRect();
    const u = unit();
    const q = u < pool() ? 1 : isWhole(seen, whole) ? size.q : crowd(seen, u, devicePixels());
    return cellUnder(seen, size.side, tokens(), u, q, codeOfCell(u), event.clientX - bounds.left, event.clientY - bounds.top);
  }

  grid.addEventListener("pointermove", (event) => {
    if (drag) {
      const scale = seen.span / size.side;
      drag.far += Math.abs(event.clientX - drag.x) + Math.abs(event.clientY - drag.y);
      setWindow(panned(seen, whole, (drag.x - event.clientX) * scale, (drag.y - event.clientY) * scale));
      [drag.x, drag.y] = [event.clientX, event.clientY];
      if (drag.far > 3) {
        point(null);
        return;
      }
    }
    if (event.pointerType !== "touch") point(under(event));
  });
  grid.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || isWhole(seen, whole)) return;
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
    if (drag && drag.far > 3) return;
    held = under(event);
    drawPlace();
    tell();
    saySoon();
  });
  grid.addEventListener("dblclick", (event) => {
    const bounds = grid.getBoundingClientRect();
    zoomBy(ZOOM_STEP ** 2, (event.clientX - bounds.left) / bounds.width, (event.clientY - bounds.top) / bounds.height);
    event.preventDefault();
  });
  grid.addEventListener(
    "wheel",
    (event) => {
      if (!event.ctrlKey && !event.metaKey) return; // a plain wheel scrolls the notebook
      const bounds = grid.getBoundingClientRect();
      const factor = Math.exp(-Math.max(-60, Math.min(60, event.deltaY)) / 100);
      zoomBy(factor, (event.clientX - bounds.left) / bounds.width, (event.clientY - bounds.top) / bounds.height);
      event.preventDefault();
    },
    { passive: false },
  );
  overview.addEventListener("pointerdown", (event) => {
    const scale = whole.span / OVERVIEW;
    const x = event.offsetX * scale - seen.span / 2;
    const y = event.offsetY * scale - seen.span / 2;
    setWindow(panned({ ...seen, left: 0, top: 0 }, whole, x, y));
  });
  grid.addEventListener("keydown", (event) => {
    const plus = event.key === "+" || event.key === "=";
    if (!ownKey(event) && !(plus && event.shiftKey && !event.ctrlKey && !event.metaKey)) return;
    const u = unit();
    if (event.key === "Escape") {
      if (pointed === null && held === null) {
        if (isWhole(seen, whole)) actions.leave();
        else setWindow(whole);
      }
      held = pointed = null;
    } else if (plus) zoomBy(ZOOM_STEP);
    else if (event.key === "-") zoomBy(1 / ZOOM_STEP);
    else if (event.key === "0") setWindow(whole);
    else {
      const link = summary.links[0];
      const now = pointed ?? held;
      const start = aligned(now ?? (link ? { row: link.query, column: link.key } : { row: 0, column: 0 }), u);
      const cell = { row: start.row / u, column: start.column / u };
      const target = now === null && event.key.startsWith("Arrow") ? cell : cellAfterKey(event.key, cell, Math.ceil(tokens() / u));
      if (target === null) return;
      held = { row: target.row * u, column: target.column * u };
      pointed = null;
      if (!isWhole(seen, whole)) setWindow(revealing(seen, whole, held, u));
    }
    drawPlace();
    tell();
    saySoon();
    event.preventDefault();
    event.stopPropagation();
  });

  return {
    element,
    grid,
    receive,
    resize(now) {
      if (now === width || now <= 0) return;
      width = now;
      if (codes.length === 0) return;
      measure();
      draw();
      drawPlace();
    },
    recolour() {
      pictures = new Map();
      draw();
      drawPlace();
    },
    /** Point at a cell from elsewhere: {row, column} or only {row}; null to stop. */
    link(cell) {
      linked = cell;
      if (pointed === null && held === null) drawPlace();
    },
    setMarked(marked) {
      const on = marked.some(([layer, head]) => layer === summary.layer && head === summary.head);
      markButton.textContent = on ? "Marked" : "Mark";
      markButton.setAttribute("aria-pressed", String(on));
    },
    noteParts() {
      return { summary, tokens: tokens(), pool: pool() };
    },
    /** What a picture to keep is made of. */
    picture() {
      const n = Math.ceil(tokens() / pool());
      return {
        codes,
        n,
        labels: Array.from({ length: n }, (_, i) => visibleLabel(labelOf(i * pool(), pool()), LABEL_CHARACTERS)),
        numbers: Array.from({ length: n }, (_, i) => i * pool()),
        image: picture(1).canvas.toDataURL("image/png"),
        title: `${facts.model} · layer ${summary.layer} · head ${summary.head}${summary.aside ? " · first token set aside" : ""}`,
      };
    },
    summary: () => summary,
    trace: () => trace,
    close() {
      cancelAnimationFrame(frame);
      for (const timer of Object.values(timers)) clearTimeout(timer);
    },
  };
}

/** What is to be known about a head, in sentences. */
export function headNotes(summary, { tokens, pool, chosen }) {
  const said = [];
  if (summary.others !== null && tokens > 2) {
    said.push(
      `On average ${roughPercent(summary.first)} of a token's attention goes to the first token, ` +
        `${roughPercent(summary.self)} to itself, ${roughPercent(summary.others)} to the others.` +
        (summary.first > 0.5 ? " The first token often takes what a head has no other use for: an attention sink." : ""),
    );
  }
  if (summary.broken_rows > 0) {
    said.push(
      `${thousands(summary.broken_rows)} of ${thousands(tokens)} tokens have weights that are not numbers (NaN); ` +
        "their cells are crossed out in orange.",
    );
  }
  if (summary.lowest_sum !== null) {
    said.push(
      `Rows sum to less than 1, the lowest to ${decimal(summary.lowest_sum, 3)}: this architecture lets a head send ` +
        "attention to a sink outside the text.",
    );
  }
  if (summary.window && summary.window < tokens) {
    said.push(`This layer looks back at most ${thousands(summary.window)} tokens (a sliding window); what lies beyond is hatched.`);
  }
  if (summary.ahead) said.push("This head also looks at later tokens; only those up to the token itself are drawn.");
  if (pool > 1) said.push(`Seen whole, each cell stands for ${pool} × ${pool} tokens and shows the highest of their weights; zoom in for single ones.`);
  if (chosen && chosen[0] === summary.layer && chosen[1] === summary.head) {
    said.push("Shown first because its tokens look most firmly at one other, the first token aside.");
  }
  return said;
}
