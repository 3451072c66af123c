// Runs at the end of an exported file: the widget's own render(), on a stand-in for the notebook's model.
{
  const found = (/** @type {string} */ id) => /** @type {HTMLElement} */ (document.getElementById(id));
  /** @type {{values: Record<string, unknown>, bytes: Record<string, string>, packed: Record<string, string>}} */
  const { values, bytes, packed } = JSON.parse(found("labkit-state").textContent ?? "");
  const state = new Map(Object.entries(values));
  const decoded = (/** @type {string} */ text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  for (const [name, text] of Object.entries(bytes)) state.set(name, new DataView(decoded(text).buffer));
  for (const [name, text] of Object.entries(packed)) {
    const stream = new Blob([decoded(text)]).stream().pipeThrough(new DecompressionStream("deflate"));
    state.set(name, new DataView(await new Response(stream).arrayBuffer()));
  }
  /** @type {[string, () => void][]} */
  const listeners = [];
  const model = {
    get: (/** @type {string} */ name) => state.get(name),
    /** @type {(name: string, value: unknown) => void} */
    set(name, value) {
      if (state.get(name) === value) return;
      state.set(name, value);
      for (const [event, callback] of [...listeners]) if (event === `change:${name}`) callback();
    },
    on: (/** @type {string} */ event, /** @type {() => void} */ callback) => void listeners.push([event, callback]),
    /** @type {(event: string, callback?: () => void) => void} */
    off(event, callback) {
      const kept = listeners.filter(([name, each]) => name !== event || (callback !== undefined && callback !== each));
      listeners.splice(0, listeners.length, ...kept);
    },
    save_changes() {},
    send() {},
  };
  // Drawn apart and swapped in at the end: should drawing fail, the static picture stays.
  const el = document.createElement("div");
  await labkitWidget.render({ model, el });
  found("labkit-view").replaceChildren(el);
}
