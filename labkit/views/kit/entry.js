// A field to type in, and the line that says what is being computed for it, or why it can't be. family: of the view's classes.

import { make } from "./common.js";
import { NO_ANSWER, patience } from "./patience.js";

const SLOW_MS = 250; // what is there sooner needs no word

/** A text field with its label and status line. send(text): what to do with what is typed. */
export function entryField({ family, id, title, hint, multiline, busyText, send }) {
  const box = make("div", `lk-entry ${family}-entry`);
  const label = make("label", "", title);
  const field = /** @type {any} */ (make(multiline ? "textarea" : "input", "lk-entry-field"));
  if (multiline) field.rows = 2;
  else field.type = "search";
  field.id = id;
  field.spellcheck = false;
  field.placeholder = hint;
  label.htmlFor = id;
  const status = statusLine(family);
  box.append(label, field, status.element);
  field.addEventListener("input", () => {
    status.expect();
    send(field.value);
  });
  return {
    box,
    status,
    show(value) {
      if (field.value !== value) field.value = value;
    },
    draw(state) {
      status.draw(state, busyText);
      box.setAttribute("aria-busy", String(status.busy()));
    },
  };
}

/** A line for {state, message}: what is being computed once that takes a while, what failed, or that no answer comes. */
export function statusLine(family) {
  const element = make("p", `${family}-status`);
  element.setAttribute("role", "status");
  const failed = `${family}-failed`;
  const kernel = patience(() => {
    element.textContent = NO_ANSWER;
    element.classList.add(failed);
  });
  let slow = null;
  let busy = false;
  const clear = () => {
    clearTimeout(slow);
    kernel.answered();
  };
  return {
    element,
    busy: () => busy,
    clear,
    /** The kernel was asked for something, and has to answer in time. */
    expect: kernel.expect,
    draw({ state = "", message = "" }, busyText) {
      clear();
      busy = state === "waiting" || state === "running";
      element.classList.toggle(failed, state === "failed");
      if (busy) slow = setTimeout(() => (element.textContent = busyText), SLOW_MS);
      else element.textContent = message;
    },
    say(text) {
      clear();
      busy = false;
      element.classList.remove(failed);
      element.textContent = text;
    },
  };
}
