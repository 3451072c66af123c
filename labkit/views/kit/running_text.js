// Tokens as running text: what the views that colour a text's tokens share. A passage has texts (the tokens' pieces), kinds and
// names (Maps, of those tokens that have one); family: of the view's classes.

import { appendRuns, hasSelection, make, spokenLabel, visibleLabel, visibleRuns } from "./common.js";
import { CONTINUED } from "../tokens_view/logic.js";

const PLACED = new Set(["space", "tab", "break"]);

/** How a token is called: by its piece of the text, or by its own name where that shows nothing of it. */
export function nameOf(passage, token) {
  return passage.names.get(token) ?? passage.texts[token];
}

/** A token's text in quotes and without the space before it, kept apart from the sentence around it. */
export function quoted(text, family) {
  const box = make("bdi", `${family}-quoted`);
  box.append(`“${visibleLabel(text.replace(/^ (?=.)/, ""), 30) || " "}”`);
  return box;
}

/** One token: {node, word}. What its word is drawn in, a span.FAMILY-word, leaves spaces around it and line breaks out. */
export function tokenNode(passage, token, family) {
  const node = make("span", `${family}-token`);
  node.setAttribute("role", "option");
  const word = make("span", `${family}-word`);
  const piece = passage.texts[token];
  const continued = passage.kinds.get(token) === CONTINUED;
  if (continued || piece === "") {
    word.append(make("span", `${family}-sign`, continued ? "+" : "∅"));
    node.append(word);
    node.setAttribute("aria-label", spokenLabel(nameOf(passage, token), 40));
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
    // The sign stands before the break, so that the colour does not run over into the next line.
    const sign = make("span", "lk-break");
    sign.dataset.mark = runs[breakAt].mark;
    word.append(sign);
    node.append(word, runs.slice(0, breakAt + 1).map((run) => run.text).join(""));
    appendRuns(node, runs.slice(breakAt + 1));
  }
  // what can't be seen has a name too
  if (runs.every((run) => run.kind !== "text")) node.setAttribute("aria-label", spokenLabel(piece, 40));
  return { node, word };
}

/** point(token) for the token under the pointer, choose(token) for the one that is clicked; a token's node has data-token. */
export function followPointer(list, { point, choose }) {
  const tokenOf = (event) => {
    const node = event.target.closest?.("[data-token]");
    return node && list.contains(node) ? Number(node.dataset.token) : null;
  };
  list.addEventListener("pointermove", (event) => {
    const token = event.pointerType === "touch" ? null : tokenOf(event);
    if (token !== null) point(token);
  });
  list.addEventListener("click", (event) => {
    const token = tokenOf(event);
    if (token !== null && !hasSelection(list)) choose(token);
  });
}

/** Scroll a list's own box, never the page, until a node of it is seen. The list is the node's offset parent. */
export function revealIn(list, { offsetTop: above, offsetHeight: height }) {
  if (above < list.scrollTop) list.scrollTop = above - 8;
  else if (above + height + 12 > list.scrollTop + list.clientHeight) list.scrollTop = above + height + 12 - list.clientHeight;
}
