// The token view as a widget: the reader, fed from the model's traits.

import { makeRoot } from "../kit/common.js";
import { createReader } from "./reader.js";

function render({ model, el }) {
  const root = makeRoot("lk-tokens-view");
  const reader = createReader({
    onHold(i) {
      model.set("held", i);
      model.save_changes();
    },
  });
  root.append(reader.element);
  el.append(root);

  const draw = () =>
    reader.update({
      strings: model.get("strings"),
      block: model.get("block"),
      facts: model.get("facts"),
      prompt_text: model.get("prompt_text"),
      held: model.get("held"),
    });
  const held = () => reader.hold(model.get("held"));
  draw();
  model.on("change:version", draw);
  model.on("change:held", held);
  return () => {
    model.off("change:version", draw);
    model.off("change:held", held);
  };
}

export default { render };
