// Numbers and words of the split view, apart from any drawing.

import { decimal, thousands } from "../kit/common.js";

const BITS = Math.LN2; // nats of a bit
const FIELDS = 5;

/**
 * One token's numbers. from: its first byte in the text's; rank: −1 where no merge makes it; loss: nats, NaN where none is known.
 * @typedef {{id: number, rank: number, flags: number, size: number, from: number, loss: number}} Numbers
 */

/** The tokens of each text. @type {(data: DataView, counts: number[]) => Numbers[][]} */
export function readNumbers(data, counts) {
  let [at, byte] = [0, 0];
  return counts.map((count) =>
    Array.from({ length: count }, () => {
      const [id, rank, flags, size] = [0, 1, 2, 3].map((field) => data.getInt32(4 * (FIELDS * at + field), true));
      const loss = data.getFloat32(4 * (FIELDS * at + 4), true);
      const found = { id, rank, flags, size, from: byte, loss };
      at += 1;
      byte += size;
      return found;
    }),
  );
}

/** Bits for each byte of a token; NaN where it has none. @type {(token: Numbers) => number} */
export const bitsPerByte = ({ loss, size }) => (size > 0 ? loss / BITS / size : NaN);

/** How deep the shade is, in per cent, 0 to 50: text stays readable on it. @type {(value: number, top: number) => number} */
export function depth(value, top) {
  return value > 0 && top > 0 ? Math.round(50 * Math.min(1, value / top)) : 0;
}

/** The shade of a token. @type {(how: string, token: Numbers, top: number, merges: number) => number} */
export function shade(how, token, top, merges) {
  if (how === "loss") return depth(bitsPerByte(token), top);
  if (how === "order") return token.rank < 0 ? 0 : depth(token.rank + merges / 12, merges + merges / 12);
  return 0;
}

/** A byte as it is written. @type {(byte: number) => string} */
export const hex = (byte) => byte.toString(16).toUpperCase().padStart(2, "0");

/** "merge 1,204 of 48,900". @type {(rank: number, merges: number) => string} */
export function rankWords(rank, merges) {
  if (merges === 0) return "not known: no merges are told";
  return rank < 0 ? "none: it was there from the start" : `merge ${thousands(rank + 1)} of ${thousands(merges)}`;
}

/** What a token is, in words. @type {(flags: number, named: Record<string, number>) => string} */
export function kindWords(flags, { special, added, unknown, changed }) {
  const parts = [];
  if (flags & special) parts.push("a special token");
  if (flags & added) parts.push("put around the text by the tokenizer");
  if (flags & unknown) parts.push("stands for what the vocabulary has not");
  if (flags & changed) parts.push("spells something else than the text");
  return parts.join(", ") || "a piece of the text";
}

/** "2.31 nats, 1.11 bits per byte". @type {(token: Numbers) => string} */
export function lossWords(token) {
  if (Number.isNaN(token.loss)) return "none: nothing stands before it, or no model was asked";
  const each = bitsPerByte(token);
  return `${decimal(token.loss, 3)} nats${Number.isNaN(each) ? "" : `, ${decimal(each, 3)} bits per byte`}`;
}
