// The token view's arithmetic, apart from any drawing.

export const TEXT = 0;
export const OUTSIDE = 1;
export const CONTINUED = 2;

/** From this entropy on (nats) a token counts as one where the model hesitated: as open as 20 equal choices. */
export const HESITATION = 3;

/** The five strokes: a token belongs to the first whose lower bound its probability reaches. */
export const STROKES = [
  { from: 0.9, label: "over 90 %" },
  { from: 0.5, label: "50–90 %" },
  { from: 0.2, label: "20–50 %" },
  { from: 0.05, label: "5–20 %" },
  { from: 0, label: "under 5 %" },
];

/** Index into STROKES: 0 is the thinnest (sure), 4 the thickest. What is not a number gets the thickest. */
export function stroke(probability) {
  const found = STROKES.findIndex(({ from }) => probability >= from);
  return found < 0 ? STROKES.length - 1 : found;
}

/** Bytes of a block of n tokens with k alternatives each. */
export function blockBytes(n, k) {
  return 4 * n * (8 + 3 * k);
}

/**
 * The view's traits as arrays: token, piece, kind, rank, id (n); topToken, topId (n·k); logprob, sampledLogprob,
 * entropy (n); topLogprob (n·k). Throws RangeError when the block is not of the length that n and k ask for.
 */
export function decode(block, n, k) {
  const length = block ? block.byteLength : 0;
  if (length !== blockBytes(n, k)) throw new RangeError(`a block of ${length} bytes for ${n} tokens, ${k} alternatives`);
  let at = 0;
  const take = (count, read, ArrayType) => {
    const values = new ArrayType(count);
    for (let i = 0; i < count; i += 1, at += 4) values[i] = read(at);
    return values;
  };
  const integers = (count) => take(count, (offset) => block.getInt32(offset, true), Int32Array);
  const floats = (count) => take(count, (offset) => block.getFloat32(offset, true), Float32Array);
  return {
    n,
    k,
    token: integers(n),
    piece: integers(n),
    kind: integers(n),
    rank: integers(n),
    id: integers(n),
    topToken: integers(n * k),
    topId: integers(n * k),
    logprob: floats(n),
    sampledLogprob: floats(n),
    entropy: floats(n),
    topLogprob: floats(n * k),
  };
}

/** The tokens the model was least sure of, least sure first; those outside the text don't count. */
export function leastSure(data, count) {
  const order = [];
  for (let i = 0; i < data.n; i += 1) if (data.kind[i] !== OUTSIDE) order.push(i);
  return order.sort((a, b) => data.logprob[a] - data.logprob[b] || a - b).slice(0, count);
}

/** The example below is looked for among so many tokens at the start: they are in sight before anybody scrolls. */
const IN_SIGHT = 80;

/**
 * The token to explain while none is pointed at: of those in sight the one where the model hesitated most (highest
 * entropy). -1 when there is none.
 */
export function example(data) {
  let best = -1;
  for (let i = 0; i < Math.min(data.n, IN_SIGHT); i += 1) {
    if (data.kind[i] === OUTSIDE || Number.isNaN(data.entropy[i])) continue;
    if (best < 0 || data.entropy[i] > data.entropy[best]) best = i;
  }
  return best < 0 && data.n > 0 ? 0 : best;
}

/**
 * The bars of token i, most probable first: [{token, id, probability, taken}], then the taken token when it is not
 * among the k best (with its rank), then what is left to all others ({others: true}).
 */
export function bars(data, i) {
  const { k } = data;
  const rows = [];
  let left = 1;
  for (let j = i * k; j < (i + 1) * k; j += 1) {
    const probability = Math.exp(data.topLogprob[j]);
    left -= probability;
    rows.push({ token: data.topToken[j], id: data.topId[j], probability, taken: data.topId[j] === data.id[i] });
  }
  if (!rows.some((row) => row.taken)) {
    const probability = Math.exp(data.logprob[i]);
    left -= probability;
    rows.push({ token: data.token[i], id: data.id[i], probability, taken: true, rank: data.rank[i] + 1 });
  }
  // float32 sums leave a rest of about 1e-7 where nothing is left.
  rows.push({ others: true, probability: left > 1e-6 ? Math.min(left, 1) : 0 });
  return rows;
}

/** How many tokens at the start are drawn alike in two lists of keys. */
export function commonStart(before, after) {
  const end = Math.min(before.length, after.length);
  let i = 0;
  while (i < end && before[i] === after[i]) i += 1;
  return i;
}

/** Ordinal in words a reader knows: 1st, 2nd, 3rd, 4th, 11th, 21st. */
export function ordinal(value) {
  const tens = value % 100;
  const suffix = tens >= 11 && tens <= 13 ? "th" : ({ 1: "st", 2: "nd", 3: "rd" }[value % 10] ?? "th");
  return `${String(value).replace(/\B(?=(\d{3})+$)/g, ",")}${suffix}`;
}
