// What each view's render() begins with and what it returns: the root, its model, its kernel, its size, its theme, its end.

import { openWire } from "./ask.js";
import { makeRoot } from "./common.js";
import { followTheme } from "./theme.js";

/** @typedef {import("./ask.js").Model} Model */

/**
 * Put a view's root into the page. className: the view's own, under which all rules of its style sheet stand. Returns
 *   root, model, exported (whether this is a file, without a kernel)
 *   id(name): an id that no other display has
 *   get(name), set(name, value): a trait
 *   wire: see `openWire`
 *   on(names, callback): a trait changed; of several traits, once for all that came in one message
 *   theme: see `followTheme`; themed(callback): it changed
 *   resized(callback): called with the width in CSS pixels once it is known, when it changed, and when the theme changed
 *     while the view was hidden or out of the page (notebooks take away what is scrolled out of sight)
 *   later(delay): a function that does the latest of what it is given, so many milliseconds later
 *   atEnd(callback): to be called when the view is taken away
 *   unmount: what render() returns
 * @param {{model: Model, el: HTMLElement}} widget
 * @param {string} className
 */
export function mount({ model, el }, className) {
  const root = makeRoot(className);
  const prefix = `lk-${Math.random().toString(36).slice(2, 10)}`;
  const wire = openWire(model);
  const theme = followTheme(root);
  /** @type {(() => void)[]} */
  const ends = [wire.close, theme.close];
  let gone = false;
  let width = 0;
  el.append(root);

  /** @type {(event: string, callback: () => void) => void} */
  function listen(event, callback) {
    model.on(event, callback);
    ends.push(() => model.off(event, callback));
  }

  return {
    root,
    model,
    wire,
    theme,
    exported: Boolean(model.get("exported")),
    id: (/** @type {string | number} */ name) => `${prefix}-${name}`,
    get: (/** @type {string} */ name) => model.get(name),
    /** @type {(name: string, value: unknown) => void} */
    set(name, value) {
      if (JSON.stringify(model.get(name)) === JSON.stringify(value)) return;
      model.set(name, value);
      model.save_changes();
    },
    /** @type {(names: string | string[], callback: () => void) => void} */
    on(names, callback) {
      if (typeof names === "string") {
        listen(`change:${names}`, callback);
        return;
      }
      let due = false;
      const once = () => {
        if (due) return;
        due = true;
        queueMicrotask(() => {
          due = false;
          if (!gone) callback();
        });
      };
      for (const name of names) listen(`change:${name}`, once);
    },
    themed: (/** @type {() => void} */ callback) =>
      theme.watch(() => {
        if (!theme.read()) return;
        if (root.clientWidth === 0) width = 0; // hidden: what is drawn now is drawn anew once there is room for it
        callback();
      }),
    /** @type {(callback: (width: number) => void) => void} */
    resized(callback) {
      const watcher = new ResizeObserver(() => {
        if (root.clientWidth === 0 || (root.clientWidth === width && !theme.read())) return;
        width = root.clientWidth;
        callback(width);
      });
      watcher.observe(root);
      ends.push(() => watcher.disconnect());
    },
    /** @type {(delay: number) => (action: () => void) => void} */
    later(delay) {
      /** @type {ReturnType<typeof setTimeout> | undefined} */
      let timer;
      ends.push(() => clearTimeout(timer));
      return (action) => {
        clearTimeout(timer);
        timer = setTimeout(action, delay);
      };
    },
    atEnd: (/** @type {() => void} */ callback) => void ends.push(callback),
    unmount() {
      gone = true;
      for (const end of ends.splice(0)) end();
    },
  };
}

/** @typedef {ReturnType<typeof mount>} Mounted */
