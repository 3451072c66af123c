// A head as a picture to keep: an SVG.

import { colour, hexOf } from "../kit/colour.js";
import { visibleLabel } from "../kit/common.js";
import { xmlText } from "../kit/save.js";
import { LABEL_CHARACTERS } from "./labels.js";
import { SCALES, codeAt, onScale } from "./logic.js";

const RECTANGLES = 80; // up to so many cells along a side each is a rectangle, beyond them the pattern is an image
const CHARACTER = 6.2; // px of an 11 px letter, on average
const LINE = 14;

/** An SVG of the head that a pane shows. @param {import("./shown.js").Shown} shown */
export function headSvg(shown) {
  const { cells: n, pool, summary, codes, shared } = shown;
  const { palette, view, facts } = shared;
  const [scale, dark] = [view.get("scale"), view.theme.dark()];
  const labels = Array.from({ length: n }, (_, i) => visibleLabel(shown.label(i * pool, pool), LABEL_CHARACTERS));
  const title = `${facts.model} · layer ${summary.layer} · head ${summary.head}${summary.aside ? " · first token set aside" : ""}`;
  const ink = dark ? "#e8ebee" : "#1b1f24";
  const muted = dark ? "#a2acb6" : "#59636e";
  const cell = n <= 60 ? Math.max(12, Math.min(26, 560 / n)) : 560 / n;
  const side = cell * n;
  const every = Math.max(1, Math.ceil(LINE / cell));
  const named = Array.from({ length: Math.ceil(n / every) }, (_, i) => i * every);
  const widthOf = (/** @type {number} */ i) => ([...labels[i]].length + 1) * CHARACTER;
  const gutter = Math.max(0, ...named.map((i) => widthOf(i) + String(i * pool).length * CHARACTER)) + 10;
  const overhang = Math.max(0, ...named.map((i) => (i + 1) * cell + 6 + widthOf(i) - side));
  const top = 34;
  const width = Math.ceil(Math.max(gutter + side + overhang, 360) + 10);
  const height = Math.ceil(top + side + 54);
  const parts = [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" ` +
      `role="img" font-family="system-ui, 'Liberation Sans', sans-serif" font-size="11">`,
    `<title>${xmlText(title)}</title>`,
    `<rect width="${width}" height="${height}" fill="${dark ? "#15181b" : "#ffffff"}"/>`,
    `<text x="10" y="20" font-size="13" font-weight="600" fill="${ink}">${xmlText(title)}</text>`,
    `<g transform="translate(${gutter.toFixed(1)} ${top})">`,
  ];
  if (n <= RECTANGLES) {
    for (let row = 0; row < n; row += 1) {
      for (let column = 0; column <= row; column += 1) {
        const code = codeAt(codes, row, column);
        if (code === 0) continue;
        const at = `x="${(column * cell).toFixed(2)}" y="${(row * cell).toFixed(2)}"`;
        const size = `width="${cell.toFixed(2)}" height="${cell.toFixed(2)}"`;
        parts.push(`<rect ${at} ${size} fill="${hexOf(palette.slice(4 * code, 4 * code + 3))}"/>`);
        if (!shared.codes.isNumber(code)) {
          parts.push(`<text x="${((column + 0.5) * cell).toFixed(1)}" y="${((row + 0.75) * cell).toFixed(1)}" text-anchor="middle">×</text>`);
        }
      }
    }
  } else {
    const image = shared.picture(codes, n).toDataURL("image/png");
    parts.push(`<image width="${side}" height="${side}" style="image-rendering:pixelated" href="${xmlText(image)}"/>`);
  }
  parts.push(`<path d="M0 0V${side.toFixed(1)}H${side.toFixed(1)}Z" fill="none" stroke="${muted}" stroke-opacity="0.4"/>`);
  for (const i of named) {
    const y = ((i + 0.5) * cell + 4).toFixed(1);
    parts.push(
      `<text x="-6" y="${y}" text-anchor="end" fill="${ink}"><tspan fill="${muted}">${i * pool} </tspan>${xmlText(labels[i])}</text>`,
      `<text x="${((i + 1) * cell + 6).toFixed(1)}" y="${y}" fill="${muted}">${xmlText(labels[i])}</text>`,
    );
  }
  parts.push("</g>", `<g transform="translate(${gutter.toFixed(1)} ${(top + side + 16).toFixed(1)})">`);
  const wide = 200;
  for (let i = 0; i < 50; i += 1) {
    parts.push(`<rect x="${i * (wide / 50)}" width="${wide / 50 + 0.5}" height="9" fill="${hexOf(colour(i / 49, dark))}"/>`);
  }
  for (const mark of SCALES[scale].marks) {
    const x = (wide * onScale(mark, scale)).toFixed(1);
    parts.push(`<text x="${x}" y="22" text-anchor="middle" font-size="10" fill="${muted}">${mark}</text>`);
  }
  parts.push(`<text x="${wide + 12}" y="9" fill="${muted}">weight, ${shared.constants.scales[scale]} scale</text>`, "</g>", "</svg>");
  return parts.join("\n");
}
