// A question with a guess: a number, a choice or a sketched curve, and a lock.

import { unlessDropped } from "../../views/kit/ask.js";
import { appendRuns, make, setText, visibleRuns } from "../../views/kit/common.js";
import { button } from "../../views/kit/controls.js";
import { mount } from "../../views/kit/mount.js";
import { createCurve } from "./curve.js";
import { boundsProblem, parseNumber, say } from "./logic.js";

/** @typedef {import("./curve.js").Spec} Spec */
/** @typedef {(name: string) => string} Ids */

/**
 * A field for a guess. read(): the guess, or null and a note on what is missing.
 * @typedef {object} Field
 * @property {HTMLElement} element
 * @property {() => {value: any, note: string}} read
 * @property {(sent: () => void) => void} onEnter
 */

const NOT_TAKEN = "The kernel has not taken it yet: it is busy with a cell, or it was restarted; then run this cell again.";

/**
 * @template {Element} Parent
 * @param {Parent} parent
 * @param {string} text
 */
function shownText(parent, text) {
  appendRuns(parent, visibleRuns(text, { spaces: false }));
  return parent;
}

/** @type {(spec: Spec, ids: Ids, changed: () => void) => Field} */
function numberField(spec, ids, changed) {
  const element = make("div", "lk-predict-number");
  const input = make("input");
  Object.assign(input, { type: "text", inputMode: "decimal", autocomplete: "off", id: ids("number") });
  input.setAttribute("aria-labelledby", ids("question"));
  element.append(input);
  if (spec.unit) element.append(shownText(make("span"), spec.unit));
  if (spec.low !== null && spec.high !== null) {
    element.append(make("span", "lk-predict-faint", `from ${say(spec.low)} to ${say(spec.high)}`));
  }
  let sent = () => {};
  input.addEventListener("input", changed);
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.isComposing) {
      event.preventDefault();
      sent();
    }
  });
  const read = () => {
    if (input.value.trim() === "") return { value: null, note: "" };
    const value = parseNumber(input.value, spec.unit);
    if (value === null) return { value: null, note: "Write a number, such as 12 or 0.5." };
    const problem = boundsProblem(value, spec.low, spec.high);
    return { value: problem ? null : value, note: problem };
  };
  return {
    element,
    read,
    onEnter(given) {
      sent = given;
    },
  };
}

/** @type {(spec: Spec, ids: Ids, changed: () => void) => Field} */
function choiceField(spec, ids, changed) {
  const element = make("div", "lk-predict-choices");
  element.setAttribute("role", "radiogroup");
  element.setAttribute("aria-labelledby", ids("question"));
  /** @type {string | null} */
  let chosen = null;
  spec.choices.forEach((choice, i) => {
    const label = make("label");
    const input = make("input");
    Object.assign(input, { type: "radio", name: ids("choice"), id: ids(`choice${i}`) });
    input.addEventListener("change", () => {
      chosen = choice;
      changed();
    });
    label.append(input, shownText(make("span"), choice));
    element.append(label);
  });
  return { element, read: () => ({ value: chosen, note: "" }), onEnter() {} };
}

/** @type {(spec: Spec, ids: Ids, changed: () => void) => Field} */
function curveField(spec, _ids, changed) {
  /** @type {(number | null)[]} */
  const values = spec.x.map(() => null);
  const curve = createCurve(spec, {
    lines: [{ values, kind: "guess" }],
    label: "Sketch of your guess: left and right choose a point, up and down move it",
    onSet(index, value) {
      values[index] = value;
      curve.draw(0, values);
      changed();
    },
  });
  const read = () => {
    const set = values.filter((value) => value !== null).length;
    if (set === values.length) return { value: [...values], note: "" };
    return { value: null, note: set ? `${set} of ${values.length} points set` : "Draw a line across, or move each point with the arrow keys." };
  };
  return { element: curve.element, read, onEnter() {} };
}

const FIELDS = { number: numberField, choice: choiceField, curve: curveField };

/**
 * A locked guess, as it stays on show.
 * @type {(spec: Spec, value: any) => HTMLElement}
 */
function lockedGuess(spec, value) {
  if (spec.kind === "curve") {
    const pairs = spec.x.map((x, i) => `${say(x)}: ${say(value[i])}`);
    return createCurve(spec, { lines: [{ values: value, kind: "guess" }], label: `Your guess: ${pairs.join(", ")}` }).element;
  }
  const text = make("p", "lk-predict-locked");
  text.append(make("span", "lk-predict-faint", "Your guess"), " ");
  const shown = make("strong");
  text.append(shownText(shown, spec.kind === "choice" ? value : say(value) + (spec.unit ? ` ${spec.unit}` : "")));
  return text;
}

/** @param {{model: import("../../views/kit/mount.js").Model, el: HTMLElement}} widget */
function render(widget) {
  const view = mount(widget, "lk-predict");
  const { root } = view;
  /** @type {Spec} */
  const spec = view.get("spec");
  root.setAttribute("role", "group");
  root.setAttribute("aria-label", "Prediction");
  const question = make("p", "lk-predict-question");
  question.id = view.id("question");
  question.append(make("span", "lk-predict-kind", "Predict"));
  shownText(question, spec.question);
  const place = make("div", "lk-predict-place");
  const foot = make("div", "lk-predict-foot");
  const lock = button("Lock my guess", "", commit);
  const note = make("span", "lk-predict-note");
  note.setAttribute("role", "status");
  foot.append(lock, note);
  root.append(question, place, foot);

  /** @type {Field | null} */
  let field = null;
  let drawn = "";

  function drawOpen() {
    const open = FIELDS[spec.kind](spec, view.id, changed);
    function changed() {
      const { value, note: text } = open.read();
      lock.disabled = value === null;
      setText(note, text);
    }
    field = open;
    open.onEnter(commit);
    place.replaceChildren(open.element);
    lock.hidden = false;
    changed();
  }

  /** @param {any} value */
  function drawLocked(value) {
    field = null;
    place.replaceChildren(lockedGuess(spec, value));
    lock.hidden = true;
    setText(note, "Locked. Run on to see what comes out.");
  }

  function draw() {
    const { value = null } = view.get("locked_guess");
    drawn = JSON.stringify(view.get("locked_guess"));
    root.classList.toggle("lk-predict-is-locked", value !== null);
    if (value === null) drawOpen();
    else drawLocked(value);
  }

  function commit() {
    const value = field?.read().value ?? null;
    if (value === null) return;
    const hadFocus = root.contains(document.activeElement);
    if (view.exported) view.set("locked_guess", { value });
    else view.wire.tell({ locked_guess: { value } }).catch(unlessDropped(() => setText(note, NOT_TAKEN)));
    draw();
    if (hadFocus) {
      root.tabIndex = -1;
      root.focus({ preventScroll: true });
    }
  }

  view.on("locked_guess", () => JSON.stringify(view.get("locked_guess")) !== drawn && draw());
  view.on("kept", () => view.get("kept") && draw()); // a busy kernel took it after all
  draw();
  return view.unmount;
}

export default { render };
