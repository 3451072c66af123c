// The attention view's arithmetic, apart from any drawing: codes, sizes, what is under the pointer, colours, words.

export const LEVELS = 254;
export const NOT_A_NUMBER = 255;

/** The weight a code stands for: its square root was stored. 0 is exactly zero; NaN for what is no number. */
export function weightOf(code) {
  return code === NOT_A_NUMBER ? NaN : (code / LEVELS) ** 2;
}

const FAINTEST = -4; // power of ten where the logarithmic scale begins

/** The colour scales: where a weight of 0 to 1 lies on each, 0 to 1, and the weights with a mark on the legend. */
export const SCALES = {
  sqrt: { title: "square root", marks: [0, 0.01, 0.1, 0.25, 0.5, 1], at: (weight) => Math.sqrt(weight) },
  linear: { title: "linear", marks: [0, 0.25, 0.5, 0.75, 1], at: (weight) => weight },
  log: {
    title: "logarithmic",
    marks: [0.0001, 0.001, 0.01, 0.1, 1],
    at: (weight) => (weight <= 0 ? 0 : Math.max(0, 1 - Math.log10(weight) / FAINTEST)),
  },
};

/** Where a weight lies on a colour scale, 0 to 1. */
export function onScale(weight, scale = "sqrt") {
  return SCALES[scale].at(Math.min(1, Math.max(0, weight)));
}

/** Bytes of a packed pattern of n × n cells, without the half that a causal model can't see. */
export function packedBytes(n) {
  return (n * (n + 1)) / 2;
}

/** The code of a cell. Row by row; a row ends with its own token. */
export function codeAt(codes, row, column) {
  return column > row ? 0 : codes[(row * (row + 1)) / 2 + column];
}

/** n cells in a packed pattern of so many bytes. */
export function cellCount(bytes) {
  return Math.round((Math.sqrt(8 * bytes + 1) - 1) / 2);
}

/**
 * An m × m picture of a packed pattern of n × n cells, q × q cells to a dot: the highest code of each (255, not a
 * number, is the highest of all). m = ceil(n / q).
 */
export function dots(codes, n, q = 1) {
  const m = Math.ceil(n / q);
  const picture = new Uint8Array(m * m);
  let at = 0;
  for (let row = 0; row < n; row += 1) {
    const start = Math.floor(row / q) * m;
    if (q === 1) {
      picture.set(codes.subarray(at, at + row + 1), start);
      at += row + 1;
      continue;
    }
    for (let column = 0; column <= row; column += 1, at += 1) {
      const dot = start + Math.floor(column / q);
      if (codes[at] > picture[dot]) picture[dot] = codes[at];
    }
  }
  return picture;
}

const SIDE = 600; // of the whole picture, in CSS pixels, where there is room
const LABELLED = 60; // up to so many tokens every label is written out
const SMALLEST_LABELLED = 12;
const LARGEST = 30;
const NARROWEST = 80;
const LABEL_HEIGHT = 11;
const LABEL_ROOM = 16; // between labels where not every token has one
const STEPS = [1, 2, 5, 10, 20, 50, 100, 200, 500];

/** Which tokens have a label: every step-th. */
export function labelled({ n, step }) {
  return Array.from({ length: Math.ceil(n / step) }, (_, i) => i * step);
}

/**
 * The size of an n × n picture, in CSS pixels unless it says otherwise.
 *
 * width: room for everything; rows(i), columns(i): how wide token i's label is, left of the picture and right of the
 * diagonal; dpr: device pixels for each CSS pixel. Returns {n, cell, side, q, m, step, gutter, overhang}: a cell's and
 * the picture's size; q × q cells share a dot, and m × m dots are painted, each a whole number of device pixels; every
 * step-th token is labelled; gutter and overhang are the room that labels take left and right of the picture.
 * @param {number} n
 * @param {{width: number, rows?: (i: number) => number, columns?: (i: number) => number, dpr?: number}} room
 */
