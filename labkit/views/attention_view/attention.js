// The attention view as a widget: pickers, the pattern on a canvas with its labels, and what is under the pointer.

import { decimal, make, makeRoot, ownKey, percent, spokenLabel, thousands, visibleLabel } from "../common.js";
import {
  MARKS,
  NOT_A_NUMBER,
  aboutWeight,
  cellAfterKey,
  cellAt,
  cellBox,
  cellCount,
  codeAt,
  colour,
  dots,
  exactWeight,
  labelled,
  layout,
  middle,
  onScale,
  packedBytes,
  palette,
  saySharing,
} from "./logic.js";

const EXACT_DELAY = 60; // ms; a pointer on its way over many cells asks for none of them
const SAY_DELAY = 400; // ms; a key held down is not read out cell by cell
const SLOW = 250; // ms; what is there sooner needs no word
const LABEL_CHARACTERS = 18;
const GAP_FROM = 16; // device pixels of a dot, from where dots are drawn apart
const EXACT_KEPT = 5000;
const ROW_GAP = 6; // between a label and the picture
const COLUMN_GAP = 5;

/** A token's text for a label: one line, a space before the word as a muted dot, apart from the text around it. */
function axisLabel(text, limit) {
  const element = make("bdi", "lk-label");
  const shown = visibleLabel(text, limit);
  if (shown.length > 1 && shown.startsWith("·")) element.append(make("span", "lk-att-dim", "·"), shown.slice(1));
  else element.append(shown === "" ? "(empty)" : shown);
  return element;
}

/** A token's text in a sentence, in quotes and without the space before it. */
function quoted(text) {
  const shown = visibleLabel(text, 40);
  const word = shown.length > 1 && shown.startsWith("·") ? shown.slice(1) : shown;
  return make("bdi", "lk-att-quoted", `"${word}"`);
}

function picker(name, id) {
  const label = make("label", "", name);
  label.htmlFor = id;
  const select = make("select");
  select.id = id;
  return { label, select };
}

function setOptions(select, numbers, value) {
  const before = [...select.options].map((option) => option.value).join();
  if (before !== numbers.join()) select.replaceChildren(...numbers.map((n) => new Option(String(n), String(n))));
  select.value = String(value);
}

