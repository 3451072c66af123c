// What a screen reader hears of what is pointed at, or reached by a key.

import { make } from "./common.js";

const SAY_AFTER = 400; // ms; with a key held down, not every step is read out

/**
 * Returns {element, say(words)}. say: words() is asked for, and read out, a little later, unless something else is to be said by
 * then; what gives null says nothing.
 * @param {import("./mount.js").Mounted} view
 */
export function aloud(view) {
  const element = make("div", "lk-spoken");
  element.setAttribute("aria-live", "polite");
  const later = view.later(SAY_AFTER);
  return {
    element,
    /** @param {() => string | null} words */
    say(words) {
      later(() => {
        const said = words();
        if (said !== null) element.textContent = said;
      });
    },
  };
}
