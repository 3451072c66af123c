// The cells of the layer strip on its canvas.

import { stamp } from "../kit/canvas.js";
import { needsLight, rgbOf } from "../kit/colour.js";
import { NO_COLOUR } from "./logic.js";

export const LABEL_FONT = 11; // CSS pixels
const DIMMED = 0.78; // how far a dimmed cell goes to the grey of the others
const APART_FROM = 8; // CSS pixels of a cell, from where cells stand apart

/**
 * Paint the rows `from` to `to`; on the layer on show, what the expert in focus does not take is dimmed.
 * @param {CanvasRenderingContext2D} brush
 * @param {import("./logic.js").StripLayout} layout
 * @param {import("./state.js").Focus} focus
 * @param {number} from
 * @param {number} to
 */
export function paintRows(brush, layout, { route, shared, lit }, from, to) {
  const { cell, row, gap, width } = layout;
  const dark = shared.view.theme.dark();
  const [others, ...colours] = [shared.others, ...shared.palette].map((pair) => rgbOf(pair[dark ? 1 : 0]));
  const faded = colours.map((rgb) => rgb.map((v, i) => v + DIMMED * (others[i] - v)));
  const palette = Uint8ClampedArray.from([others, ...colours, ...faded].flatMap((rgb) => [...rgb, 255]));
  const [top, tall] = [from * row, (to - from) * row];
  brush.clearRect(0, top, width, tall);
  const codes = Uint8Array.from({ length: (to - from) * route.n }, (_, i) => {
    const [layer, token] = [from + Math.floor(i / route.n), i % route.n];
    const slot = shared.slot(layer, route.expert(layer, token));
    const dim = slot !== NO_COLOUR && layer === shared.layer && lit?.[token] === 0;
    return slot + 1 + (dim ? colours.length : 0);
  });
  brush.drawImage(stamp(codes, route.n, to - from, palette), 0, top, width, tall);
  for (let layer = from; layer < to; layer += 1) brush.clearRect(0, (layer + 1) * row - gap, width, gap);
  if (cell >= APART_FROM) for (let token = 1; token <= route.n; token += 1) brush.clearRect(token * cell - 1, top, 1, tall);
  for (let layer = from; layer < to; layer += 1) {
    if (shared.changes) paintChanges(brush, layout, shared.changes[layer], layer, shared.view.theme.colour("--lk-ink"));
    if (layout.numbers) paintNumbers(brush, layout, layer, route, (expert) => {
      const slot = shared.slot(layer, expert);
      return slot === NO_COLOUR ? dark : needsLight(colours[slot]);
    });
  }
}

/**
 * What chooses otherwise in the other trace has a line along its foot.
 * @type {(brush: CanvasRenderingContext2D, layout: import("./logic.js").StripLayout, changes: Uint8Array, layer: number, ink: string) => void}
 */
function paintChanges(brush, { cell, row, gap }, changes, layer, ink) {
  const tall = row >= 16 ? 3 : 2;
  brush.fillStyle = ink;
  changes.forEach((mark, token) => {
    if (mark) brush.fillRect(token * cell, (layer + 1) * row - gap - tall, cell - (cell >= APART_FROM ? 1 : 0), tall);
  });
}

/**
 * light(expert): whether its number is to be white.
 * @type {(brush: CanvasRenderingContext2D, layout: import("./logic.js").StripLayout, layer: number, route: import("./logic.js").Route, light: (expert: number) => boolean) => void}
 */
function paintNumbers(brush, { cell, row, gap }, layer, route, light) {
  brush.font = `${LABEL_FONT}px system-ui, -apple-system, "Segoe UI", "Liberation Sans", sans-serif`;
  brush.textAlign = "center";
  brush.textBaseline = "middle";
  for (let token = 0; token < route.n; token += 1) {
    const expert = route.expert(layer, token);
    brush.fillStyle = light(expert) ? "#ffffff" : "#000000";
    brush.fillText(String(expert), (token + 0.5) * cell - 0.5, (layer + 0.5) * row - gap / 2);
  }
}
