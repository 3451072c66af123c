// Pictures and texts that a page offers as files.

import { brushOf } from "./canvas.js";

/** Text that may stand in an SVG: markup escaped, what XML forbids written as U+FFFD. @param {string} text */
export function xmlText(text) {
  return String(text)
    .replace(/[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\u{10000}-\u{10ffff}]/gu, "\ufffd")
    .replace(/&/g, "&amp;")
    .replace(/</g, "&lt;")
    .replace(/>/g, "&gt;")
    .replace(/"/g, "&quot;");
}

/** Offer an SVG as a file, as it is or drawn as a PNG of twice its size.
 * @type {(name: string, kind: "svg" | "png", svg: string) => Promise<void>} */
export async function savePicture(name, kind, svg) {
  offer(`${name}.${kind}`, kind === "svg" ? new Blob([svg], { type: "image/svg+xml" }) : await pngOf(svg));
}

/** Offer a text as a file. @type {(name: string, type: string, text: string) => void} */
export function saveText(name, type, text) {
  offer(name, new Blob([text], { type }));
}

/** @type {(name: string, blob: Blob) => void} */
function offer(name, blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

/** @type {(svg: string) => Promise<Blob>} */
async function pngOf(svg) {
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`;
  await image.decode();
  const canvas = document.createElement("canvas");
  canvas.width = 2 * image.naturalWidth;
  canvas.height = 2 * image.naturalHeight;
  brushOf(canvas).drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve, reject) => canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("The picture is too large."))), "image/png"));
}
