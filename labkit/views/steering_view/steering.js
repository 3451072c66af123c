// The steering view as a widget: the prompt, a slider for each feature, and two texts side by side.

import { unlessDropped } from "../kit/ask.js";
import { button } from "../kit/controls.js";
import { box, make, outsideText, setText, spokenLabel } from "../kit/common.js";
import { isBusy, statusLine, stopwatch, textField } from "../kit/field.js";
import { mount } from "../kit/mount.js";
import { sliders } from "./sliders.js";
import { texts } from "./texts.js";

/** @typedef {import("../kit/mount.js").Mounted} Mounted */

const TYPING_MS = 700; // somebody who types on does not mean what stands there yet

/**
 * The prompt to be typed over; in a file, as it was.
 * @type {(view: Mounted, hear: (asked: Promise<unknown>) => void) => HTMLElement}
 */
function promptField(view, hear) {
  if (view.exported) {
    const prompt = outsideText("span", "lk-prose lk-quoted", view.get("shown").prompt);
    return box("lk-steer-prompt", make("span", "lk-muted", "Going on from "), prompt);
  }
  return textField(view, { trait: "prompt", title: "Prompt", lines: 2, delay: TYPING_MS, hear }).element;
}

/**
 * What is going on, for how long, and the button that stops it or has it done again.
 * @type {(view: Mounted, allBack: HTMLElement) => {element: HTMLElement, spoken: HTMLElement, draw: () => void,
 *   hear: (asked: Promise<unknown>) => void}}
 */
function statusBar(view, allBack) {
  const stop = button("Stop", "", () => hear(view.wire.ask(isBusy(view.get("status")) ? "stop" : "again")));
  const line = statusLine();
  line.element.removeAttribute("role"); // a screen reader hears what begins and how it ends, not each token
  const clock = stopwatch(view);
  const element = box("lk-steer-bar lk-actions", allBack, stop, line.element, clock.element);
  const spoken = make("div", "lk-spoken");
  spoken.setAttribute("role", "status");
  let heard = "";

  /** @param {Promise<unknown>} asked */
  function hear(asked) {
    line.hear(asked);
    asked.catch(unlessDropped(({ message }) => setText(spoken, message)));
  }

  function draw() {
    const { state = "waiting", message = "" } = view.get("status");
    const busy = isBusy({ state });
    const again = state === "stopped" || state === "failed";
    line.draw({ state, message: message || (busy ? "waiting …" : "") }, "");
    clock.run(busy);
    setText(stop, again ? "Write again" : "Stop");
    stop.disabled = !busy && !again;
    const kind = state === "running" ? message.split("…")[0] : message;
    if (state !== "waiting" && kind !== heard) {
      heard = kind;
      const note = view.get("shown").steered?.note ?? "";
      spoken.textContent = spokenLabel([kind, state === "done" ? note : ""].filter(Boolean).join(". "), 600);
    }
  }
  return { element, spoken, draw, hear };
}

/** @param {{model: import("../kit/ask.js").Model, el: HTMLElement}} widget */
function render(widget) {
  const view = mount(widget, "lk-steer");
  const { exported, root } = view;
  const controls = sliders(view, (values) => bar.hear(view.wire.tell({ values })));
  const bar = statusBar(view, controls.allBack);
  const both = texts(view);
  const absent = make("p", "lk-muted lk-steer-absent", "The sliders need the notebook that wrote the texts; this file shows them as they were.");
  controls.element.hidden = bar.element.hidden = exported;
  absent.hidden = !exported;
  root.append(promptField(view, bar.hear), controls.element, absent, bar.element, bar.spoken, ...both.elements);

  function draw() {
    both.draw(view.get("shown"));
    if (exported) return;
    bar.draw();
    both.panes.setAttribute("aria-busy", String(isBusy(view.get("status"))));
  }
  draw();
  view.on(["values", "status", "shown"], draw);
  return view.unmount;
}

export default { render };
