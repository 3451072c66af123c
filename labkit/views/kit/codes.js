// Numbers out of bytes: weights and probabilities as views/codes.py writes them, and plain ones.

/** @type {(data: DataView) => Uint8Array<ArrayBuffer>} */
export const bytesOf = (data) => new Uint8Array(/** @type {ArrayBuffer} */ (data.buffer), data.byteOffset, data.byteLength);

/** count float32 from a byte on, which need not be aligned.
 * @type {(data: DataView, count?: number, from?: number) => Float32Array} */
export function floatsOf(data, count = data.byteLength / 4, from = 0) {
  return Float32Array.from({ length: count }, (_, i) => data.getFloat32(from + 4 * i, true));
}

/** Codes of square roots: 0 is exactly zero, `levels` is 1, and what lies above is no number. */
export class Codes {
  /** @param {number} levels */
  constructor(levels) {
    this.levels = levels;
  }

  /** @param {number} code */
  isNumber(code) {
    return code <= this.levels;
  }

  /** What a code stands for, times `top`; NaN for what is no number. */
  weight(/** @type {number} */ code, top = 1) {
    return this.isNumber(code) ? (code / this.levels) ** 2 * top : NaN;
  }

  /** The code of a weight; only an exact zero looks like one. @param {number} weight */
  of(weight) {
    if (Number.isNaN(weight)) return this.levels + 1;
    return weight <= 0 ? 0 : Math.max(1, Math.round(Math.sqrt(Math.min(1, weight)) * this.levels));
  }
}
