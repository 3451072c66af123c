// The token view as a widget.

import { mount } from "../kit/mount.js";
import { choiceStore } from "./choice.js";
import { createReader } from "./reader.js";

/** @param {{model: import("../kit/ask.js").Model, el: HTMLElement}} widget */
function render(widget) {
  const view = mount(widget, "lk-tokens lk-tokens-view");
  const choices = choiceStore(view, () => 0);
  const reader = createReader(view, { onHold: (token) => view.set("held", token), choices });
  view.root.append(reader.element);
  const draw = () => reader.update(view.get("held"));
  draw();
  view.on("version", draw);
  view.on(["choices", "choice_status"], reader.chosen);
  view.on("held", () => reader.hold(view.get("held")));
  return view.unmount;
}

export default { render };
