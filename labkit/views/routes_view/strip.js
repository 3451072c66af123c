// All layers at once: a row for each routed layer, a cell for each token, in the colour of the expert it goes to first.

import { make, ownKey } from "../kit/common.js";
import { NO_COLOUR, OTHERS, PALETTE, afterKey, rgbOf, stripCell, stripLayout, wantsWhite } from "./logic.js";

const EDGE = 3; // CSS pixels around the cells, for the frames
const LABEL_FONT = 11;
const DIMMED = 0.78; // how far a dimmed cell goes to the grey of the others

/**
 * actions: point([layer, token] or null), choose(layer, token, byKey), move(layer, token), layer(layer), leave(); context: dark(), tone(name).
 * Returns {element, grid, fill(route, layers), paint({layer, slot, changed, counts}), light(marks), focus(layer, token, held), resize(room), scrolls()}.
 */
export function layerStrip({ label, context, actions }) {
  const element = make("div", "lk-rt-strip");
  const names = make("div", "lk-rt-rows");
  const counts = make("div", "lk-rt-counts");
  const box = make("div", "lk-rt-box");
  const grid = make("div", "lk-rt-grid");
  grid.tabIndex = 0;
  grid.setAttribute("role", "application");
  grid.setAttribute("aria-label", `${label}: left and right move by token, up and down by layer, Enter holds, Escape lets go`);
  const canvas = make("canvas", "");
  // Frames are elements: a canvas as large as the strip would be painted whole for every move of the pointer.
  const frames = Object.fromEntries(["row", "column", "cell"].map((name) => [name, make("div", `lk-rt-frame lk-rt-frame-${name}`)]));
  for (const part of [canvas, ...Object.values(frames), names, counts]) part.setAttribute("aria-hidden", "true");
  grid.append(canvas, ...Object.values(frames));
  box.append(grid);
  element.append(names, box, counts);

  let route = null;
  let layers = [];
  let layout = null;
  let given = null;
  let room = 0;
  let spot = null; // {layer, token, held}
  const stamp = document.createElement("canvas"); // a pixel a cell

  function fill(next, numbers) {
    route = next;
    layers = numbers;
    spot = null;
    layout = null;
  }

  function paint(next) {
    given = next;
    if (layout === null && room > 0) resize(room);
    else if (layout) draw();
  }

  function size(surface, width, height, ratio) {
    surface.width = Math.max(1, Math.round(width * ratio));
    surface.height = Math.max(1, Math.round(height * ratio));
    surface.style.width = `${width}px`;
    surface.style.height = `${height}px`;
  }

  function resize(width) {
    room = width;
    if (route === null) return;
    const ratio = globalThis.devicePixelRatio || 1;
    const left = 9 + 7 * String(layers.at(-1)).length;
    const right = given?.counts ? 30 : 0;
    names.style.width = `${left}px`;
    counts.hidden = right === 0;
    layout = stripLayout(route.n, layers.length, width - left - right - 2 * EDGE, route.experts, ratio);
    grid.style.width = `${layout.width}px`;
    grid.style.height = `${layout.height}px`;
    size(canvas, layout.width, layout.height, ratio);
    if (given) draw();
  }

  function labels() {
    const every = layout.row >= LABEL_FONT ? 1 : layers.length > 40 ? 5 : 2;
    const make_ = (texts) =>
      texts.map((text, i) => {
        const name = make("span", i === given.layer ? "lk-rt-on" : "", text);
        name.style.top = `${(i + 0.5) * layout.row}px`;
        name.dataset.layer = String(i);
        return name;
      });
    names.style.height = counts.style.height = `${layout.height}px`;
    // where not every row has room for its number, the one on show has it in any case
    const written = (i) => i === given.layer || (i % every === 0 && Math.abs(i - given.layer) * layout.row >= LABEL_FONT);
    names.replaceChildren(...make_(layers.map((layer, i) => (written(i) ? String(layer) : ""))));
    counts.replaceChildren(...(given.counts ? make_(given.counts.map((count, i) => (written(i) ? String(count) : ""))) : []));
  }

  function draw() {
    drawRows(0, layers.length);
    labels();
    drawOver();
  }

  /** Light what an expert of the layer on show takes: one row is drawn anew. marks as of `tokensOf`, or null. */
  function light(marks) {
    if (given === null) return;
    given.lit = marks;
    if (layout) drawRows(given.layer, given.layer + 1);
  }

  function drawRows(from, to) {
    const dark = context.dark();
    const colours = PALETTE.map((pair) => rgbOf(pair[dark ? 1 : 0]));
    const others = rgbOf(OTHERS[dark ? 1 : 0]);
    const faded = colours.map((rgb) => rgb.map((v, i) => v + DIMMED * (others[i] - v)));
    stamp.width = route.n;
    stamp.height = to - from;
    const image = new ImageData(route.n, to - from);
    for (let l = from; l < to; l += 1) {
      const lit = l === given.layer ? given.lit : null;
      for (let t = 0; t < route.n; t += 1) {
        const slot = given.slot(l, route.expert(l, t));
        const dim = lit !== null && lit[t] === 0;
        const rgb = slot === NO_COLOUR ? others : (dim ? faded : colours)[slot];
        const at = 4 * ((l - from) * route.n + t);
        image.data[at] = rgb[0];
        image.data[at + 1] = rgb[1];
        image.data[at + 2] = rgb[2];
        image.data[at + 3] = 255;
      }
    }
    stamp.getContext("2d").putImageData(image, 0, 0);
    const brush = canvas.getContext("2d");
    const ratio = canvas.height / layout.height;
    brush.setTransform(ratio, 0, 0, ratio, 0, 0);
    brush.imageSmoothingEnabled = false;
    const [top, tall] = [from * layout.row, (to - from) * layout.row];
    brush.clearRect(0, top, layout.width, tall);
    brush.drawImage(stamp, 0, top, layout.width, tall);
    for (let l = from; l < to; l += 1) brush.clearRect(0, (l + 1) * layout.row - layout.gap, layout.width, layout.gap);
    if (layout.cell >= 8) for (let t = 1; t <= route.n; t += 1) brush.clearRect(t * layout.cell - 1, top, 1, tall);
    if (given.changed) marks(brush, from, to);
    if (layout.numbers) digits(brush, dark, from, to);
  }

  /** What chooses otherwise in the other trace has a line along its foot. */
  function marks(brush, from, to) {
    brush.fillStyle = context.tone("--lk-ink");
    const tall = layout.row >= 16 ? 3 : 2;
    for (let l = from; l < to; l += 1) {
      given.changed[l].forEach((mark, t) => {
        if (mark) brush.fillRect(t * layout.cell, (l + 1) * layout.row - layout.gap - tall, layout.cell - (layout.cell >= 8 ? 1 : 0), tall);
      });
    }
  }

  function digits(brush, dark, from, to) {
    const colours = PALETTE.map((pair) => rgbOf(pair[dark ? 1 : 0]));
    brush.font = `${LABEL_FONT}px system-ui, -apple-system, "Segoe UI", "Liberation Sans", sans-serif`;
    brush.textAlign = "center";
    brush.textBaseline = "middle";
    for (let l = from; l < to; l += 1) {
      for (let t = 0; t < route.n; t += 1) {
        const expert = route.expert(l, t);
        const slot = given.slot(l, expert);
        const light = slot === NO_COLOUR ? dark : wantsWhite(colours[slot]);
        brush.fillStyle = light ? "#ffffff" : "#000000";
        brush.fillText(String(expert), (t + 0.5) * layout.cell - 0.5, (l + 0.5) * layout.row - layout.gap / 2);
      }
    }
  }

  function drawOver() {
    const put = (frame, x, y, width, height) => {
      frame.style.transform = `translate(${x}px, ${y}px)`;
      frame.style.width = `${width}px`;
      frame.style.height = `${height}px`;
    };
    put(frames.row, -2, given.layer * layout.row - 2, layout.width + 3, layout.row - layout.gap + 4);
    frames.column.hidden = frames.cell.hidden = spot === null;
    if (spot === null) return;
    const [x, wide] = [spot.token * layout.cell - 2, Math.max(layout.cell, 3) + 3];
    put(frames.column, x, -2, wide, layout.height + 2);
    put(frames.cell, x, spot.layer * layout.row - 2, wide, layout.row - layout.gap + 4);
    frames.cell.classList.toggle("lk-rt-frame-held", spot.held);
  }

  function focus(layer, token, held, follow = false) {
    spot = token === null ? null : { layer, token, held };
    if (layout === null || given === null) return;
    drawOver();
    if (spot && follow) {
      const x = spot.token * layout.cell;
      if (x < box.scrollLeft || x + layout.cell > box.scrollLeft + box.clientWidth) box.scrollLeft = x - box.clientWidth / 2;
    }
  }

  const cellOf = (event) => {
    const bounds = grid.getBoundingClientRect();
    return layout && stripCell(layout, event.clientX - bounds.left, event.clientY - bounds.top);
  };
  grid.addEventListener("pointermove", (event) => {
    if (event.pointerType !== "touch") actions.point(cellOf(event));
  });
  grid.addEventListener("pointerleave", () => actions.point(null));
  grid.addEventListener("click", (event) => {
    const cell = cellOf(event);
    if (cell) actions.choose(...cell);
  });
  names.addEventListener("click", (event) => {
    const { layer } = /** @type {HTMLElement} */ (event.target).dataset;
    if (layer !== undefined) actions.layer(Number(layer));
  });
  grid.addEventListener("keydown", (event) => {
    if (!ownKey(event) || given === null) return;
    const at = [given.layer, spot?.token ?? 0];
    const target = afterKey(event.key, at, layers.length, route.n);
    if (target !== null) actions.move(...target);
    else if (event.key === "Enter" || event.key === " ") actions.choose(...at, true);
    else if (event.key === "Escape") {
      if (!actions.leave()) grid.blur();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  });

  return { element, grid, fill, paint, light, focus, resize, scrolls: () => layout !== null && layout.width > box.clientWidth };
}
