// The card of an exercise: what is wanted, its state, hints one by one, then the solution.

import { make } from "../../views/kit/common.js";
import { button } from "../../views/kit/controls.js";
import { mount } from "../../views/kit/mount.js";
import { nextStep, paragraphs, sayState, stateKind } from "./logic.js";

/** @typedef {import("../../views/kit/mount.js").Model} Model */

/**
 * @typedef {object} Card
 * @property {string} id
 * @property {string} title
 * @property {string} task
 * @property {string} signature
 * @property {number} minutes
 * @property {string} difficulty
 * @property {number} importance
 * @property {string} importance_word
 */

const DOTS = 5;

/** @type {(parent: Element, text: string) => void} */
function appendText(parent, text) {
  for (const paragraph of paragraphs(text)) {
    const p = make("p");
    for (const piece of paragraph) p.append(piece.code ? make("code", "", piece.text) : piece.text);
    parent.append(p);
  }
}

/** Title and state; draw(state) says another one. @param {Card} card */
function headOf(card) {
  const element = make("div", "lk-exercise-head");
  const title = make("p", "lk-exercise-title");
  title.append(make("span", "lk-exercise-kind", "Exercise"), card.title);
  const said = make("p", "lk-exercise-state");
  said.setAttribute("role", "status");
  const sign = make("span", "lk-exercise-sign");
  sign.setAttribute("aria-hidden", "true");
  const words = make("span");
  said.append(sign, words);
  element.append(title, said);
  return {
    element,
    draw(/** @type {import("./logic.js").State} */ state) {
      words.textContent = sayState(state);
      sign.className = `lk-exercise-sign lk-exercise-${stateKind(state)}`;
      said.classList.toggle("lk-exercise-done", Boolean(state.solved));
    },
  };
}

/** Difficulty, importance and minutes. @param {Card} card */
function factsOf(card) {
  const facts = make("p", "lk-exercise-facts");
  const dots = make("span", "lk-exercise-dots");
  dots.setAttribute("aria-hidden", "true");
  for (let i = 0; i < DOTS; i += 1) dots.append(make("span", i < card.importance ? "lk-dot lk-dot-on" : "lk-dot"));
  const importance = make("span", "lk-exercise-importance");
  importance.append(dots, ` ${card.importance_word}`, make("span", "lk-spoken", `, importance ${card.importance} of ${DOTS}`));
  facts.append(
    make("span", "", card.difficulty),
    importance,
    make("span", "", `about ${card.minutes} minute${card.minutes === 1 ? "" : "s"}`),
  );
  return facts;
}

/** What is wanted, and how it is checked. @param {Card} card */
function taskOf(card) {
  const task = make("div", "lk-exercise-task");
  appendText(task, card.task);
  const ask = make("p", "lk-exercise-ask");
  ask.append("Write ", make("code", "", card.signature), ", then ");
  ask.append(make("code", "", `lk.check("${card.id}", ${card.signature.split("(")[0]})`));
  task.append(ask);
  return task;
}

/**
 * Hints and solution, folded. show(opened, solutionShown) unfolds so many; focus(i) goes to a hint, or to the solution where
 * there is none of that number.
 * @type {(hints: string[], source: string) => {elements: HTMLElement[], show: (opened: number, shown: boolean) => void, focus: (i: number) => void}}
 */
function helpOf(hints, source) {
  const list = make("ol", "lk-exercise-hints");
  const items = hints.map((hint, i) => {
    const item = make("li", "lk-exercise-hint");
    item.tabIndex = -1; // where the focus goes when it unfolds
    item.append(make("p", "lk-exercise-hint-title", `Hint ${i + 1} of ${hints.length}`));
    appendText(item, hint);
    list.append(item);
    return item;
  });
  const solution = make("div", "lk-exercise-solution");
  solution.tabIndex = -1;
  const code = make("pre");
  code.tabIndex = 0; // a long line is scrolled with the keys
  code.setAttribute("role", "region");
  code.setAttribute("aria-label", "Source of the solution");
  code.append(make("code", "", source));
  solution.append(make("p", "lk-exercise-hint-title", "Solution"), code);
  return {
    elements: [list, solution],
    show(opened, shown) {
      items.forEach((item, i) => {
        item.hidden = i >= opened;
      });
      list.hidden = opened === 0;
      solution.hidden = !shown;
    },
    focus: (i) => (items[i] ?? solution).focus({ preventScroll: false }),
  };
}

/** @param {{model: Model, el: HTMLElement}} widget */
function render(widget) {
  const view = mount(widget, "lk-exercise");
  /** @type {Card} */
  const card = view.get("card");
  /** @type {string[]} */
  const hints = view.get("hints");
  view.root.setAttribute("role", "group");
  view.root.setAttribute("aria-label", `Exercise: ${card.title}`);

  const head = headOf(card);
  const help = helpOf(hints, view.get("answer"));
  const step = button("", "", unfold);
  view.root.append(head.element, factsOf(card), taskOf(card), ...help.elements, step);

  const next = () => nextStep(view.get("opened"), hints.length, view.get("solution_shown"));

  function drawHelp() {
    help.show(view.get("opened"), view.get("solution_shown"));
    const offered = next();
    step.hidden = offered === null;
    if (offered) step.textContent = offered.label;
  }

  function unfold() {
    const offered = next();
    if (offered === null) return;
    const opened = view.get("opened");
    const byKeyboard = step.matches(":focus-visible");
    if (offered.kind === "hint") view.set("opened", opened + 1);
    else view.set("solution_shown", true);
    drawHelp();
    // What unfolded is read at once, and the next Tab is at the button again.
    if (byKeyboard) help.focus(opened);
  }

  view.on("state", () => head.draw(view.get("state")));
  view.on(["opened", "solution_shown"], drawHelp);
  head.draw(view.get("state"));
  drawHelp();
  return view.unmount;
}

export default { render };
