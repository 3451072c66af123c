// The text: point at a token and see where it looks, or who looks at it, for one head, a layer, or the marked heads.

import { appendRuns, make, ownKey, spokenLabel, thousands, visibleRuns } from "../kit/common.js";
import { picker, setOptions } from "../kit/controls.js";
import { NOT_A_NUMBER, aboutWeight, needsLight, strongest } from "./logic.js";
import { quoted } from "./head.js";

const DIRECTIONS = [{ value: "from", title: "what it looks at" }, { value: "into", title: "who looks at it" }];
const NAMED = 4;
const SAY_AFTER = 400; // ms
const ASK_AFTER = 50; // ms; a pointer on its way asks for nothing

/**
 * actions: point(token) tells which token is pointed at, or null; scopes() → [{name, title, heads}] of what can be asked.
 * Returns {element, update(), recolour(), link(token), close()}.
 */
export function textPane({ texts, source, context, actions, prefix }) {
  const element = make("div", "lk-att-text");
  const controls = make("div", "lk-att-controls");
  const heading = make("h2", "lk-att-title", "The text");
  const [directionPicker, scopePicker] = [picker("Shade", `${prefix}-direction`, DIRECTIONS), picker("Heads", `${prefix}-scope`)];
  const [direction, scope] = [directionPicker.select, scopePicker.select];
  controls.append(heading);
  for (const { label, select } of [directionPicker, scopePicker]) {
    label.className = "lk-spoken"; // the list's own words tell what it is for
    controls.append(label, select);
  }
  const list = make("div", "lk-att-tokens");
  list.tabIndex = 0;
  list.setAttribute("role", "listbox");
  list.setAttribute("aria-label", "Tokens of the text: arrow keys move, Enter holds, Escape lets go");
  const foot = make("p", "lk-att-textfoot");
  const said = make("div", "lk-spoken");
  said.setAttribute("aria-live", "polite");
  element.append(controls, list, foot, said);

  let trace = null;
  let spans = [];
  let pointed = null;
  let held = null;
  let linked = null;
  let cursor = null;
  let shaded = null; // what is painted now
  let askTimer = null;
  let sayTimer = null;

  const focus = () => pointed ?? held ?? cursor ?? linked;

  function fill(which) {
    if (trace === which) return;
    trace = which;
    spans = texts[which].map((text, i) => {
      const span = make("span", "lk-att-token");
      span.setAttribute("role", "option");
      span.id = `${prefix}-token-${i}`;
      span.dataset.token = String(i);
      appendRuns(span, visibleRuns(text, { limit: 40 }));
      if (text === "") span.append("∅");
      // what can't be seen has a name too
      if (visibleRuns(text).every(({ kind }) => kind !== "text")) span.setAttribute("aria-label", spokenLabel(text, 40));
      return span;
    });
    list.replaceChildren(...spans);
    pointed = held = cursor = linked = shaded = null;
  }

  function update() {
    fill(actions.trace());
    const scopes = actions.scopes();
    setOptions(scope, scopes.map(({ name, title }) => ({ value: name, title })));
    shaded = null;
    draw();
  }

  function heads() {
    return actions.scopes().find(({ name }) => name === scope.value)?.heads ?? [];
  }

  /** Scroll the list, and nothing but the list, so that a token is in it. The list is the tokens' offset parent. */
  function reveal(token) {
    const { offsetTop: above, offsetHeight: height } = spans[token];
    if (above < list.scrollTop) list.scrollTop = above;
    else if (above + height > list.scrollTop + list.clientHeight) list.scrollTop = above + height - list.clientHeight;
  }

  function draw() {
    const token = focus();
    for (const [i, span] of spans.entries()) {
      const chosen = i === token;
      if (span.classList.contains("lk-att-here") !== chosen) {
        span.classList.toggle("lk-att-here", chosen);
        span.setAttribute("aria-selected", String(chosen));
      }
    }
    if (token === null) {
      paint(null);
      list.removeAttribute("aria-activedescendant");
      foot.replaceChildren("Point at a token, or move with the arrow keys.");
      return;
    }
    list.setAttribute("aria-activedescendant", spans[token].id);
    const into = direction.value === "into";
    const line = source.line({ trace, heads: heads(), token, into, aside: context.aside() }, () => {
      if (focus() === token) draw();
    });
    if (line === undefined) {
      paint(null);
      foot.replaceChildren("This file does not hold all of these heads.");
      return;
    }
    if (line === null) return; // still on its way: what is painted stays
    paint(line);
    words(token, line, into);
  }

  function paint(line) {
    if (line === shaded) return;
    shaded = line;
    const colours = context.palette();
    spans.forEach((span, i) => {
      const code = line?.[i] ?? 0;
      if (code === 0) {
        if (span.style.backgroundColor) span.style.backgroundColor = span.style.color = "";
        return;
      }
      const rgb = colours.subarray(4 * code, 4 * code + 3);
      span.style.backgroundColor = `rgb(${rgb.join(" ")})`;
      span.style.color = needsLight(rgb) ? "#ffffff" : "#000000";
    });
  }

  function words(token, line, into) {
    const best = strongest(line, NAMED);
    const name = (i) => [quoted(texts[trace][i]), ` (${thousands(i)})`];
    if (line[token] === NOT_A_NUMBER && best.length === 0) {
      foot.replaceChildren(...name(token), ": its weights are not numbers.");
      return;
    }
    const parts = [...name(token), into ? " is looked at most by " : " looks most at "];
    if (best.length === 0) parts.push(into ? "no token" : "no token of the text");
    best.forEach(({ token: other, code }, i) => {
      if (i > 0) parts.push(", ");
      parts.push(...(other === token ? ["itself"] : name(other)), ": ", make("strong", "", aboutWeight(code).replace("about ", "")));
    });
    foot.replaceChildren(...parts);
  }

  function say() {
    clearTimeout(sayTimer);
    sayTimer = setTimeout(() => {
      const token = focus();
      if (token === null || !shaded) return;
      const best = strongest(shaded, NAMED);
      const into = direction.value === "into";
      said.textContent =
        `${spokenLabel(texts[trace][token], 40)}, token ${token}, ${into ? "is looked at by" : "looks at"} ` +
        best.map(({ token: i, code }) => `${i === token ? "itself" : spokenLabel(texts[trace][i], 40)}: ${aboutWeight(code)}`).join("; ");
    }, SAY_AFTER);
  }

  function point(token) {
    if (token === pointed) return;
    pointed = token;
    clearTimeout(askTimer);
    askTimer = setTimeout(() => {
      draw();
      actions.point(focus());
    }, source.live ? ASK_AFTER : 0);
  }

  const tokenOf = (event) => {
    const span = event.target.closest?.(".lk-att-token");
    return span ? Number(span.dataset.token) : null;
  };
  list.addEventListener("pointermove", (event) => {
    if (event.pointerType !== "touch") point(tokenOf(event) ?? pointed);
  });
  list.addEventListener("pointerleave", () => point(null));
  list.addEventListener("click", (event) => {
    const token = tokenOf(event);
    if (token === null) return;
    held = held === token ? null : token;
    cursor = token;
    draw();
    actions.point(focus());
    say();
  });
  list.addEventListener("keydown", (event) => {
    if (!ownKey(event)) return;
    const last = spans.length - 1;
    const now = focus() ?? -1;
    const moves = { ArrowRight: now + 1, ArrowDown: now + 10, ArrowLeft: now - 1, ArrowUp: now - 10, Home: 0, End: last };
    if (event.key === "Escape") {
      if (focus() === null) list.blur();
      held = pointed = cursor = null;
    } else if (event.key === "Enter" || event.key === " ") held = held === cursor ? null : cursor;
    else if (Object.hasOwn(moves, event.key)) {
      cursor = Math.max(0, Math.min(last, moves[event.key]));
      held = null;
      pointed = null;
      reveal(cursor);
    } else return;
    draw();
    actions.point(focus());
    say();
    event.preventDefault();
    event.stopPropagation();
  });
  for (const select of [direction, scope]) select.addEventListener("change", draw);

  return {
    element,
    list,
    update,
    recolour() {
      shaded = null;
      draw();
    },
    link(token) {
      if (linked === token) return;
      linked = token;
      if (pointed !== null || held !== null || cursor !== null) return;
      if (token !== null) reveal(token);
      draw();
    },
    close() {
      clearTimeout(askTimer);
      clearTimeout(sayTimer);
    },
  };
}
