// A strip of colours, with marks along it.

import { brushOf } from "./canvas.js";
import { box, make } from "./common.js";

/** Returns {element, draw(colours, marks, said)}. */
export function colourScale() {
  const strip = make("canvas", "lk-scale-strip");
  strip.setAttribute("role", "img");
  const row = make("div", "lk-scale-marks");
  return {
    element: box("lk-scale", strip, row),
    /**
     * colours: RGBA, one after another; marks: which text stands where along them, 0 to 1; said: what is read out.
     * @type {(colours: Uint8ClampedArray<ArrayBuffer>, marks: {at: number, text: string}[], said: string) => void}
     */
    draw(colours, marks, said) {
      Object.assign(strip, { width: colours.length / 4, height: 1 });
      brushOf(strip).putImageData(new ImageData(colours, colours.length / 4), 0, 0);
      strip.setAttribute("aria-label", said);
      row.replaceChildren(
        ...marks.map(({ at, text }) => {
          const mark = make("span", "", text);
          mark.style.left = `${100 * at}%`;
          return mark;
        }),
      );
    },
  };
}