export function layout(n, { width, rows = () => 0, columns = () => 0, dpr = 1 }) {
  const wish = n <= LABELLED ? n * Math.min(LARGEST, Math.max(SMALLEST_LABELLED, SIDE / n)) : SIDE;
  let gutter = 0; // room for every label: those left out are shown when their row is pointed at
  for (let i = 0; i < n; i += 1) gutter = Math.max(gutter, rows(i));
  let step = 1;
  for (;;) {
    const names = labelled({ n, step });
    // A label that starts on the diagonal, part of the way along, and ends where the room ends.
    const room = Math.min(...names.map((i) => ((width - gutter - columns(i)) * n) / (i + 1)), width - gutter);
    const device = Math.floor(Math.min(Math.max(NARROWEST, room), wish) * dpr + 1e-6);
    const dot = Math.max(1, Math.floor(device / n));
    const q = n <= device ? 1 : Math.ceil(n / device);
    const m = Math.ceil(n / q);
    const cell = dot / dpr / q;
    const side = (m * dot) / dpr;
    const fits = STEPS.find((s) => (s === 1 ? cell >= LABEL_HEIGHT : s * cell >= LABEL_ROOM)) ?? STEPS.at(-1);
    if (fits <= step || step === STEPS.at(-1)) {
      const overhang = Math.max(0, ...names.map((i) => (i + 1) * cell + columns(i) - side));
      return { n, cell, side, q, m, step, gutter, overhang };
    }
    step = fits;
  }
}

const PAGE = 10;

/** Where a key moves from a cell {row, column} among n rows; null when the key means nothing here. */
export function cellAfterKey(key, { row, column }, n) {
  const moves = {
    ArrowUp: [row - 1, column],
    ArrowDown: [row + 1, column],
    ArrowLeft: [row, column - 1],
    ArrowRight: [row, column + 1],
    PageUp: [row - PAGE, column],
    PageDown: [row + PAGE, column],
    Home: [row, 0],
    End: [row, row],
  };
  if (!Object.hasOwn(moves, key)) return null;
  const move = moves[key];
  const to = Math.min(n - 1, Math.max(0, move[0]));
  return { row: to, column: Math.min(to, Math.max(0, move[1])) };
}

/** Heads that share this one's keys and values, without itself. */
export function sharing(head, heads, kvHeads) {
  const group = kvHeads > 0 ? Math.floor(heads / kvHeads) : 1;
  const first = Math.floor(head / group) * group;
  return Array.from({ length: group }, (_, i) => first + i).filter((h) => h !== head && h < heads);
}

/** In words: "shares keys with heads 4, 5"; "" when it shares them with none. */
export function saySharing(head, heads, kvHeads) {
  const others = sharing(head, heads, kvHeads);
  if (others.length === 0) return "";
  if (others.length === heads - 1) return "shares keys with all other heads";
  return `shares keys with head${others.length > 1 ? "s" : ""} ${others.join(", ")}`;
}

/** An exact weight, four decimals or, where they would all be zeros, as a power of ten. */
export function exactWeight(weight) {
  if (weight === null || Number.isNaN(weight)) return "not a number";
  if (weight === 0) return "exactly 0";
  if (weight >= 0.00005) return weight.toFixed(4);
  const [digits, power] = weight.toExponential(1).split("e");
  return `${digits} · 10${[...power.replace("+", "")].map((c) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)]).join("")}`;
}

/** A weight read back from its code: as many digits as the code is good for. */
export function aboutWeight(code) {
  const weight = weightOf(code);
  if (Number.isNaN(weight)) return "not a number";
  if (code === 0) return "exactly 0";
  if (weight < 0.0001) return "under 0.0001";
  return `about ${weight.toFixed(weight >= 0.1 ? 2 : weight >= 0.01 ? 3 : 4)}`;
}

// Oklab after Björn Ottosson, "A perceptual color space for image processing" (2020).

/** sRGB bytes of a colour in OKLCH: lightness 0 to 1, chroma, hue in degrees. Outside the gamut each is clipped. */
export function fromOklch(lightness, chroma, hue) {
  const a = chroma * Math.cos((hue * Math.PI) / 180);
  const b = chroma * Math.sin((hue * Math.PI) / 180);
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ].map((linear) => {
    const light = Math.min(1, Math.max(0, linear));
    return Math.round(255 * (light <= 0.0031308 ? 12.92 * light : 1.055 * light ** (1 / 2.4) - 0.055));
  });
}

// From the paper's side to the ink's: lightness runs evenly, hue turns a little, chroma is highest in the middle.
const MAPS = {
  light: { lightness: [0.955, 0.27], hue: [225, 272], chroma: [0.012, 0.15, 0.09] },
  dark: { lightness: [0.265, 0.97], hue: [262, 200], chroma: [0.018, 0.125, 0.035] },
};

