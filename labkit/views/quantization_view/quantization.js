// The quantization view: controls, the weights with the grid over them, the error map, both texts.

import { unlessDropped } from "../kit/ask.js";
import { box, make, setText } from "../kit/common.js";
import { button, picker, setOptions } from "../kit/controls.js";
import { isBusy, statusLine, stopwatch, textField } from "../kit/field.js";
import { mount } from "../kit/mount.js";
import { errorMap } from "./error_map.js";
import { histogram } from "./histogram.js";
import { byteText, shareText } from "./logic.js";
import { texts } from "./texts.js";

/** @typedef {import("../kit/mount.js").Mounted} Mounted */

const TYPING_MS = 700; // somebody who types on does not mean what stands there yet

/**
 * Which matrix, and how it is quantized. hear(asked): the kernel was told.
 * @type {(view: Mounted, hear: (asked: Promise<unknown>) => void) => {element: HTMLElement, draw: () => void}}
 */
function controls(view, hear) {
  const element = make("div", "lk-quant-controls lk-controls");
  element.setAttribute("role", "group");
  element.setAttribute("aria-label", "Which matrix is drawn, and how everything is quantized");
  /** @type {(title: string, trait: string, read?: (value: string) => unknown) => {pair: HTMLElement, select: HTMLSelectElement}} */
  const list = (title, trait, read = (value) => value) => {
    const { pair, select } = picker(title, view.id(trait));
    select.addEventListener("change", () => hear(view.wire.tell({ [trait]: read(select.value) })));
    return { pair, select };
  };
  const layer = list("Layer", "layer", Number);
  const matrix = list("Matrix", "matrix");
  const format = list("Format", "format");
  const group = list("Weights that share a grid", "group");
  const symmetric = list("Grid", "symmetric", (value) => value === "true");
  const method = list("Method", "method");
  element.append(...[format, group, symmetric, method, layer, matrix].map(({ pair }) => pair));
  return {
    element,
    draw() {
      const { layers, matrices, formats, groups, symmetries, methods } = view.get("choices");
      /** @param {[string, string][]} pairs */
      const named = (pairs) => pairs.map(([value, title]) => ({ value, title }));
      setOptions(layer.select, layers, view.get("layer"));
      setOptions(matrix.select, matrices, view.get("matrix"));
      setOptions(format.select, formats, view.get("format"));
      setOptions(group.select, named(groups), view.get("group"));
      group.select.disabled = groups.length < 2;
      const sides = symmetries ? named([["true", "around zero"], ["false", "smallest to largest"]]) : named([["own", "the format's own"]]);
      setOptions(symmetric.select, sides, symmetries ? String(view.get("symmetric")) : "own");
      symmetric.select.disabled = !symmetries;
      setOptions(method.select, named(methods), view.get("method"));
    },
  };
}

/** The numbers of the matrix, in one line. @param {Mounted} view */
function numbers(view) {
  const element = make("p", "lk-quant-numbers");
  return {
    element,
    draw() {
      const pane = view.get("pane");
      element.hidden = pane.bits === undefined;
      if (element.hidden) return;
      const strong = (/** @type {string} */ text) => make("strong", "", text);
      const output =
        pane.output_error !== null ? [strong(shareText(pane.output_error)), " output error"] : [pane.pending ? "output error: being measured …" : "output error: needs calibration text"];
      element.replaceChildren(
        strong(`layer ${pane.layer}, ${pane.matrix}`),
        ` in ${pane.described}, by ${pane.method}: `,
        ...[[strong(pane.bits.toFixed(3)), " bits per weight"], [strong(byteText(pane.bytes))], [strong(shareText(pane.weight_error)), " weight error"], output].flatMap((part, i) => [
          ...(i > 0 ? [" · "] : []),
          ...part,
        ]),
      );
    },
  };
}

/** @param {{model: import("../kit/ask.js").Model, el: HTMLElement}} widget */
function render(widget) {
  const view = mount(widget, "lk-quant");
  const { exported, root } = view;
  root.classList.add("lk-panes");
  const matrixLine = statusLine();
  const textLine = statusLine();
  const bar = controls(view, matrixLine.hear);
  const facts = numbers(view);
  const [weights, errors, both] = [histogram(view), errorMap(view), texts(view)];
  const stop = button("Stop", "", () => {
    const asked = view.wire.ask(isBusy(view.get("text_status")) ? "stop" : "again");
    textLine.hear(asked);
    asked.catch(unlessDropped(() => {}));
  });
  const clock = stopwatch(view);
  const status = box("lk-actions", stop, textLine.element, clock.element);
  const panes = box("lk-quant-panes", weights.element, errors.element);
  const textTitle = make("h2", "", "What the whole model writes");
  const prompt = exported
    ? make("p", "lk-quant-prompt")
    : textField(view, { trait: "prompt", title: "Going on, greedily, from", delay: TYPING_MS, hear: textLine.hear }).element;
  if (exported) prompt.append(make("span", "lk-muted", "Going on, greedily, from "), make("bdi", "", view.get("texts").prompt ?? ""));
  const absent = make("p", "lk-muted", "The controls need the notebook that this was written from; this file shows one setting.");
  const settingLine = make("p", "lk-muted");
  bar.element.hidden = matrixLine.element.hidden = status.hidden = exported;
  absent.hidden = !exported;
  root.append(bar.element, absent, facts.element, matrixLine.element, panes, textTitle, prompt, settingLine, status, both.element);

  let wide = 0;
  function drawPictures() {
    if (wide === 0) return;
    view.theme.read();
    for (const pane of [weights, errors]) if (pane.element.clientWidth > 0) pane.draw(pane.element.clientWidth);
  }
  function drawMatrix() {
    if (!exported) bar.draw();
    facts.draw();
    panes.hidden = view.get("pane").bits === undefined;
    drawPictures();
  }
  function drawStatus() {
    if (exported) return;
    matrixLine.draw(view.get("matrix_status"), "quantizing the matrix …");
    const now = view.get("text_status");
    textLine.draw(now, "waiting …");
    clock.run(isBusy(now));
    const again = now.state === "stopped" || now.state === "failed";
    setText(stop, again ? "Write again" : "Stop");
    stop.disabled = !isBusy(now) && !again;
  }
  function drawTexts() {
    both.draw();
    const { described = "" } = view.get("texts");
    setText(settingLine, described ? `Every matrix of the layers in ${described}; embedding and head as they were.` : "");
  }
  drawMatrix();
  drawStatus();
  drawTexts();
  view.on(["pane", "cells", "counts", "levels", "points", "choices", "layer", "matrix", "format", "group", "symmetric", "method"], drawMatrix);
  view.on(["matrix_status", "text_status"], drawStatus);
  view.on(["texts", "text_status"], drawTexts);
  view.themed(drawPictures);
  view.resized((width) => {
    wide = width;
    drawPictures();
  });
  view.atEnd(() => {
    matrixLine.clear();
    textLine.clear();
  });
  return view.unmount;
}

export default { render };