function render({ model, el }) {
  const exported = Boolean(model.get("exported"));
  const prefix = `lk-${Math.random().toString(36).slice(2, 10)}`;
  const facts = model.get("facts");
  const labels = model.get("labels");
  const n = labels.length;
  const root = makeRoot("lk-attention");

  const head = make("p", "lk-att-head");
  head.append(
    make("strong", "", visibleLabel(facts.model, 80)),
    ` · ${thousands(facts.tokens)} token${facts.tokens === 1 ? "" : "s"}`,
  );

  const bar = make("div", "lk-att-bar");
  const layerPicker = picker("Layer", `${prefix}-layer`);
  const headPicker = picker("Head", `${prefix}-head`);
  const shares = make("span", "lk-att-shares");
  const status = make("span", "lk-att-status");
  status.setAttribute("role", "status");
  bar.append(layerPicker.label, layerPicker.select, headPicker.label, headPicker.select, shares, status);
  const top = make("div", "lk-att-top");

  const figure = make("div", "lk-att-figure");
  const reading = make("p", "lk-att-reading");
  reading.id = `${prefix}-reading`;
  const plot = make("div", "lk-att-plot");
  const rowLabels = make("div", "lk-att-rows");
  const grid = make("div", "lk-att-grid");
  const base = make("canvas", "lk-att-base");
  const over = make("canvas", "lk-att-over");
  const columnLabels = make("div", "lk-att-columns");
  const rowChip = make("span", "lk-att-chip lk-att-row-chip");
  const columnChip = make("span", "lk-att-chip lk-att-column-chip");
  for (const part of [rowLabels, columnLabels, rowChip, columnChip, base, over]) part.setAttribute("aria-hidden", "true");
  grid.tabIndex = 0;
  grid.setAttribute("role", "application");
  grid.setAttribute("aria-describedby", reading.id);
  grid.append(base, over);
  plot.append(rowLabels, grid, columnLabels, rowChip, columnChip);
  const foot = make("p", "lk-att-foot");
  const said = make("div", "lk-spoken");
  said.setAttribute("aria-live", "polite");
  figure.append(reading, plot, foot, said);

  const side = make("div", "lk-att-side");
  const legend = make("div", "lk-att-legend");
  const strip = make("canvas", "lk-att-strip");
  const marks = make("div", "lk-att-marks");
  strip.width = 256;
  strip.height = 1;
  strip.setAttribute("role", "img");
  strip.setAttribute("aria-label", "Colour scale of the weights, from 0 to 1");
  for (const weight of MARKS) {
    const mark = make("span", "", String(weight));
    mark.style.insetInlineStart = `${100 * onScale(weight)}%`;
    marks.append(mark);
  }
  const scale = make("div", "lk-att-scale");
  scale.append(strip, marks);
  legend.append(make("span", "", "Weight, square-root scale"), scale);
  const spread = make("p", "lk-att-spread");
  const links = make("div", "lk-att-links");
  const notes = make("div", "lk-att-notes");
  const words = make("div", "lk-att-words");
  words.append(spread, notes);
  side.append(links, words);

  const body = make("div", "lk-att-body");
  body.append(figure, side);
  top.append(bar, legend);
  root.append(head, top, body);
  el.append(root);

  let codes = new Uint8Array(0);
  let summary = {};
  let size = null;
  let dark = null;
  let held = null; // where the keyboard or a click is
  let pointed = null; // where the pointer is
  let asked = null;
  const exact = new Map();
  const timers = { exact: null, say: null, slow: null };

  const embedded = new Map();
  if (exported) {
    let at = 0;
    const bytes = model.get("embedded_cells");
    for (const each of model.get("embedded")) {
      const length = packedBytes(n);
      embedded.set(`${each.layer} ${each.head}`, {
        summary: each,
        codes: new Uint8Array(bytes.buffer, bytes.byteOffset + at, length),
      });
      at += length;
    }
  }
  const layersHere = exported ? [...new Set([...embedded.values()].map((e) => e.summary.layer))] : facts.layers;
  const headsHere = (layer) =>
    exported
      ? [...embedded.values()].filter((e) => e.summary.layer === layer).map((e) => e.summary.head)
      : Array.from({ length: facts.heads }, (_, i) => i);

  // ---------------------------------------------------------------------------------------------------- which head

  let choosing = false;
  function choose(layer, wanted) {
    const there = headsHere(layer);
    choosing = true;
    model.set("layer", layer);
    model.set("head", there.includes(wanted) ? wanted : there[0]);
    choosing = false;
    model.save_changes();
    headChanged();
  }

  /** The chosen head is another: say so at once, draw it when its numbers are here. */
  function headChanged() {
    if (choosing) return;
    const layer = model.get("layer");
    setOptions(layerPicker.select, layersHere, layer);
    setOptions(headPicker.select, headsHere(layer), model.get("head"));
    shares.textContent = saySharing(model.get("head"), facts.heads, facts.kv_heads);
    if (exported) {
      receive();
      return;
    }
    clearTimeout(timers.slow);
    if (layer === summary.layer && model.get("head") === summary.head) status.textContent = "";
    else {
      timers.slow = setTimeout(() => {
        status.textContent = `computing layer ${model.get("layer")} · head ${model.get("head")} …`;
      }, SLOW);
    }
  }

  function receive() {
    if (exported) {
      const found = embedded.get(`${model.get("layer")} ${model.get("head")}`);
      if (found === undefined) return;
      ({ codes, summary } = found);
    } else {
      const bytes = model.get("cells");
      codes = new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
      summary = model.get("summary");
    }
    if (cellCount(codes.length) !== n) throw new RangeError(`${codes.length} bytes for ${n} cells`);
    clearTimeout(timers.slow);
    status.textContent = "";
    grid.setAttribute(
      "aria-label",
      `Attention pattern, layer ${summary.layer}, head ${summary.head}: arrow keys move from cell to cell, Home and End to ` +
        "the ends of a row, Escape leaves",
    );
    drawSide();
    paint();
    drawPlace();
  }

  // ------------------------------------------------------------------------------------------------------ painting

  function paper() {
    const context = make("canvas").getContext("2d");
    context.fillStyle = getComputedStyle(root).backgroundColor;
    context.fillRect(0, 0, 1, 1);
    return context.getImageData(0, 0, 1, 1).data;
  }

  /** Whether the paper is another than before. */
  function readTheme() {
    const [red, green, blue] = paper();
    const before = dark;
    dark = 0.2126 * red + 0.7152 * green + 0.0722 * blue < 110;
    if (dark === before) return false;
    const context = strip.getContext("2d");
    for (let i = 0; i < 256; i += 1) {
      context.fillStyle = `rgb(${colour(i / 255, dark).join(" ")})`;
      context.fillRect(i, 0, 1, 1);
    }
    return true;
  }

  /** How wide each token's label is: its number, a gap, its text. */
  function labelWidths(width) {
    const cap = Math.round(Math.min(120, Math.max(52, width * 0.16)));
    root.style.setProperty("--lk-att-label", `${cap}px`);
    const context = make("canvas").getContext("2d");
    context.font = `11px ${getComputedStyle(root).getPropertyValue("--lk-sans") || "sans-serif"}`;
    const texts = labels.map((text) => Math.ceil(context.measureText(visibleLabel(text, LABEL_CHARACTERS)).width) + 2);
    const number = Math.ceil(context.measureText(String(facts.tokens - 1)).width) + 5;
    return {
      rows: (i) => Math.min(cap, texts[i] + number) + ROW_GAP,
      columns: (i) => Math.min(cap, texts[i]) + COLUMN_GAP,
    };
  }

  function measure() {
    const width = body.clientWidth;
    const dpr = window.devicePixelRatio || 1;
    size = layout(n, { width, dpr, ...labelWidths(width) });
    drawLabels(size);
    reading.textContent =
      "Each row is a token; the shade shows how much it looks at each token up to itself." +
      (size.q > 1 ? ` At this size a dot shows the highest weight of ${size.q} × ${size.q} cells.` : "");
    const { side: across, gutter, overhang } = size;
    plot.style.height = `${across}px`;
    plot.style.width = `${Math.ceil(gutter + across + overhang)}px`;
    for (const part of [grid, columnLabels]) part.style.left = `${gutter}px`;
    rowLabels.style.width = `${gutter - ROW_GAP}px`;
    grid.style.width = grid.style.height = `${across}px`;
    over.width = over.height = Math.round(across * dpr);
  }

  function drawLabels(at) {
    const wanted = labelled(at);
    rowLabels.replaceChildren(...wanted.map((i) => rowLabel(i, at)));
    columnLabels.replaceChildren(...wanted.map((i) => columnLabel(i, at)));
  }

  const firstToken = (i) => i * facts.pool;
  const lastToken = (i) => Math.min(facts.tokens, (i + 1) * facts.pool) - 1;

  function rowLabel(i, at) {
    const element = make("span", "lk-att-row");
    element.style.top = `${middle(at, i)}px`;
    element.append(make("span", "lk-att-number", `${firstToken(i)} `), axisLabel(labels[i], LABEL_CHARACTERS));
    return element;
  }

  /** A column's name stands where the column begins: on the diagonal, in the half that nothing can look into. */
  function columnLabel(i, at) {
    const element = make("span", "lk-att-column");
    element.style.top = `${middle(at, i)}px`;
    element.style.left = `${(i + 1) * at.cell + COLUMN_GAP}px`;
    element.append(axisLabel(labels[i], LABEL_CHARACTERS));
    return element;
  }

  function paint() {
    const { m, q, side: across } = size;
    const dpr = window.devicePixelRatio || 1;
    const picture = dots(codes, n, q);
    const colours = new Uint32Array(palette(dark).buffer);
    const image = new ImageData(m, m);
    const pixels = new Uint32Array(image.data.buffer);
    for (let i = 0; i < pixels.length; i += 1) pixels[i] = colours[picture[i]];
    const small = make("canvas");
    small.width = small.height = m;
    small.getContext("2d").putImageData(image, 0, 0);
    base.width = base.height = Math.round(across * dpr);
    const context = base.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.drawImage(small, 0, 0, base.width, base.height);
    const dot = base.width / m;
    if (dot >= GAP_FROM) {
      for (let i = 0; i < m; i += 1) {
        context.clearRect(Math.round((i + 1) * dot) - 1, 0, 1, base.height);
        context.clearRect(0, Math.round((i + 1) * dot) - 1, base.width, 1);
      }
    }
    if (dot >= 6) crossOut(context, picture, m, dot);
  }

  /** What is no number is crossed out, not only coloured. */
  function crossOut(context, picture, m, dot) {
    context.strokeStyle = dark ? "#15181b" : "#ffffff";
    context.lineWidth = Math.max(1, dot / 12);
    context.beginPath();
    for (let i = 0; i < picture.length; i += 1) {
      if (picture[i] !== NOT_A_NUMBER) continue;
      const x = (i % m) * dot;
      const y = Math.floor(i / m) * dot;
      context.moveTo(x + 0.25 * dot, y + 0.25 * dot);
      context.lineTo(x + 0.75 * dot, y + 0.75 * dot);
      context.moveTo(x + 0.75 * dot, y + 0.25 * dot);
      context.lineTo(x + 0.25 * dot, y + 0.75 * dot);
    }
    context.stroke();
  }

  function redraw() {
    measure();
    readTheme();
    paint();
    drawPlace();
  }

  // -------------------------------------------------------------------------------------- the cell under the pointer

  const place = () => pointed ?? held;

  function drawPlace() {
    drawCross();
    drawFoot();
    askExact();
  }

  function drawCross() {
    const context = over.getContext("2d");
    const dpr = window.devicePixelRatio || 1;
    context.setTransform(dpr, 0, 0, dpr, 0, 0);
    context.clearRect(0, 0, size.side, size.side);
    const at = place();
    rowChip.hidden = columnChip.hidden = at === null;
    if (at === null) return;
    const { x, y, size: across } = cellBox(size, at.row, at.column);
    const { side: whole, gutter, overhang } = size;
    context.fillStyle = context.strokeStyle = getComputedStyle(over).color;
    context.globalAlpha = 0.55;
    // A line along the row from its name, and one down the column from its own.
    const thick = 1;
    const top = Math.min(at.column, at.row) * size.cell;
    context.fillRect(0, y + across / 2 - thick / 2, Math.max(0, x), thick);
    context.fillRect(x + across, y + across / 2 - thick / 2, Math.max(0, (at.row + 1) * size.cell - x - across), thick);
    context.fillRect(x + across / 2 - thick / 2, top, thick, Math.max(0, y - top));
    context.globalAlpha = 1;
    const frame = Math.max(across, 5);
    const shift = (frame - across) / 2;
    context.lineWidth = 2;
    context.strokeRect(x - shift, y - shift, frame, frame);
    rowChip.replaceChildren(
      make("span", "lk-att-number", `${firstToken(at.row)} `),
      axisLabel(labels[at.row], LABEL_CHARACTERS),
    );
    rowChip.style.top = `${middle(size, at.row)}px`;
    rowChip.style.maxWidth = `${gutter}px`;
    rowChip.style.right = `${whole + Math.ceil(overhang) + 3}px`;
    columnChip.replaceChildren(
      make("span", "lk-att-number", `${firstToken(at.column)} `),
      axisLabel(labels[at.column], LABEL_CHARACTERS),
    );
    columnChip.style.top = `${middle(size, at.column)}px`;
    const left = gutter + (at.column + 1) * size.cell + 3;
    columnChip.style.maxWidth = `${Math.max(40, body.clientWidth - left)}px`;
    columnChip.style.left = `${left}px`;
  }

  const exactKey = ({ row, column }) => `${summary.layer} ${summary.head} ${row} ${column}`;

  /** Tokens behind row or column i, in words: "it" (7), or tokens 14 to 15 where several share a cell. */
  function named(i) {
    if (facts.pool > 1) return [`tokens ${firstToken(i)} to ${lastToken(i)}`];
    return [quoted(labels[i]), ` (${i})`];
  }

  function sentence(query, key, same, value) {
    return [...query, " looks at ", ...(same ? ["itself"] : key), ": ", value];
  }

  function drawFoot() {
    const at = place();
    if (at === null) {
      foot.replaceChildren(n > 1 ? "Point at a cell, or move with the arrow keys, to read its weight." : "One token can only look at itself.");
      return;
    }
    if (at.column > at.row) {
      foot.replaceChildren(...named(at.row), " can't look at ", ...named(at.column), ", which comes later.");
      return;
    }
    const found = exact.get(exactKey(at));
    const rough = aboutWeight(codeAt(codes, at.row, at.column));
    if (facts.pool === 1) {
      const value = make("strong", "", found ? exactWeight(found.weight) : rough);
      foot.replaceChildren(...sentence(named(at.row), named(at.column), at.row === at.column, value));
    } else if (found) {
      const value = make("strong", "", exactWeight(found.weight));
      const query = [quoted(found.query_text), ` (${thousands(found.query)})`];
      const key = [quoted(found.key_text), ` (${thousands(found.key)})`];
      foot.replaceChildren("Highest in this cell: ", ...sentence(query, key, found.query === found.key, value));
    } else {
      foot.replaceChildren(
        ...named(at.row), " look at ", ...(at.row === at.column ? ["themselves"] : named(at.column)), ": highest ",
        make("strong", "", rough),
      );
    }
  }

  function askExact() {
    clearTimeout(timers.exact);
    const at = place();
    if (exported || at === null || at.column > at.row || exact.has(exactKey(at))) return;
    timers.exact = setTimeout(() => {
      asked = { type: "exact", layer: summary.layer, head: summary.head, row: at.row, column: at.column };
      model.send(asked);
    }, EXACT_DELAY);
  }

  function onAnswer(answer) {
    if (answer?.type !== "exact") return;
    if (exact.size > EXACT_KEPT) exact.clear();
    exact.set(`${answer.layer} ${answer.head} ${answer.row} ${answer.column}`, answer);
    drawFoot();
  }

  function saySoon() {
    clearTimeout(timers.say);
    timers.say = setTimeout(() => {
      said.textContent = held === null ? "" : spokenFoot();
    }, SAY_DELAY);
  }

  function spokenFoot() {
    if (facts.pool > 1) return foot.textContent;
    const value = foot.querySelector("strong")?.textContent ?? "";
    const key = held.row === held.column ? "itself" : `${spokenLabel(labels[held.column], 40)}, token ${held.column}`;
    return `${spokenLabel(labels[held.row], 40)}, token ${held.row}, looks at ${key}: ${value}`;
  }

  // -------------------------------------------------------------------------------------------------- beside it

  function drawSide() {
    spread.replaceChildren();
    if (summary.others !== null && facts.tokens > 2) {
      spread.append(
        `On average ${percentWhole(summary.first)} of a token's attention goes to the first token, ` +
          `${percentWhole(summary.self)} to itself, ${percentWhole(summary.others)} to the others.`,
      );
      if (summary.first > 0.5) spread.append(" The first token often takes what a head has no other use for: an attention sink.");
    }
    drawLinks();
    const said = [];
    if (summary.broken_rows > 0) {
      said.push(
        `${thousands(summary.broken_rows)} of ${thousands(facts.tokens)} tokens have weights that are not numbers (NaN); ` +
          "their cells are crossed out in orange.",
      );
    }
    if (summary.lowest_sum !== null) {
      said.push(
        `Rows sum to less than 1, the lowest to ${decimal(summary.lowest_sum, 3)}: this architecture lets a head send ` +
          "attention to a sink outside the text.",
      );
    }
    if (summary.ahead) said.push("This head also looks at later tokens; only those up to the token itself are drawn.");
    if (facts.pool > 1) {
      said.push(
        `Each cell stands for ${facts.pool} × ${facts.pool} tokens and shows the highest of their weights.`,
      );
    }
    const { chosen } = facts;
    if (chosen && chosen[0] === summary.layer && chosen[1] === summary.head) {
      said.push("Shown first because its tokens look most firmly at one other, the first token aside.");
    }
    if (exported && model.get("left_out")) {
      said.push(`Not in this file: ${model.get("left_out")}. They can be seen where the notebook runs.`);
    }
    notes.replaceChildren(...said.map((text) => make("p", "", text)));
  }

  const percentWhole = (share) => (share > 0.005 && share < 0.995 ? `${Math.round(share * 100)} %` : percent(share));

  function drawLinks() {
    links.replaceChildren();
    if (summary.links.length === 0) return;
    const table = make("table");
    const aside = facts.tokens > 2 ? ", those to the first token and to itself aside" : "";
    const caption = make("caption", "", "Strongest links");
    caption.append(make("span", "", aside));
    const header = make("tr");
    for (const name of ["Token", "looks at", "Weight"]) {
      const cell = make("th", "", name);
      cell.scope = "col";
      header.append(cell);
    }
    table.append(caption, header);
    for (const link of summary.links) {
      const row = make("tr");
      for (const [text, i] of [[link.query_text, link.query], [link.key_text, link.key]]) {
        const cell = make("td");
        cell.append(axisLabel(text, 24), make("span", "lk-att-number", ` ${i}`));
        row.append(cell);
      }
      row.append(make("td", "lk-att-weight", exactWeight(link.weight)));
      row.addEventListener("pointerenter", () => point(cellOf(link)));
      row.addEventListener("pointerleave", () => point(null));
      table.append(row);
    }
    links.append(table);
  }

  const cellOf = (link) => ({
    row: Math.floor(link.query / facts.pool),
    column: Math.floor(link.key / facts.pool),
  });

  // ---------------------------------------------------------------------------------------------------- listening

  function point(cell) {
    if (cell?.row === pointed?.row && cell?.column === pointed?.column) return;
    pointed = cell;
    drawPlace();
  }

  const under = (event) => {
    const box = grid.getBoundingClientRect();
    return cellAt(size, codes, event.clientX - box.left, event.clientY - box.top);
  };
  grid.addEventListener("pointermove", (event) => {
    if (event.pointerType !== "touch") point(under(event));
  });
  grid.addEventListener("pointerleave", () => point(null));
  grid.addEventListener("click", (event) => {
    held = under(event);
    drawPlace();
    saySoon();
  });
  grid.addEventListener("keydown", (event) => {
    if (!ownKey(event)) return;
    if (event.key === "Escape") {
      if (place() === null) grid.blur();
      held = pointed = null;
    } else {
      const start = place() ?? (summary.links.length > 0 ? cellOf(summary.links[0]) : { row: 0, column: 0 });
      const target = place() === null && event.key.startsWith("Arrow") ? start : cellAfterKey(event.key, start, n);
      if (target === null) return;
      held = target;
      pointed = null;
    }
    drawPlace();
    saySoon();
    event.preventDefault();
    event.stopPropagation();
  });
  const pick = () => choose(Number(layerPicker.select.value), Number(headPicker.select.value));
  layerPicker.select.addEventListener("change", pick);
  headPicker.select.addEventListener("change", pick);

  const recolour = () => {
    if (!readTheme()) return;
    paint();
    drawPlace();
  };
  const theme = new MutationObserver(recolour);
  for (const element of [document.documentElement, document.body]) {
    theme.observe(element, { attributes: true, attributeFilter: ["data-jp-theme-light", "data-jp-theme-name", "theme", "class"] });
  }
  const queries = ["(prefers-color-scheme: dark)", "print"].map((query) => window.matchMedia(query));
  for (const query of queries) query.addEventListener("change", recolour);
  let width = 0;
  const watcher = new ResizeObserver(() => {
    const now = body.clientWidth;
    if (now === width || now === 0) return;
    width = now;
    redraw();
  });

  const events = [
    ["change:layer", headChanged],
    ["change:head", headChanged],
    ["change:version", receive],
    ["msg:custom", onAnswer],
  ];
  measure();
  readTheme();
  headChanged();
  if (!exported) receive();
  watcher.observe(body);
  for (const [event, callback] of events) model.on(event, callback);
  return () => {
    for (const timer of Object.values(timers)) clearTimeout(timer);
    for (const query of queries) query.removeEventListener("change", recolour);
    theme.disconnect();
    watcher.disconnect();
    for (const [event, callback] of events) model.off(event, callback);
  };
}

export default { render };
