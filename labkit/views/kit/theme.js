// The notebook's or the system's theme, for what a style sheet can't do: canvases, and numbers that hang on it.

import { brushOf } from "./canvas.js";
import { make } from "./common.js";

const DARK_BELOW = 110; // of 255, the paper's luminance

/**
 * The theme of a view's root, read once: asking costs a layout. watch(changed) calls back when the notebook's theme or the
 * system's changes, in forced colours, and for print; close() ends that.
 * @param {HTMLElement} root
 */
export function followTheme(root) {
  let dark = false;
  /** @type {Map<string, string>} */
  const known = new Map();
  /** @type {(() => void)[]} */
  const ends = [];

  /** Whether it is another than before. */
  function read() {
    if (!root.isConnected) return false;
    const [red, green, blue] = rgb(getComputedStyle(root).backgroundColor);
    const before = JSON.stringify([dark, ...known]);
    dark = 0.2126 * red + 0.7152 * green + 0.0722 * blue < DARK_BELOW;
    for (const name of known.keys()) known.set(name, computed(name));
    return JSON.stringify([dark, ...known]) !== before;
  }

  /** @type {(name: string) => string} */
  function computed(name) {
    const probe = make("span");
    probe.style.color = `var(${name})`; // as a colour it is resolved, where the property itself still says light-dark()
    root.append(probe);
    const { color } = getComputedStyle(probe);
    probe.remove();
    return color;
  }

  return {
    read,
    dark: () => dark,
    /** A colour of the theme for a canvas, which does not understand var() and light-dark(). @param {string} name */
    colour(name) {
      if (!known.has(name) && root.isConnected) known.set(name, computed(name));
      return known.get(name) ?? "CanvasText";
    },
    /** @param {() => void} changed */
    watch(changed) {
      const notebook = new MutationObserver(changed);
      const attributeFilter = ["data-jp-theme-light", "data-jp-theme-name", "theme", "class"];
      for (const element of [document.documentElement, document.body]) notebook.observe(element, { attributes: true, attributeFilter });
      const queries = ["(prefers-color-scheme: dark)", "(forced-colors: active)", "print"].map((query) => globalThis.matchMedia(query));
      for (const query of queries) query.addEventListener("change", changed);
      ends.push(() => {
        notebook.disconnect();
        for (const query of queries) query.removeEventListener("change", changed);
      });
    },
    close() {
      for (const end of ends.splice(0)) end();
    },
  };
}

/**
 * [red, green, blue] of any colour that CSS can name.
 * @param {string} colour
 * @returns {number[]}
 */
export function rgb(colour) {
  const brush = brushOf(document.createElement("canvas"));
  brush.fillStyle = colour;
  brush.fillRect(0, 0, 1, 1);
  return [...brush.getImageData(0, 0, 1, 1).data.subarray(0, 3)];
}
