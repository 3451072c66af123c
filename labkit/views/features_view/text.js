// Tokens as running text, shaded by one feature's activation: the text itself, and the examples of a dashboard.

import { make, ownKey } from "../kit/common.js";
import { followPointer, revealIn, tokenNode } from "../kit/running_text.js";
import { keyTarget, lineTarget } from "../kit/keys.js";
import { depth } from "./logic.js";

export const FAMILY = "lk-fv"; // of this view's classes

/**
 * A list of tokens that the pointer and the arrow keys move in. label: what it is, and its keys. actions: point(token, follow),
 * choose(token), leave() → whether there was something to let go, say(token) → what is said of it.
 * Returns {list, fill(passages), paint(values, largest), focus(token, held, follow)}. fill: [{texts, kinds, names, missing,
 * peak, head, title}]; tokens are counted through all of them.
 */
export function shadedText({ label, prefix, className, actions }) {
  const list = make("div", `lk-fv-tokens ${className}`);
  list.tabIndex = 0;
  list.setAttribute("role", "listbox");
  list.setAttribute("aria-label", label);
  let nodes = [];
  let words = [];
  let drawn = [];
  let here = null;
  let cursor = 0;

  function fill(passages) {
    nodes = [];
    words = [];
    drawn = [];
    here = null;
    cursor = 0;
    list.removeAttribute("aria-activedescendant");
    list.replaceChildren();
    for (const passage of passages) {
      const row = passages.length > 1 || passage.head ? make("div", "lk-fv-passage") : null;
      const text = row ? make("div", "lk-fv-passage-text") : list;
      text.dir = "auto";
      if (row) {
        row.setAttribute("role", "group");
        row.setAttribute("aria-label", passage.title);
        row.append(passage.head, text);
        list.append(row);
      }
      const made = passage.texts.map((_, i) => tokenNode(passage, i, FAMILY));
      made.forEach(({ node, word }, i) => {
        node.dataset.token = String(nodes.length);
        node.id = `${prefix}-${nodes.length}`;
        if (passage.missing?.has(i)) node.classList.add("lk-fv-missing");
        if (passage.peak === i) node.classList.add("lk-fv-peak");
        nodes.push(node);
        words.push(word);
      });
      text.append(...made.map(({ node }) => node));
    }
  }

  /** values: an activation for each token; NaN and null are drawn as no number, not as zero. */
  function paint(values, largest) {
    words.forEach((word, i) => {
      const deep = depth(values[i], largest);
      const key = values[i] > 0 ? `${deep}%` : "";
      if (drawn[i] === key) return;
      drawn[i] = key;
      word.classList.toggle("lk-fv-on", key !== "");
      if (key) word.style.setProperty("--lk-fv-deep", key);
      else word.style.removeProperty("--lk-fv-deep");
    });
  }

  function reveal(node) {
    if (list.scrollHeight <= list.clientHeight) node.scrollIntoView({ block: "nearest" });
    else revealIn(list, node);
  }

  function focus(token, held = false, follow = false) {
    if (here !== null && nodes[here]) {
      nodes[here].classList.remove("lk-fv-here", "lk-fv-held");
      nodes[here].removeAttribute("aria-selected");
    }
    here = token;
    if (token === null || !nodes[token]) {
      list.removeAttribute("aria-activedescendant");
      return;
    }
    cursor = token;
    nodes[token].classList.add("lk-fv-here");
    nodes[token].classList.toggle("lk-fv-held", held);
    nodes[token].setAttribute("aria-selected", String(held));
    nodes[token].setAttribute("aria-label", actions.say(token));
    list.setAttribute("aria-activedescendant", nodes[token].id);
    if (follow) reveal(nodes[token]);
  }

  followPointer(list, {
    point: (token) => token !== here && actions.point(token, false),
    choose: (token) => actions.choose(token),
  });
  list.addEventListener("keydown", (event) => {
    if (!ownKey(event) || nodes.length === 0) return;
    const boxAt = (i) => words[i].getClientRects()[0] ?? words[i].getBoundingClientRect();
    let target = here === null ? cursor : keyTarget(event.key, cursor, nodes.length);
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (here !== null && step) target = lineTarget(cursor, step, nodes.length, boxAt);
    if (/^(Arrow(Left|Right|Up|Down)|Home|End)$/.test(event.key)) actions.point(target, true);
    else if (event.key === "Enter" || event.key === " ") actions.choose(cursor);
    else if (event.key === "Escape") {
      if (!actions.leave()) list.blur();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  });

  return { list, fill, paint, focus };
}
