// The token view as a widget: the reader, fed from the model's traits.

import { mount } from "../kit/mount.js";
import { createReader } from "./reader.js";

/** @param {{model: import("../kit/ask.js").Model, el: HTMLElement}} widget */
function render(widget) {
  const view = mount(widget, "lk-tokens lk-tokens-view");
  const reader = createReader({ onHold: (token) => view.set("held", token) });
  view.root.append(reader.element);
  const names = ["strings", "block", "facts", "prompt_text", "held"];
  const draw = () => reader.update(Object.fromEntries(names.map((name) => [name, view.get(name)])));
  draw();
  view.on("version", draw);
  view.on("held", () => reader.hold(view.get("held")));
  return view.unmount;
}

export default { render };
