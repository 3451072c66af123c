// The lens view: a grid for each lens on show, the distribution of the cell in focus, and the text while it is written.

import { aloud } from "../kit/aloud.js";
import { unlessDropped } from "../kit/ask.js";
import { barRow } from "../kit/bars.js";
import { sized } from "../kit/canvas.js";
import { colour, hexOf, needsLight, ramp } from "../kit/colour.js";
import { colourScale } from "../kit/colour_scale.js";
import { box, counted, make, percent, pixels, sayOrHide, setText, significant, spokenLabel, unread, visibleLabel } from "../kit/common.js";
import { button, picker, setOptions, traitPicker } from "../kit/controls.js";
import { isBusy, statusLine, textField } from "../kit/field.js";
import { pictureGrid } from "../kit/grid.js";
import { cellTarget } from "../kit/keys.js";
import { plain } from "../kit/line_chart.js";
import { mount } from "../kit/mount.js";
import { sheet } from "../kit/sheet.js";
import { cellAt, cellWidth, depth, HIGH, readCells } from "./logic.js";

/** @typedef {import("../kit/mount.js").Mounted} Mounted */
/** @typedef {import("./logic.js").Facts} Facts */
/** @typedef {import("./logic.js").Cells} Cells */
/** @typedef {{column: number, row: number}} At */

const PAGE = 8; // cells that the page keys move by

/**
 * The grid of one lens. Returns {element, draw(), focus()}.
 * @param {Mounted} view
 * @param {() => Cells} cells
 * @param {() => string} lens its name, "" for none
 * @param {{held: () => At | null, pointed: () => At | null, point: (at: At | null) => void, hold: (at: At | null) => void}} act
 */
function gridPane(view, cells, lens, act) {
  const facts = /** @type {Facts} */ (view.get("facts"));
  const title = make("h2");
  const [under, over] = [make("canvas", "lk-lens-canvas"), make("canvas", "lk-lens-canvas lk-lens-over")];
  unread(under, over);
  let wide = 0;
  const rows = facts.layers.length;
  const picture = pictureGrid("", {
    label: "Layers downward, tokens across. Arrow keys move, Escape lets go.",
    at: (x, y) => cellAt(x, y, wide, cells().columns, rows),
    point: act.point,
    choose: (at) => act.hold(at),
    key: press,
  });
  picture.append(under, over);
  const scroller = sheet(picture);
  const element = box("lk-lens-pane", title, scroller.element);

  /** @param {KeyboardEvent} event */
  function press({ key }) {
    const now = act.held();
    if (key === "Escape") {
      act.hold(null);
      return now !== null;
    }
    const from = now ?? { row: rows - 1, column: cells().columns - 1 };
    const target = cellTarget(key, from, { rows, columns: cells().columns, page: [PAGE, PAGE] });
    if (target === null || cells().columns === 0) return false;
    act.hold(now === null ? from : target);
    const { column, row } = now === null ? from : target;
    scroller.reveal((column + 0.5) * wide, (row + 0.5) * HIGH);
    return true;
  }

  function drawCells() {
    const all = cells();
    const kind = facts.kinds.indexOf(lens());
    const tokens = view.get("tokens");
    const texts = view.get("texts");
    const dark = view.theme.dark();
    const own = facts.layers.indexOf(facts.depth);
    const brush = sized(under, all.columns * wide, rows * HIGH);
    brush.font = "11px system-ui, sans-serif";
    brush.textBaseline = "middle";
    const fits = Math.floor((wide - 8) / 6);
    const labels = new Map();
    for (let column = 0; column < all.columns; column += 1) {
      const final = own < 0 ? -1 : all.top(column, kind, own);
      for (let row = 0; row < rows; row += 1) {
        const top = all.top(column, kind, row);
        if (top < 0) continue;
        const rgb = colour(depth(all, view.get("colour"), column, kind, row), dark);
        const [x, y] = [column * wide, row * HIGH];
        brush.fillStyle = hexOf(rgb);
        brush.fillRect(x, y, wide - 1, HIGH - 1);
        if (!labels.has(top)) labels.set(top, visibleLabel(texts[top], fits, { spaces: false }).trim() || "·");
        brush.fillStyle = needsLight(rgb) ? "#ffffff" : "#000000";
        brush.fillText(labels.get(top), x + 4, y + HIGH / 2, wide - 8);
        // what the model itself says in the end
        if (top === final && row !== own) brush.fillRect(x + 4, y + HIGH - 4, Math.min(14, wide - 10), 1.5);
      }
    }
    const from = all.columns - view.get("written");
    for (const each of [under, over, picture]) pixels(each, { width: all.columns * wide, height: rows * HIGH });
    scroller.drawRows(facts.layers.map((layer, row) => ({ top: row * HIGH, bottom: (row + 1) * HIGH, text: layer === facts.depth ? "output" : layer === 0 ? "tokens" : String(layer) })));
    scroller.drawColumns(
      Array.from({ length: all.columns }, (_, column) => ({
        left: column * wide,
        right: (column + 1) * wide,
        token: tokens[column],
        said: `${column}: ${visibleLabel(tokens[column], 60)}${column >= from ? ", written by the model" : ""}`,
      })),
    );
  }
  function drawFocus() {
    const brush = sized(over, cells().columns * wide, rows * HIGH);
    for (const [at, width] of /** @type {[At | null, number][]} */ ([[act.pointed(), 1.5], [act.held(), 3]])) {
      if (at === null) continue;
      brush.strokeStyle = view.theme.colour("--lk-focus");
      brush.lineWidth = width;
      brush.strokeRect(at.column * wide + width / 2 - 0.5, at.row * HIGH + width / 2 - 0.5, wide - width, HIGH - width);
    }
  }
  return {
    element,
    drawFocus,
    draw() {
      element.hidden = lens() === "";
      if (element.hidden) return;
      const room = scroller.element.clientWidth - scroller.gutter;
      if (room < 60) return;
      setText(title, `${plain(lens(), 40)} lens`);
      picture.setAttribute("aria-description", `${plain(facts.extent, 80)}; ${counted(cells().columns, "token")}, ${plain(lens(), 40)} lens.`);
      wide = cellWidth(cells().columns, room);
      drawCells();
      drawFocus();
    },
    /** Bring the newest token into sight. */
    follow() {
      scroller.element.scrollLeft = scroller.element.scrollWidth;
    },
  };
}