/** The sequential colour map at t = 0 to 1, as sRGB bytes; made for light or for dark paper. */
export function colour(t, dark) {
  const { lightness, hue, chroma } = MAPS[dark ? "dark" : "light"];
  const [low, high, end] = chroma;
  return fromOklch(
    lightness[0] + t * (lightness[1] - lightness[0]),
    (1 - t) ** 2 * low + 2 * t * (1 - t) * (2 * high - (low + end) / 2) + t ** 2 * end,
    hue[0] + t * (hue[1] - hue[0]),
  );
}

/** What to paint for each code, (256 × 4) RGBA. Code 0, exactly zero, is left clear: the paper shows. */
export function palette(dark, scale = "sqrt") {
  const table = new Uint8ClampedArray(4 * 256);
  for (let code = 1; code <= LEVELS; code += 1) {
    table.set([...colour(onScale(weightOf(code), scale), dark), 255], 4 * code);
  }
  table.set(dark ? [240, 149, 61, 255] : [213, 94, 0, 255], 4 * NOT_A_NUMBER);
  return table;
}

/** The code of a weight: the inverse of `weightOf`. */
export function codeOf(weight) {
  if (Number.isNaN(weight)) return NOT_A_NUMBER;
  if (weight <= 0) return 0;
  return Math.max(1, Math.round(Math.sqrt(Math.min(1, weight)) * LEVELS));
}

/**
 * A packed pattern with the first token set aside, as far as its codes tell: each row divided by what it gives to
 * others than the first (rest, of as many rows), nothing on the first.
 */
export function setAside(codes, n, rest) {
  const result = new Uint8Array(codes.length);
  for (let row = 0, at = 0; row < n; row += 1) {
    const share = rest[row];
    for (let column = 0; column <= row; column += 1, at += 1) {
      if (codes[at] === NOT_A_NUMBER) result[at] = NOT_A_NUMBER;
      else if (column > 0 && share > 0) result[at] = codeOf(weightOf(codes[at]) / share);
    }
  }
  return result;
}

/** One token's line out of a packed pattern of n × n: what it looks at, or (into) how much each token looks at it. */
export function lineOf(codes, n, token, into) {
  return Uint8Array.from({ length: n }, (_, i) => (into ? codeAt(codes, i, token) : codeAt(codes, token, i)));
}

/** The mean of several packed patterns, as codes. */
export function meanLine(lines) {
  return Uint8Array.from({ length: lines[0].length }, (_, i) =>
    codeOf(lines.reduce((sum, line) => sum + weightOf(line[i]), 0) / lines.length),
  );
}

/** The n strongest entries of a line: [{token, code}], without zeros and what is no number. */
export function strongest(line, count) {
  return [...line.keys()]
    .filter((i) => line[i] > 0 && line[i] !== NOT_A_NUMBER)
    .sort((a, b) => line[b] - line[a] || a - b)
    .slice(0, count)
    .map((token) => ({ token, code: line[token] }));
}

/** Whether white letters are read better on a colour, sRGB bytes, than black: the higher contrast of WCAG 2. */
export function needsLight(rgb) {
  const [red, green, blue] = Array.from(rgb, linearOf);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.179; // √(1.05 · 0.05) − 0.05
}

function linearOf(byte) {
  const share = byte / 255;
  return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
}

const HEADER = 20; // bytes: five int32

/**
 * The map's parts, decoded: {layers: [[first, count]], side, rows, aside, thumbnails, measures}. thumbnails: place →
 * codes of a head, place = layer's place in the list × heads + head; measures: name → Float32Array by place, NaN where
 * it has not come yet. Parts that are of another kind (aside or not) than asked for are left out.
 */
export function decodeMap(parts, { layers, heads, names, aside }) {
  const found = { done: 0, side: 0, rows: 0, thumbnails: new Map(), measures: new Map() };
  for (const name of names) found.measures.set(name, new Float32Array(layers * heads).fill(NaN));
  for (const part of parts) {
    if (!part || part.byteLength < HEADER) continue;
    const data = new DataView(part.buffer, part.byteOffset, part.byteLength);
    const [isAside, side, rows, first, count] = [0, 4, 8, 12, 16].map((at) => data.getInt32(at, true));
    if (Boolean(isAside) !== aside) continue;
    Object.assign(found, { side, rows, done: found.done + count });
    let at = HEADER;
    for (const name of names) {
      const values = found.measures.get(name);
      for (let i = 0; i < count * heads; i += 1, at += 4) values[first * heads + i] = data.getFloat32(at, true);
    }
    const bytes = packedBytes(side);
    for (let i = 0; i < count * heads; i += 1, at += bytes) {
      found.thumbnails.set(first * heads + i, new Uint8Array(part.buffer, part.byteOffset + at, bytes));
    }
  }
  return found;
}

