// The card of an exercise: what is wanted, its state, hints one by one, then the solution.

import { make, makeRoot } from "../../views/kit/common.js";
import { nextStep, paragraphs, sayState, stateKind } from "./logic.js";

const DOTS = 5;

function appendText(parent, text) {
  for (const paragraph of paragraphs(text)) {
    const p = make("p");
    for (const piece of paragraph) p.append(piece.code ? make("code", "", piece.text) : piece.text);
    parent.append(p);
  }
}

function render({ model, el }) {
  const card = model.get("card");
  const hints = model.get("hints");
  const root = makeRoot("lk-exercise");
  root.setAttribute("role", "group");
  root.setAttribute("aria-label", `Exercise: ${card.title}`);

  const head = make("div", "lk-exercise-head");
  const title = make("p", "lk-exercise-title");
  title.append(make("span", "lk-exercise-kind", "Exercise"), card.title);
  const state = make("p", "lk-exercise-state");
  state.setAttribute("role", "status");
  const sign = make("span", "lk-exercise-sign");
  sign.setAttribute("aria-hidden", "true");
  const words = make("span");
  state.append(sign, words);
  head.append(title, state);

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

  const task = make("div", "lk-exercise-task");
  appendText(task, card.task);
  const ask = make("p", "lk-exercise-ask");
  ask.append("Write ", make("code", "", card.signature), ", then ");
  ask.append(make("code", "", `lk.check("${card.id}", ${card.signature.split("(")[0]})`));
  task.append(ask);

  const help = make("ol", "lk-exercise-hints");
  const items = hints.map((hint, i) => {
    const item = make("li", "lk-exercise-hint");
    item.tabIndex = -1; // where the focus goes when it unfolds
    item.append(make("p", "lk-exercise-hint-title", `Hint ${i + 1} of ${hints.length}`));
    appendText(item, hint);
    help.append(item);
    return item;
  });
  const solution = make("div", "lk-exercise-solution");
  solution.tabIndex = -1;
  const code = make("pre");
  code.tabIndex = 0; // a long line is scrolled with the keys
  code.setAttribute("role", "region");
  code.setAttribute("aria-label", "Source of the solution");
  code.append(make("code", "", model.get("answer")));
  solution.append(make("p", "lk-exercise-hint-title", "Solution"), code);
  const step = make("button");
  step.type = "button";

  root.append(head, facts, task, help, solution, step);
  el.append(root);

  function drawState() {
    const now = model.get("state");
    words.textContent = sayState(now);
    sign.className = `lk-exercise-sign lk-exercise-${stateKind(now)}`;
    state.classList.toggle("lk-exercise-done", Boolean(now.solved));
  }

  function drawHelp() {
    const opened = model.get("opened");
    const shown = model.get("solution_shown");
    items.forEach((item, i) => {
      item.hidden = i >= opened;
    });
    help.hidden = opened === 0;
    solution.hidden = !shown;
    const next = nextStep(opened, hints.length, shown);
    step.hidden = next === null;
    if (next) step.textContent = next.label;
  }

  step.addEventListener("click", () => {
    const opened = model.get("opened");
    const next = nextStep(opened, hints.length, model.get("solution_shown"));
    if (next === null) return;
    const byKeyboard = step.matches(":focus-visible");
    if (next.kind === "hint") model.set("opened", opened + 1);
    else model.set("solution_shown", true);
    model.save_changes();
    drawHelp();
    // What unfolded is read at once, and the next Tab is at the button again.
    if (byKeyboard) (next.kind === "hint" ? items[opened] : solution).focus({ preventScroll: false });
  });

  const events = [
    ["change:state", drawState],
    ["change:opened", drawHelp],
    ["change:solution_shown", drawHelp],
  ];
  drawState();
  drawHelp();
  for (const [event, callback] of events) model.on(event, callback);
  return () => {
    for (const [event, callback] of events) model.off(event, callback);
  };
}

export default { render };
