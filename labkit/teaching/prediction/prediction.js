// A question with a guess: a number, a choice or a sketched curve, and a lock.

import { appendRuns, make, makeRoot, visibleRuns } from "../../views/kit/common.js";
import { createCurve } from "./curve.js";
import { boundsProblem, parseNumber, say } from "./logic.js";

const PATIENCE_MS = 4000;
const NO_ANSWER = "The kernel has not taken it yet: it is busy with a cell, or it was restarted; then run this cell again.";

function shownText(parent, text) {
  appendRuns(parent, visibleRuns(text, { spaces: false }));
  return parent;
}

function numberField(spec, prefix, changed) {
  const element = make("div", "lk-predict-number");
  const input = make("input");
  Object.assign(input, { type: "text", inputMode: "decimal", autocomplete: "off", id: `${prefix}-n` });
  input.setAttribute("aria-labelledby", `${prefix}-q`);
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
  return { element, read, onEnter: (f) => (sent = f), first: input };
}

function choiceField(spec, prefix, changed) {
  const element = make("div", "lk-predict-choices");
  element.setAttribute("role", "radiogroup");
  element.setAttribute("aria-labelledby", `${prefix}-q`);
  let chosen = null;
  const inputs = spec.choices.map((choice, i) => {
    const label = make("label");
    const input = make("input");
    Object.assign(input, { type: "radio", name: `${prefix}-c`, id: `${prefix}-c${i}` });
    input.addEventListener("change", () => {
      chosen = choice;
      changed();
    });
    label.append(input, shownText(make("span"), choice));
    element.append(label);
    return input;
  });
  return { element, read: () => ({ value: chosen, note: "" }), onEnter() {}, first: inputs[0] };
}

function curveField(spec, _prefix, changed) {
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
  return { element: curve.element, read, onEnter() {}, first: null };
}

/** A locked guess, as it stays on show. */
function lockedGuess(spec, value) {
  if (spec.kind === "curve") {
    return createCurve(spec, { lines: [{ values: value, kind: "guess" }], label: `Your guess: ${value.map((y, i) => `${say(spec.x[i])}: ${say(y)}`).join(", ")}` }).element;
  }
  const text = make("p", "lk-predict-locked");
  text.append(make("span", "lk-predict-faint", "Your guess"), " ");
  const shown = make("strong");
  text.append(shownText(shown, spec.kind === "choice" ? value : say(value) + (spec.unit ? ` ${spec.unit}` : "")));
  return text;
}

function render({ model, el }) {
  const exported = Boolean(model.get("exported"));
  const spec = model.get("spec");
  const prefix = `lk-${Math.random().toString(36).slice(2, 10)}`;
  const root = makeRoot("lk-predict");
  root.setAttribute("role", "group");
  root.setAttribute("aria-label", "Prediction");
  const question = make("p", "lk-predict-question");
  question.id = `${prefix}-q`;
  question.append(make("span", "lk-predict-kind", "Predict"));
  shownText(question, spec.question);
  const place = make("div", "lk-predict-place");
  const foot = make("div", "lk-predict-foot");
  const lock = make("button", "", "Lock my guess");
  lock.type = "button";
  const note = make("span", "lk-predict-note");
  note.setAttribute("role", "status");
  foot.append(lock, note);
  root.append(question, place, foot);
  el.append(root);

  let field = null;
  let waiting = null;

  function drawOpen() {
    const makeField = { number: numberField, choice: choiceField, curve: curveField }[spec.kind];
    const changed = () => {
      const { value, note: text } = field.read();
      lock.disabled = value === null;
      if (note.textContent !== text) note.textContent = text;
    };
    field = makeField(spec, prefix, changed);
    field.onEnter(commit);
    place.replaceChildren(field.element);
    lock.hidden = false;
    changed();
  }

  function drawLocked(value) {
    field = null;
    place.replaceChildren(lockedGuess(spec, value));
    lock.hidden = true;
    note.textContent = "Locked. Run on to see what comes out.";
  }

  function draw() {
    clearTimeout(waiting);
    const { value = null } = model.get("locked_guess");
    root.classList.toggle("lk-predict-is-locked", value !== null);
    if (value === null) drawOpen();
    else drawLocked(value);
  }

  function commit() {
    const value = field?.read().value ?? null;
    if (value === null) return;
    const hadFocus = root.contains(document.activeElement);
    model.set("locked_guess", { value });
    model.save_changes();
    draw();
    if (hadFocus) {
      root.tabIndex = -1;
      root.focus({ preventScroll: true });
    }
    if (!exported) {
      waiting = setTimeout(() => {
        if (!model.get("kept")) note.textContent = NO_ANSWER;
      }, PATIENCE_MS);
    }
  }

  lock.addEventListener("click", commit);
  const drawn = { value: null };
  const events = [
    [
      "change:locked_guess",
      () => {
        const now = JSON.stringify(model.get("locked_guess"));
        if (now !== drawn.value) draw();
        drawn.value = now;
      },
    ],
    ["change:kept", () => model.get("kept") && draw()],
  ];
  draw();
  drawn.value = JSON.stringify(model.get("locked_guess"));
  for (const [event, callback] of events) model.on(event, callback);
  return () => {
    clearTimeout(waiting);
    for (const [event, callback] of events) model.off(event, callback);
  };
}

export default { render };
