// The tree view as a widget: the text on show, and its branches at the side.

import { box } from "../kit/common.js";
import { mount } from "../kit/mount.js";
import { choiceStore } from "../tokens_view/choice.js";
import { createReader } from "../tokens_view/reader.js";
import { shownText, treePane } from "./pane.js";

/** @param {{model: import("../kit/ask.js").Model, el: HTMLElement}} widget */
function render(widget) {
  const view = mount(widget, "lk-tokens lk-tree-view lk-panes");
  const pane = treePane(view);
  const can = view.get("can_branch") && !view.exported;
  const reader = createReader(shownText(view), {
    onHold: (token) => view.set("held", token),
    choices: choiceStore(view, () => view.get("shown")),
    onBranch: can ? (at, token) => pane.hear(view.wire.ask("branch", { of: view.get("shown"), at, token })) : null,
  });
  view.root.append(box("lk-split", reader.element, pane.tree), pane.compare);

  function draw() {
    reader.update(view.get("held"));
    pane.draw();
  }
  draw();
  view.on(view.exported ? "shown" : "version", draw);
  view.on(["nodes", "shown", "compared", "status"], pane.draw);
  view.on(["choices", "choice_status"], reader.chosen);
  view.on("held", () => reader.hold(view.get("held")));
  return view.unmount;
}

export default { render };
