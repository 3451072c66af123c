// Canvases: with the screen's own pixels, or a pixel for each cell.

/** Device pixels for each CSS pixel. */
export const pixelRatio = () => globalThis.devicePixelRatio || 1;

/** @param {HTMLCanvasElement} canvas */
export function brushOf(canvas) {
  return /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
}

/**
 * Give a canvas the pixels for so many CSS pixels; what was drawn is gone. Returns a brush that counts in CSS pixels.
 * @type {(canvas: HTMLCanvasElement, width: number, height: number) => CanvasRenderingContext2D}
 */
export function sized(canvas, width, height) {
  const ratio = pixelRatio();
  canvas.width = Math.max(1, Math.round(width * ratio));
  canvas.height = Math.max(1, Math.round(height * ratio));
  const brush = brushOf(canvas);
  brush.setTransform(ratio, 0, 0, ratio, 0, 0);
  brush.imageSmoothingEnabled = false;
  return brush;
}

/**
 * Codes as a picture of a pixel each. palette: red, green, blue and opacity of each code.
 * @type {(codes: ArrayLike<number>, across: number, down: number, palette: Uint8ClampedArray) => HTMLCanvasElement}
 */
export function stamp(codes, across, down, palette) {
  const colours = new Uint32Array(palette.buffer);
  const image = new ImageData(across, down);
  const pixels = new Uint32Array(image.data.buffer);
  for (let i = 0; i < pixels.length; i += 1) pixels[i] = colours[codes[i]];
  const canvas = document.createElement("canvas");
  canvas.width = across;
  canvas.height = down;
  brushOf(canvas).putImageData(image, 0, 0);
  return canvas;
}
