// Tokens as running text, shaded by one feature's activation: the text itself, and the examples of a dashboard.

import { appendRuns, make, ownKey, spokenLabel, visibleLabel, visibleRuns } from "../common.js";
import { CONTINUED, keyTarget, lineTarget } from "../tokens_view/logic.js";
import { depth } from "./logic.js";

const PLACED = new Set(["space", "tab", "break"]);

/** One token. What its word is drawn in, a `span.lk-fv-word`, leaves spaces around it and line breaks out. */
function shadedToken(piece, kind, name) {
  const node = make("span", "lk-fv-token");
  node.setAttribute("role", "option");
  const word = make("span", "lk-fv-word");
  if (kind === CONTINUED || piece === "") {
    word.append(make("span", "lk-fv-sign", kind === CONTINUED ? "+" : "∅"));
    node.append(word);
    node.setAttribute("aria-label", spokenLabel(name ?? piece, 40));
    return { node, word };
  }
  const runs = visibleRuns(piece, { limit: 40 });
  const first = runs.findIndex((run) => !PLACED.has(run.kind));
  const breakAt = runs.findIndex((run) => run.kind === "break");
  if (first >= 0) {
    let end = first;
    while (end < runs.length && runs[end].kind !== "break") end += 1;
    while (PLACED.has(runs[end - 1].kind)) end -= 1;
    appendRuns(node, runs.slice(0, first));
    appendRuns(word, runs.slice(first, end));
    node.append(word);
    appendRuns(node, runs.slice(end));
  } else if (breakAt < 0) {
    appendRuns(word, runs);
    node.append(word);
  } else {
    // The sign stands before the break, so that the shade does not run over into the next line.
    const sign = make("span", "lk-break");
    sign.dataset.mark = runs[breakAt].mark;
    word.append(sign);
    node.append(word, runs.map((run) => run.text).join(""));
  }
  if (runs.every((run) => run.kind !== "text")) node.setAttribute("aria-label", spokenLabel(piece, 40));
  return { node, word };
}

/** How a token is called: by its piece of the text, or by its own name where that shows nothing of it. */
export function tokenName(passage, token) {
  return passage.names.get(token) ?? passage.texts[token];
}

/** A token's text in quotes, kept apart from the sentence around it. */
export function quoted(text) {
  const box = make("bdi", "lk-fv-quoted");
  const shown = visibleLabel(text.replace(/^ (?=.)/, ""), 30);
  box.append(`“${shown === "" ? " " : shown}”`);
  return box;
}

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
      const made = passage.texts.map((piece, i) => shadedToken(piece, passage.kinds.get(i), passage.names.get(i)));
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
    if (list.scrollHeight <= list.clientHeight) {
      node.scrollIntoView({ block: "nearest" });
      return;
    }
    const { offsetTop: above, offsetHeight: height } = node;
    if (above < list.scrollTop) list.scrollTop = above - 8;
    else if (above + height + 12 > list.scrollTop + list.clientHeight) list.scrollTop = above + height + 12 - list.clientHeight;
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

  const tokenOf = (event) => {
    const node = event.target.closest?.(".lk-fv-token");
    return node ? Number(node.dataset.token) : null;
  };
  list.addEventListener("pointermove", (event) => {
    const token = event.pointerType === "touch" ? null : tokenOf(event);
    if (token !== null && token !== here) actions.point(token, false);
  });
  list.addEventListener("click", (event) => {
    const token = tokenOf(event);
    const selection = globalThis.getSelection();
    // the end of a drag that selected text is no click on a token
    if (token === null || (selection && !selection.isCollapsed && list.contains(selection.anchorNode))) return;
    actions.choose(token);
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
