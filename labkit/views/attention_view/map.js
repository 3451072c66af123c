// The map: a thumbnail of every head, layers downward, with a bar for the measure of choice.

import { aloud } from "../kit/aloud.js";
import { make, ownKey } from "../kit/common.js";
import { picker, setOptions } from "../kit/controls.js";
import { arranged, decodeMap, dots, mapLayout, sayMeasure, slotAfterKey, slotAt } from "./logic.js";

const ORDERS = [{ value: "layers", title: "layers × heads" }, { value: "highest", title: "highest first" }];
const PARTS = 8;
const PEEK = 116; // CSS pixels of the larger copy
const EDGE = 2; // CSS pixels around the map, for the frames of its outermost heads

/**
 * actions: open(layer, head, beside, byKey) shows a head; mark(layer, head) marks or unmarks it. held: whether a file holds a
 * head; null where there is a kernel. Returns {element, grid, update(), resize(width), recolour(), paintOver()}.
 */
export function headMap({ view, facts, context, actions, held }) {
  const { layers, heads } = facts;
  const count = layers.length * heads;
  const own = facts.measures.filter(({ name }) => !name.startsWith("given:")).map(({ name }) => name);
  const given = facts.measures.filter(({ name }) => name.startsWith("given:")).map(({ name }) => name);
  const extra = new Map();
  {
    const data = view.get("extra");
    given.forEach((name, k) => {
      extra.set(name, Float32Array.from({ length: count }, (_, i) => data.getFloat32(4 * (k * count + i), true)));
    });
  }

  const element = make("div", "lk-att-map");
  const controls = make("div", "lk-att-controls");
  const measurePicker = picker("Bars", view.id("measure"));
  const orderPicker = picker("Order", view.id("order"), ORDERS);
  const [measurePick, orderPick] = [measurePicker.select, orderPicker.select];
  controls.append(measurePicker.pair, orderPicker.pair);

  const box = make("div", "lk-att-mapbox");
  const headsLine = make("div", "lk-att-mapheads");
  const field = make("div", "lk-att-mapfield");
  const canvas = make("canvas", "lk-att-mapcanvas");
  const over = make("canvas", "lk-att-mapover");
  const layerNames = make("div", "lk-att-maplayers");
  const grid = make("div", "lk-att-mapgrid");
  grid.tabIndex = 0;
  grid.setAttribute("role", "application");
  for (const part of [canvas, over, layerNames, headsLine]) part.setAttribute("aria-hidden", "true");
  grid.append(canvas, over);
  field.append(layerNames, grid);
  box.append(headsLine, field);

  const peek = make("div", "lk-att-peek");
  const peekCanvas = make("canvas", "lk-att-peekcanvas");
  const peekLine = make("p", "");
  peek.append(peekCanvas, peekLine);
  peek.setAttribute("aria-hidden", "true");
  peek.hidden = true;

  const legend = make("p", "lk-att-maplegend");
  legend.id = view.id("legend");
  grid.setAttribute("aria-describedby", legend.id);
  const progress = make("p", "lk-att-progress");
  progress.setAttribute("role", "status");
  const said = aloud();
  const below = make("p", "lk-att-mapnotes");
  element.append(controls, legend, box, below, progress, said.element, peek);

  let map = null;
  let decoded = null;
  let order = []; // slot -> place
  let width = 0;
  let cursor = null; // a slot, by keyboard
  let pointed = null; // a slot, under the pointer
  let stamps = new Map(); // place -> canvas with the thumbnail in this theme's colours

  const placeOf = (layer, head) => layers.indexOf(layer) * heads + head;
  const headOf = (place) => [layers[Math.floor(place / heads)], place % heads];
  const measureFacts = () => facts.measures.find(({ name }) => name === view.get("measure"));
  /** What looking evenly would give; not known where the first token is set aside. */
  const even = (fact) => (context.mapAside() ? null : (fact?.uniform ?? null));
  const values = (name = view.get("measure")) => extra.get(name) ?? decoded?.measures.get(name);

  function readParts() {
    const parts = Array.from({ length: PARTS }, (_, i) => view.get(`map_${i}`));
    decoded = decodeMap(parts, { layers: layers.length, heads, names: own, aside: context.mapAside() });
    stamps = new Map();
  }

  function options() {
    const offered = facts.measures.filter(({ name }) => {
      const all = values(name);
      return decoded.done < layers.length || all?.some((v) => !Number.isNaN(v)) || name === view.get("measure");
    });
    setOptions(measurePick, offered.map(({ name, title }) => ({ value: name, title })), view.get("measure"));
    orderPick.value = view.get("order");
  }

  /** Everything anew: parts came, or the measure, the order, the shown or marked heads changed. */
  function update() {
    readParts();
    options();
    drawWords();
    if (width > 0) resize(width, true);
  }

  function drawWords() {
    const fact = measureFacts();
    const all = [...(values() ?? [])].filter((v) => !Number.isNaN(v));
    const parts = [];
    const notes = [];
    if (facts.tokens[0] === 1) parts.push("One token can only look at itself: there is nothing to measure.");
    else if (fact && all.length > 0) {
      parts.push(`Bar: ${fact.title}, up to ${sayMeasure(Math.max(...all), fact.unit)}.`);
      if (Math.min(...all) < 0) parts.push("Orange: below zero.");
      if (even(fact) !== null) {
        parts.push(`Looking evenly at everything would give ${sayMeasure(fact.uniform, fact.unit)} (the tick).`);
      }
      if (fact.text) notes.push(fact.text);
    } else if (fact && decoded.done === layers.length) parts.push(`${fact.title}: not defined for this text.`);
    if (facts.kv_heads < heads && view.get("order") === "layers") notes.push("Heads that share keys and values stand together.");
    if (decoded.done > 0 && decoded.rows < facts.tokens[0]) {
      notes.push(`From ${decoded.rows} of the ${facts.tokens[0]} rows, evenly spread.`);
    }
    if (held && layers.some((_, i) => !held(...headOf(i * heads)))) notes.push("Pale heads are not in this file.");
    if (held && context.aside()) notes.push("The thumbnails show all weights, the first token's too.");
    legend.textContent = parts.join(" ");
    below.textContent = notes.join(" ");
    const left = layers.length - decoded.done;
    const { state, message } = view.get("map_status");
    progress.textContent = state === "failed" ? message : left > 0 ? `Computing the map: ${decoded.done} of ${layers.length} layers …` : "";
    grid.setAttribute(
      "aria-label",
      `Map of ${count} heads: arrow keys move, Enter shows a head, Shift and Enter beside the other, Space marks it`,
    );
  }

  function resize(now, force = false) {
    if (now === width && !force) return;
    width = now;
    const sorted = view.get("order") === "highest";
    map = mapLayout({ layers: layers.length, heads, kvHeads: facts.kv_heads, width: width - 30, order: view.get("order") });
    order = arranged(count, view.get("order"), values());
    const dpr = globalThis.devicePixelRatio || 1;
    for (const [each, edge] of /** @type {const} */ ([[canvas, 0], [over, EDGE]])) {
      each.width = Math.round((map.width + 2 * edge) * dpr);
      each.height = Math.round((map.height + 2 * edge) * dpr);
    }
    grid.style.width = `${map.width}px`;
    grid.style.height = `${map.height}px`;
    const everyHead = map.pitch >= 16 ? 1 : 8;
    headsLine.replaceChildren();
    layerNames.replaceChildren();
    headsLine.hidden = layerNames.hidden = sorted;
    if (!sorted) {
      for (let head = 0; head < heads; head += everyHead) {
        const name = make("span", "", String(head));
        name.style.left = `${map.x(head) + map.size / 2}px`;
        headsLine.append(name);
      }
      const everyLayer = map.rowPitch >= 13 ? 1 : Math.ceil(13 / map.rowPitch);
      for (let row = 0; row < layers.length; row += everyLayer) {
        const name = make("span", "", String(layers[row]));
        name.style.top = `${row * map.rowPitch + map.size / 2}px`;
        layerNames.append(name);
      }
    }
    paint();
  }

  /** A thumbnail in colour, made once. */
  function stamp(place) {
    const there = stamps.get(place);
    if (there) return there;
    const codes = decoded.thumbnails.get(place);
    if (!codes) return null;
    const side = decoded.side;
    const image = new ImageData(side, side);
    const pixels = new Uint32Array(image.data.buffer);
    const colours = new Uint32Array(context.palette().buffer);
    const picture = dots(codes, side);
    for (let i = 0; i < pixels.length; i += 1) pixels[i] = colours[picture[i]];
    const small = make("canvas");
    small.width = small.height = side;
    small.getContext("2d").putImageData(image, 0, 0);
    stamps.set(place, small);
    return small;
  }

  function paint() {
    if (map === null) return;
    const dpr = globalThis.devicePixelRatio || 1;
    const brush = canvas.getContext("2d");
    const [wash, accent, ink, negative] = ["--lk-wash", "--lk-accent", "--lk-muted", "--lk-unsure"].map(context.colour);
    brush.setTransform(dpr, 0, 0, dpr, 0, 0);
    brush.clearRect(0, 0, map.width, map.height);
    const all = values();
    const fact = measureFacts();
    const finite = [...(all ?? [])].filter((v) => !Number.isNaN(v));
    brush.font = "8px system-ui, sans-serif";
    const top = Math.max(1e-9, ...finite.map(Math.abs));
    for (let slot = 0; slot < count; slot += 1) {
      const place = order[slot];
      const x = map.x(slot % map.columns);
      const y = Math.floor(slot / map.columns) * map.rowPitch;
      brush.fillStyle = wash;
      brush.fillRect(x, y, map.size, map.size);
      const small = stamp(place);
      if (small) {
        brush.imageSmoothingEnabled = map.size * dpr < small.width;
        brush.globalAlpha = held && !held(...headOf(place)) ? 0.55 : 1; // what can't be opened stands back
        brush.drawImage(small, x, y, map.size, map.size);
        brush.globalAlpha = 1;
      }
      if (map.caption > 0) {
        brush.fillStyle = ink;
        brush.fillText(headOf(place).join("·"), x, y + map.size + map.bar + map.caption - 2);
      }
      const value = all?.[place];
      if (value && !Number.isNaN(value)) {
        brush.fillStyle = value > 0 ? accent : negative;
        brush.fillRect(x, y + map.size + 1, Math.max(1, (map.size * Math.abs(value)) / top), Math.max(1, map.bar - 1));
        if (even(fact) > 0 && map.size > 12) {
          brush.fillStyle = ink;
          brush.fillRect(x + Math.min(map.size - 1, (map.size * fact.uniform) / top), y + map.size, 1, map.bar + 1);
        }
      }
    }
    paintOver();
  }

  function paintOver() {
    if (map === null) return;
    const dpr = globalThis.devicePixelRatio || 1;
    const brush = over.getContext("2d");
    brush.setTransform(dpr, 0, 0, dpr, EDGE * dpr, EDGE * dpr);
    brush.clearRect(-EDGE, -EDGE, map.width + 2 * EDGE, map.height + 2 * EDGE);
    const style = getComputedStyle(over);
    const frame = (place, colour, line, dash = []) => {
      const slot = order.indexOf(place);
      if (slot < 0) return;
      const x = map.x(slot % map.columns);
      const y = Math.floor(slot / map.columns) * map.rowPitch;
      brush.strokeStyle = colour;
      brush.lineWidth = line;
      brush.setLineDash(dash);
      brush.strokeRect(x - 0.5, y - 0.5, map.size + 1, map.size + 1);
      brush.setLineDash([]);
    };
    const marked = view.get("marked");
    for (const [layer, head] of marked) {
      const slot = order.indexOf(placeOf(layer, head));
      const x = map.x(slot % map.columns) + map.size;
      const y = Math.floor(slot / map.columns) * map.rowPitch;
      const corner = Math.max(5, map.size / 2.5);
      brush.fillStyle = context.colour("--lk-unsure");
      brush.beginPath();
      brush.moveTo(x - corner, y);
      brush.lineTo(x, y);
      brush.lineTo(x, y + corner);
      brush.fill();
    }
    const beside = view.get("beside");
    if (beside.length === 3) frame(placeOf(beside[1], beside[2]), style.color, 2, [3, 2]);
    frame(placeOf(view.get("layer"), view.get("head")), style.color, 2);
    const at = pointed ?? cursor;
    if (at !== null) frame(order[at], context.colour("--lk-ink"), 1);
  }

  /** What is said of a head in one line. */
  function line(place) {
    const [layer, head] = headOf(place);
    const parts = [`layer ${layer} · head ${head}`];
    const name = view.get("measure");
    const fact = measureFacts();
    if (fact && values()) parts.push(`${fact.title} ${sayMeasure(values()[place], fact.unit)}`);
    /** @type {[string, (v: number) => string][]} */
    const others = [
      ["distance", (v) => `looks ${v.toFixed(1)} tokens back`],
      ["first", (v) => `${Math.round(100 * v)} % on the first token`],
      ["induction", (v) => `induction ${sayMeasure(v, "share")}`],
    ];
    for (const [other, say] of others) {
      const value = decoded.measures.get(other)?.[place];
      if (other !== name && value !== undefined && !Number.isNaN(value)) parts.push(say(value));
    }
    if (view.get("marked").some(([l, h]) => l === layer && h === head)) parts.push("marked");
    if (held && !held(layer, head)) parts.push("not in this file");
    return parts.join(" · ");
  }

  function showPeek() {
    const slot = pointed ?? (document.activeElement === grid ? cursor : null);
    peek.hidden = slot === null;
    if (slot === null) return;
    const place = order[slot];
    peekLine.textContent = line(place);
    const dpr = globalThis.devicePixelRatio || 1;
    peekCanvas.width = peekCanvas.height = Math.round(PEEK * dpr);
    const brush = peekCanvas.getContext("2d");
    brush.imageSmoothingEnabled = false;
    const small = stamp(place);
    if (small) brush.drawImage(small, 0, 0, peekCanvas.width, peekCanvas.height);
    const x = map.x(slot % map.columns);
    const y = Math.floor(slot / map.columns) * map.rowPitch;
    const home = element.getBoundingClientRect();
    const at = grid.getBoundingClientRect();
    const left = at.left - home.left + x + map.size + 10;
    peek.style.left = `${Math.max(0, Math.min(left, context.width() - PEEK - 60))}px`;
    peek.style.top = `${at.top - home.top + y + map.rowPitch + 6}px`;
  }

  function point(slot) {
    if (slot === pointed) return;
    pointed = slot;
    paintOver();
    showPeek();
  }

  const slotOf = (event) => {
    const bounds = grid.getBoundingClientRect();
    const slot = slotAt(map, event.clientX - bounds.left, event.clientY - bounds.top);
    return slot !== null && slot < count ? slot : null;
  };
  grid.addEventListener("pointermove", (event) => {
    if (event.pointerType !== "touch") point(slotOf(event));
  });
  grid.addEventListener("pointerleave", () => point(null));
  grid.addEventListener("blur", showPeek);
  grid.addEventListener("click", (event) => {
    const slot = slotOf(event);
    if (slot === null) return;
    cursor = slot;
    if (event.ctrlKey || event.metaKey) actions.mark(...headOf(order[slot]));
    else actions.open(...headOf(order[slot]), event.shiftKey);
  });
  grid.addEventListener("keydown", (event) => {
    const beside = event.key === "Enter" && event.shiftKey;
    if (!ownKey(event) && !beside) return;
    const now = cursor ?? order.indexOf(placeOf(view.get("layer"), view.get("head")));
    if (event.key === "Escape") {
      cursor = null;
      grid.blur();
    } else if (event.key === "Enter") actions.open(...headOf(order[now]), beside, true);
    else if (event.key === " ") actions.mark(...headOf(order[now]));
    else {
      const target = slotAfterKey(event.key, now, map);
      if (target === null) return;
      cursor = target;
    }
    pointed = null;
    paintOver();
    showPeek();
    if (cursor !== null) {
      said.say(() => (cursor === null ? null : line(order[cursor])));
      const y = Math.floor(cursor / map.columns) * map.rowPitch;
      if (box.scrollHeight > box.clientHeight) box.scrollTop = Math.max(0, y - box.clientHeight / 2);
    }
    event.preventDefault();
    event.stopPropagation();
  });
  measurePick.addEventListener("change", () => view.set("measure", measurePick.value));
  orderPick.addEventListener("change", () => {
    cursor = null;
    view.set("order", orderPick.value);
  });

  view.atEnd(said.close);
  return {
    element,
    grid,
    update,
    resize,
    recolour() {
      stamps = new Map();
      paint();
    },
    paintOver,
  };
}