/** Places of heads in the order they are drawn: layer by layer, or the highest value first, what has none last. */
export function arranged(count, order, values) {
  const places = Array.from({ length: count }, (_, i) => i);
  if (order !== "highest" || !values) return places;
  const height = (i) => (Number.isNaN(values[i]) ? -Infinity : values[i]);
  return places.sort((a, b) => height(b) - height(a) || a - b);
}

/** A share in percent for a sentence: whole, with a digit more close to 0 and to 1, and no digits beyond that. */
export function roughPercent(share) {
  if (!Number.isFinite(share)) return "unknown";
  if (share <= 0) return "0 %";
  if (share >= 1) return "100 %";
  if (share < 0.001) return "under 0.1 %";
  if (share > 0.999) return "over 99.9 %";
  return `${(100 * share).toFixed(share < 0.01 || share > 0.99 ? 1 : 0)} %`;
}

/** A measure's value in words, with its unit. */
export function sayMeasure(value, unit) {
  if (value === undefined || Number.isNaN(value)) return "not defined here";
  if (unit === "share") return `${(100 * value).toFixed(value < 0.0995 ? 1 : 0)} %`;
  const digits = Math.abs(value) < 0.995 ? 3 : Math.abs(value) < 99.5 ? 2 : 0;
  return `${value.toFixed(digits).replace("-", "−")}${unit ? ` ${unit}` : ""}`;
}

const LARGEST_PITCH = 24; // of a thumbnail and the gap after it

/**
 * Sizes of the map in CSS pixels: {size, columns, rows, pitch, gaps, width, height}. size: a thumbnail's side; gaps(i):
 * where column i begins; heads that share keys stand together.
 */
export function mapLayout({ layers, heads, kvHeads, width, order }) {
  const group = kvHeads > 0 && order !== "highest" ? Math.max(1, Math.floor(heads / kvHeads)) : heads;
  const groups = Math.ceil(heads / group);
  const grouped = group > 1 && groups > 1;
  const extra = grouped ? 5 : 0;
  const room = width - (groups - 1) * extra;
  const pitch = Math.max(7, Math.min(LARGEST_PITCH, Math.floor(room / heads)));
  const size = pitch - (pitch > 12 ? 3 : 1);
  const x = (column) => column * pitch + (grouped ? Math.floor(column / group) * extra : 0);
  const bar = pitch > 12 ? 4 : 2;
  const caption = order === "highest" && pitch >= 20 ? 9 : 0; // where a head's place no longer says which it is
  const rows = layers;
  return { size, bar, caption, pitch, rowPitch: pitch + bar + caption, x, columns: heads, rows, width: x(heads - 1) + size, height: rows * (pitch + bar + caption) };
}

/** The slot (row · columns + column) of the map under a point, or null. */
export function slotAt(map, x, y) {
  const row = Math.floor(y / map.rowPitch);
  if (y < 0 || row < 0 || row >= map.rows) return null;
  for (let column = map.columns - 1; column >= 0; column -= 1) {
    if (x >= map.x(column)) return x < map.x(column) + map.pitch ? row * map.columns + column : null;
  }
  return null;
}

/** Where a key moves from a slot of the map; null when the key means nothing here. */
export function slotAfterKey(key, slot, { columns, rows }) {
  const row = Math.floor(slot / columns);
  const column = slot % columns;
  const moves = {
    ArrowUp: [row - 1, column],
    ArrowDown: [row + 1, column],
    ArrowLeft: [row, column - 1],
    ArrowRight: [row, column + 1],
    PageUp: [row - 5, column],
    PageDown: [row + 5, column],
    Home: [row, 0],
    End: [row, columns - 1],
  };
  if (!Object.hasOwn(moves, key)) return null;
  const clip = (value, count) => Math.min(count - 1, Math.max(0, value));
  return clip(moves[key][0], rows) * columns + clip(moves[key][1], columns);
}
