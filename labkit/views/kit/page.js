// Runs at the end of an exported file: the widget's own render(), on a stand-in for the notebook's model.
{
  const { values, bytes, packed } = JSON.parse(document.getElementById("labkit-state").textContent);
  const state = new Map(Object.entries(values));
  const decoded = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  for (const [name, text] of Object.entries(bytes)) state.set(name, new DataView(decoded(text).buffer));
  for (const [name, text] of Object.entries(packed)) {
    const stream = new Blob([decoded(text)]).stream().pipeThrough(new DecompressionStream("deflate"));
    state.set(name, new DataView(await new Response(stream).arrayBuffer()));
  }
  const listeners = [];
  const model = {
    get: (name) => state.get(name),
    set(name, value) {
      if (state.get(name) === value) return;
      state.set(name, value);
      for (const [event, callback] of [...listeners]) if (event === `change:${name}`) callback();
    },
    on: (event, callback) => void listeners.push([event, callback]),
    off(event, callback) {
      for (let i = listeners.length - 1; i >= 0; i -= 1) {
        const [heldEvent, heldCallback] = listeners[i];
        if (event === heldEvent && (callback === undefined || callback === heldCallback)) listeners.splice(i, 1);
      }
    },
    save_changes() {},
    send() {},
  };
  // Drawn apart and swapped in at the end: should drawing fail, the static text stays.
  const el = document.createElement("div");
  const place = document.getElementById("labkit-view");
  await labkitWidget.render({ model, el });
  place.replaceChildren(el);
}
