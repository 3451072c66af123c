// The weights of a matrix, how many lie where, and the values that the grid of one group allows.

import { make, section, setText, significant, thousands } from "../kit/common.js";
import { floatsOf } from "../kit/codes.js";
import { legend } from "../kit/legend.js";
import { axis, shape, share, tickText } from "../kit/plot.js";
import { heights } from "./logic.js";

/** @typedef {import("../kit/mount.js").Mounted} Mounted */

const HEIGHT = 190;
const [TOP, BOTTOM, SIDE] = [8, 40, 8]; // room around the bars
const RUG = 12; // px, below the bars: the weights of one group
const MOST_LINES = 64;

/**
 * Returns {element, draw(width)}.
 * @param {Mounted} view
 */
export function histogram(view) {
  const { element } = section(view.id("histogram"), "Weights and grid", "lk-quant-pane");
  const picture = shape("svg", { role: "img", class: "lk-quant-svg" });
  const said = make("p", "lk-muted lk-quant-said");
  const words = make("p", "lk-quant-outliers");
  const key = legend([
    { sample: "lk-quant-bars", text: "all weights (square-root scale)" },
    { sample: "lk-quant-line", text: "the values that one group may take" },
    { sample: "lk-quant-dot", text: "the weights of that group" },
    { sample: "lk-quant-far", text: "outliers" },
  ], { quiet: true });
  element.append(picture, said, words, key);

  /** @param {number} width */
  function draw(width) {
    const pane = view.get("pane");
    picture.replaceChildren();
    if (pane.reach === undefined) return;
    const counts = Array.from({ length: view.get("counts").byteLength / 4 }, (_, i) => view.get("counts").getUint32(4 * i, true));
    const levels = [...floatsOf(view.get("levels"))];
    const points = floatsOf(view.get("points"));
    const ends = { low: -pane.reach, high: pane.reach };
    const inner = width - 2 * SIDE;
    const base = HEIGHT - BOTTOM;
    const x = (/** @type {number} */ value) => SIDE + inner * share(value, ends);
    for (const [name, value] of Object.entries({ width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}` })) picture.setAttribute(name, String(value));

    let outline = `M${SIDE} ${base}`;
    heights(counts).forEach((height, i) => {
      const y = (base - (base - TOP) * height).toFixed(1);
      outline += `L${(SIDE + (inner * i) / counts.length).toFixed(1)} ${y}L${(SIDE + (inner * (i + 1)) / counts.length).toFixed(1)} ${y}`;
    });
    picture.append(shape("path", { d: `${outline}L${SIDE + inner} ${base}Z`, class: "lk-quant-bars" }));
    if (levels.length > MOST_LINES) {
      const left = x(levels[0]);
      picture.append(shape("rect", { x: left, y: TOP, width: x(levels[levels.length - 1]) - left, height: base - TOP, class: "lk-quant-band" }));
    } else {
      const lines = levels.map((level) => `M${x(level).toFixed(1)} ${TOP}V${base}`).join("");
      picture.append(shape("path", { d: lines, class: "lk-quant-line" }));
    }
    let rug = "";
    for (let i = 0; i < points.length; i += 2) rug += `M${x(points[i]).toFixed(1)} ${base + 3}v${RUG - 4}`;
    picture.append(shape("path", { d: rug, class: "lk-quant-dot" }));
    for (const value of pane.far) {
      const at = x(value).toFixed(1);
      picture.append(shape("path", { d: `M${at} ${base - 28}V${base - 3}m-4 -7l4 7l4 -7`, class: "lk-quant-far" }));
    }
    picture.append(shape("path", { d: `M${SIDE} ${base}H${SIDE + inner}`, class: "lk-quant-axis" }));
    const { ticks, step } = axis([ends.low, ends.high], width < 420 ? 4 : 8);
    for (const tick of ticks) picture.append(shape("text", { x: x(tick), y: base + RUG + 15, class: "lk-quant-tick" }, tickText(tick, step)));

    const of = pane.groups > 1 ? `the grid of group ${thousands(pane.group)} of ${thousands(pane.groups)}` : "the grid";
    const each = pane.choices < levels.length ? ` (${pane.choices} for each weight, by its column or sub-block)` : "";
    setText(said, `${levels.length} values to choose from${each} in ${of}; its ${thousands(pane.size)} weights use ${pane.used}.`);
    const far = pane.far.map((/** @type {number} */ value) => `${significant(value)} (${Math.round(Math.abs(value) / pane.std)} standard deviations)`);
    const more = pane.outliers > far.length ? ` and ${thousands(pane.outliers - far.length)} more` : "";
    setText(words, far.length ? `Outliers: ${far.join(", ")}${more}.` : `No weight lies beyond ${pane.outlier_from} standard deviations.`);
    words.classList.toggle("lk-muted", far.length === 0);
    picture.setAttribute("aria-label", `Histogram of the weights from ${significant(-pane.reach)} to ${significant(pane.reach)}. ${said.textContent} ${words.textContent}`);
  }
  return { element, draw };
}