/** @param {{model: import("../kit/ask.js").Model, el: HTMLElement}} widget */
function render(widget) {
  const view = mount(widget, "lk-lens");
  const { root, exported } = view;
  root.classList.add("lk-panes");
  const facts = /** @type {Facts} */ (view.get("facts"));
  const read = () => readCells(facts, view.get("texts"), view.get("places"), view.get("probabilities"), view.get("divergences"));
  let cells = read();
  /** @type {At | null} */
  let pointed = null;
  /** @returns {At | null} */
  const held = () => {
    const [column, row] = view.get("held");
    return column === undefined ? null : { column, row };
  };

  const title = make("p", "lk-lens-title", facts.title);
  title.hidden = !facts.title;
  const head = make("p", "lk-muted");
  const line = statusLine();
  const prompt = textField(view, { trait: "typed", title: "Prompt", lines: 2, delay: 0, hear: line.hear });
  const press = button("Write", "", () => {
    const busy = isBusy(view.get("status"));
    view.wire.ask(busy ? "stop" : "write", {}, { latest: "button", repeat: busy }).catch(unlessDropped((error) => line.hear(Promise.reject(error))));
  });
  const writing = box("lk-lens-writing", prompt.element, box("lk-actions", press, line.element));
  writing.hidden = exported || !view.get("can_write");

  const several = facts.kinds.length > 1;
  const names = facts.kinds.map((kind) => ({ value: kind, title: plain(kind, 40) }));
  const first = picker("Lens", view.id("kind"), names, (value) => view.set("kind", value));
  const second = picker("Beside it", view.id("beside"), [{ value: "", title: "none" }, ...names], (value) => view.set("beside", value));
  for (const { pair } of [first, second]) pair.hidden = !several;
  const tint = traitPicker(view, "Colour", "colour", { probability: "probability of the token", divergence: "KL from the output" });
  const scale = colourScale();
  const bar = box("lk-controls", first.pair, second.pair, tint, scale.element);

  const act = {
    held,
    pointed: () => pointed,
    /** @param {At | null} at */
    point(at) {
      if (JSON.stringify(at) === JSON.stringify(pointed)) return;
      pointed = at;
      for (const grid of grids) grid.drawFocus();
      drawPanel();
    },
    /** @param {At | null} at */
    hold(at) {
      view.set("held", at === null ? [] : [at.column, at.row]);
      const now = held();
      if (now !== null) spoken.say(() => sentence(now));
    },
  };
  const grids = [gridPane(view, () => cells, () => view.get("kind"), act), gridPane(view, () => cells, () => view.get("beside"), act)];
  const spoken = aloud(view);
  const nothing = make("p", "lk-muted");
  const panel = make("section", "lk-focus-panel lk-lens-panel");
  const note = make("p", "lk-muted lk-small", "Rows: how many layers the state has passed. A cell shows the token that the lens reads there as the most probable to follow; underlined where it is what the model itself says in the end. A reading is a correlation, no cause.");
  root.append(title, head, writing, bar, nothing, box("lk-lens-grids", ...grids.map(({ element }) => element)), panel, note, spoken.element);

  const lenses = () => [view.get("kind"), view.get("beside")].filter((name, i, all) => name && all.indexOf(name) === i);
  /** @param {At} at */
  const where = ({ column, row }) => `${facts.layers[row] === facts.depth ? "the output" : `${counted(facts.layers[row], "layer")} passed`}, after “${visibleLabel(view.get("tokens")[column] ?? "", 24)}” (${column})`;
  /** @param {At} at */
  function sentence(at) {
    const cell = cells.cell(at.column, facts.kinds.indexOf(view.get("kind")), at.row);
    return `${where(at)}: ${cell === null ? "not read here" : `${spokenLabel(cell.tokens[0])} ${percent(cell.probabilities[0])}`}`;
  }

  function drawPanel() {
    const at = pointed ?? held();
    const heading = make("h2", "", at === null ? "No cell is chosen" : where(at));
    heading.id = view.id("cell");
    panel.setAttribute("aria-labelledby", heading.id);
    if (at === null) return panel.replaceChildren(heading, make("p", "lk-muted", "Click a cell for its distribution, or go through them with the arrow keys."));
    const parts = lenses().map((name) => {
      const cell = cells.cell(at.column, facts.kinds.indexOf(name), at.row);
      const own = box("lk-lens-distribution");
      const kl = cell === null || Number.isNaN(cell.kl) ? "" : `, KL from the output ${significant(cell.kl)} nats`;
      own.append(make("h3", "", `${plain(name, 40)}${kl}`));
      if (cell === null) own.append(make("p", "lk-muted", "This lens does not read here."));
      else {
        const list = make("ul", "lk-bars");
        list.append(...cell.tokens.map((token, i) => barRow({ name: make("bdi", "", visibleLabel(token, 28)), share: cell.probabilities[i], number: percent(cell.probabilities[i]), exact: String(cell.probabilities[i]) }).element));
        own.append(list);
      }
      return own;
    });
    panel.replaceChildren(heading, box("lk-split", ...parts));
  }

  function drawScale() {
    const dark = view.theme.dark();
    const by = view.get("colour") === "probability";
    const marks = by ? [{ at: 0, text: "0" }, { at: 0.5, text: "0.5" }, { at: 1, text: "1" }] : [{ at: 0, text: `${significant(cells.largest)} nats` }, { at: 1, text: "0" }];
    scale.draw(ramp(dark), marks, by ? "Colours from probability 0 to 1" : "Colours from far from the output to the same as the output");
  }
  function draw() {
    first.select.value = view.get("kind");
    setOptions(second.select, [{ value: "", title: "none" }, ...names.filter(({ value }) => value !== view.get("kind"))], view.get("beside"));
    const written = view.get("written");
    head.replaceChildren(make("strong", "", plain(facts.model, 80)), ` · ${plain(facts.extent, 80)} · ${counted(cells.columns, "token")}${written > 0 ? `, the last ${written} written by the model` : ""}`);
    sayOrHide(nothing, cells.columns > 0 ? "" : "Nothing has been read yet.");
    for (const grid of grids) grid.draw();
    drawScale();
    drawPanel();
  }
  function follow() {
    const status = view.get("status");
    const busy = isBusy(status);
    setText(press, busy ? "Stop" : "Write");
    line.draw(status, "reading the prompt …");
  }
  draw();
  follow();
  view.on(["version"], () => {
    const before = cells.columns;
    cells = read();
    draw();
    if (cells.columns > before && held() === null) for (const grid of grids) grid.follow();
  });
  view.on(["kind", "beside", "colour"], () => {
    if (view.get("kind") === view.get("beside")) view.set("beside", "");
    draw();
  });
  view.on("held", () => {
    for (const grid of grids) grid.drawFocus();
    drawPanel();
  });
  view.on("status", follow);
  view.themed(draw);
  view.resized(() => {
    view.theme.read();
    draw();
  });
  view.atEnd(line.clear);
  return view.unmount;
}

export default { render };
