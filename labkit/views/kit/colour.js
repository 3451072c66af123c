// Colours computed: an even map for weights, made for light or for dark paper, and letters that can be read on them.
// Oklab after Björn Ottosson, "A perceptual color space for image processing" (2020).

/**
 * sRGB bytes of a colour in OKLCH: lightness 0 to 1, chroma, hue in degrees. Outside the gamut each is clipped.
 * @type {(lightness: number, chroma: number, hue: number) => number[]}
 */
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

/** The sequential colour map at t = 0 to 1, as sRGB bytes. @type {(t: number, dark: boolean) => number[]} */
export function colour(t, dark) {
  const { lightness, hue, chroma } = MAPS[dark ? "dark" : "light"];
  const [low, high, end] = chroma;
  return fromOklch(
    lightness[0] + t * (lightness[1] - lightness[0]),
    (1 - t) ** 2 * low + 2 * t * (1 - t) * (2 * high - (low + end) / 2) + t ** 2 * end,
    hue[0] + t * (hue[1] - hue[0]),
  );
}

/** The map in even steps, as RGBA. @type {(dark: boolean, steps?: number) => Uint8ClampedArray<ArrayBuffer>} */
export function ramp(dark, steps = 256) {
  return Uint8ClampedArray.from(Array.from({ length: steps }, (_, i) => [...colour(i / (steps - 1), dark), 255]).flat());
}

/** Whether white letters are read better on a colour, sRGB bytes, than black: the higher contrast of WCAG 2.
 * @param {number[]} rgb */
export function needsLight(rgb) {
  const [red, green, blue] = rgb.map((byte) => (byte / 255 <= 0.04045 ? byte / 255 / 12.92 : ((byte / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.179; // √(1.05 · 0.05) − 0.05
}

/** [red, green, blue] of "#rrggbb". @param {string} colour */
export function rgbOf(colour) {
  return [1, 3, 5].map((at) => Number.parseInt(colour.slice(at, at + 2), 16));
}

/** "#rrggbb" of red, green, blue. @param {Iterable<number>} rgb */
export function hexOf(rgb) {
  return `#${[...rgb].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}
