// Tokens as running text, one list for all views that colour them: their labels, the pointer, the keyboard, what is selected.

import { appendRuns, hasSelection, make, ownKey, spokenLabel, visibleLabel, visibleRuns } from "./common.js";
import { commonStart, keyTarget, lineTarget } from "./keys.js";

/**
 * Tokens that stand together. texts: their pieces of the running text; continued: tokens that only finish a character which
 * an earlier one began; names: those of tokens whose piece does not show what they are. `passageOf` makes it of what
 * labkit/views/kit/running_text.py sends. outside: tokens that are no part of the text; missing: that have no value; peak: the one
 * the passage is shown for; head, title: what stands above it.
 * @typedef {object} Passage
 * @property {string[]} texts
 * @property {Set<number>} continued
 * @property {Map<number, string>} names
 * @property {Set<number>} [outside]
 * @property {{has: (token: number) => boolean}} [missing]
 * @property {number} [peak]
 * @property {Node} [head]
 * @property {string} [title]
 */

/**
 * @param {{texts: string[], continued: number[], called: [number, string][]}} sent
 * @returns {Passage}
 */
export const passageOf = ({ texts, continued, called }) => ({ texts, continued: new Set(continued), names: new Map(called) });

const PLACED = new Set(["space", "tab", "break"]);
const MARKS = 40; // of what can't be seen, in one token

/**
 * How a token is called: by its piece of the text, or by its own name where that shows nothing of it.
 * @type {(passage: Passage, token: number) => string}
 */
export function nameOf(passage, token) {
  return passage.names.get(token) ?? passage.texts[token];
}

/** A token's text in quotes and without the space before it, kept apart from the sentence around it. @param {string} text */
export function quoted(text) {
  const box = make("bdi", "lk-quoted");
  box.append(`“${visibleLabel(text.replace(/^ (?=.)/, ""), 30) || " "}”`);
  return box;
}

/** A token's text on one line, its leading spaces in muted ink, kept apart from the text around it.
 * @type {(text: string, limit: number) => HTMLElement} */
export function tokenLabel(text, limit) {
  const label = make("bdi", "lk-label");
  const shown = visibleLabel(text, limit);
  const lead = text.startsWith(" ") ? shown.length - shown.replace(/^·+/u, "").length : 0;
  label.append(make("span", "lk-muted", shown.slice(0, lead)), shown === "" ? "(empty)" : shown.slice(lead));
  return label;
}

/**
 * One token: {node, word}. What its word is drawn in leaves spaces around it and line breaks out.
 * @type {(passage: Passage, token: number) => {node: HTMLElement, word: HTMLElement}}
 */
export function tokenNode(passage, token) {
  const node = make("span", "lk-tl-token");
  node.setAttribute("role", "option");
  const word = make("span", "lk-tl-word");
  const piece = passage.texts[token];
  const continued = passage.continued.has(token);
  if (continued || piece === "" || passage.outside?.has(token)) {
    const name = nameOf(passage, token);
    const shown = passage.outside?.has(token) ? visibleLabel(name) : "";
    word.append(make("span", "lk-tl-sign", shown || (continued ? "+" : "∅")));
    node.append(word);
    node.setAttribute("aria-label", spokenLabel(name, 40));
    return { node, word };
  }
  const runs = visibleRuns(piece, { limit: MARKS });
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

/** All that a token's node is made from. @type {(passage: Passage, token: number) => string} */
const drawnFrom = (passage, token) =>
  JSON.stringify([passage.texts[token], nameOf(passage, token), passage.continued.has(token), passage.outside?.has(token) ?? false]);

/**
 * point(token, byKey): it is the one that is pointed at, or reached by a key; null: the pointer has left.
 * choose(token, byKey): it was clicked, or Enter was pressed on it.
 * leave(): Escape; whether there was something to let go. keys(key, token): a key that is the view's own; whether it was.
 * say(token): what is read out of the one in focus, where its text is not enough.
 * @typedef {object} TokenActions
 * @property {(token: number | null, byKey: boolean) => void} point
 * @property {(token: number, byKey: boolean) => void} choose
 * @property {() => boolean} leave
 * @property {(key: string, token: number) => boolean} [keys]
 * @property {(token: number) => string} [say]
 */

/**
 * A list of tokens that the pointer and the arrow keys move in. Left and right move by token, up and down by line; Enter
 * chooses, Escape lets go. Returns
 *   element
 *   fill(passages, {keep}): tokens are counted through all of them; keep: those at the start that are drawn as before keep
 *     their nodes, and what was painted on them
 *   paint(look, put): put(word, look) is called for the tokens whose look(token), a text, is another than before
 *   mark(className, marked): a class on the tokens with marked(token, word)
 *   light(lit): dim all but those with lit(token); null: all alike
 *   focus(token, {held, follow}): the one in focus, or null; follow: scroll to it
 *   frame(): to be called where the list is resized and `framed`
 * @param {{label: string, id: string, className: string, framed?: boolean, scroller?: HTMLElement, actions: TokenActions}} given
 *   framed: the one in focus has a frame that lies over the list, for long texts of which a change would have all words painted
 *   anew; scroller: the box that scrolls, where it is not the list
 */
export function tokenList({ label, id, className, framed = false, scroller, actions }) {
  const list = make("div", `lk-tl ${className}`);
  list.tabIndex = 0;
  list.setAttribute("role", "listbox");
  list.setAttribute("aria-label", label);
  const frames = make("div", "lk-tl-frames");
  frames.setAttribute("aria-hidden", "true");
  const element = framed ? make("div", "lk-tl-box") : list;
  if (framed) element.append(list, frames);

  /** @type {HTMLElement[]} */
  const nodes = [];
  /** @type {HTMLElement[]} */
  const words = [];
  /** @type {string[]} */
  const looks = [];
  /** @type {string[]} what each token is drawn from */
  let drawn = [];
  /** @type {number | null} */
  let here = null;
  let cursor = 0;

  /** @type {(passages: Passage[], how?: {keep?: boolean}) => void} */
  function fill(passages, { keep = false } = {}) {
    focus(null);
    const next = passages.flatMap((passage) => passage.texts.map((_, i) => drawnFrom(passage, i)));
    const kept = keep ? commonStart(drawn, next) : 0;
    drawn = next;
    if (kept === 0) list.replaceChildren();
    for (const node of nodes.slice(kept)) node.remove();
    for (const each of [nodes, words, looks]) each.length = Math.min(each.length, kept);
    cursor = Math.min(cursor, Math.max(0, kept - 1));
    for (const passage of passages) {
      const text = passage.head ? make("div", "lk-tl-passage-text") : list;
      text.dir = "auto";
      if (passage.head) {
        const row = make("div", "lk-tl-passage");
        row.setAttribute("role", "group");
        row.setAttribute("aria-label", passage.title ?? "");
        row.append(passage.head, text);
        list.append(row);
      }
      const fresh = document.createDocumentFragment();
      for (let i = keep ? kept : 0; i < passage.texts.length; i += 1) {
        const { node, word } = tokenNode(passage, i);
        node.dataset.token = String(nodes.length);
        node.id = `${id}-${nodes.length}`;
        if (passage.missing?.has(i)) node.classList.add("lk-tl-missing");
        if (passage.peak === i) node.classList.add("lk-tl-peak");
        nodes.push(node);
        words.push(word);
        fresh.append(node);
      }
      text.append(fresh);
    }
    frame();
  }

  /** @type {(look: (token: number) => string, put: (word: HTMLElement, look: string, token: number) => void) => void} */
  function paint(look, put) {
    words.forEach((word, i) => {
      const wanted = look(i);
      if (looks[i] === wanted) return;
      looks[i] = wanted;
      put(word, wanted, i);
    });
  }

  /** @type {(className: string, marked: (token: number, word: HTMLElement) => boolean) => void} */
  function mark(className, marked) {
    nodes.forEach((node, i) => node.classList.toggle(className, marked(i, words[i])));
  }

  /** @param {((token: number) => boolean) | null} lit */
  function light(lit) {
    list.classList.toggle("lk-tl-dimmed", lit !== null);
    mark("lk-tl-lit", (i) => lit?.(i) ?? false);
  }

  /** @type {(token: number | null, how?: {held?: boolean, follow?: boolean}) => void} */
  function focus(token, { held = false, follow = false } = {}) {
    if (here !== null) {
      nodes[here]?.classList.remove("lk-tl-here", "lk-tl-held");
      nodes[here]?.removeAttribute("aria-selected");
    }
    here = token !== null && nodes[token] ? token : null;
    if (here === null) list.removeAttribute("aria-activedescendant");
    else {
      const node = nodes[here];
      cursor = here;
      node.classList.add("lk-tl-here");
      node.classList.toggle("lk-tl-held", held);
      node.setAttribute("aria-selected", String(held));
      if (actions.say) node.setAttribute("aria-label", actions.say(here));
      list.setAttribute("aria-activedescendant", node.id);
      if (follow) revealIn(scroller ?? list, node);
    }
    frame();
  }

  function frame() {
    if (!framed) return;
    const boxes = here === null ? [] : [...words[here].getClientRects()];
    const home = frames.getBoundingClientRect();
    frames.replaceChildren(
      ...boxes.map((rect) => {
        const edge = make("div", here !== null && nodes[here].classList.contains("lk-tl-held") ? "lk-tl-edge lk-tl-edge-held" : "lk-tl-edge");
        edge.style.left = `${rect.left - home.left - 2}px`;
        edge.style.top = `${rect.top - home.top - 2}px`;
        edge.style.width = `${rect.width + 4}px`;
        edge.style.height = `${rect.height + 4}px`;
        return edge;
      }),
    );
  }
  if (framed) list.addEventListener("scroll", frame, { passive: true });

  const tokenOf = (/** @type {Event} */ event) => {
    const node = /** @type {HTMLElement | null} */ (/** @type {Element} */ (event.target).closest?.("[data-token]"));
    return node && list.contains(node) ? Number(node.dataset.token) : null;
  };
  list.addEventListener("pointermove", (event) => {
    const token = event.pointerType === "touch" ? null : tokenOf(event);
    if (token !== null) actions.point(token, false);
  });
  list.addEventListener("pointerleave", () => actions.point(null, false));
  list.addEventListener("click", (event) => {
    const token = tokenOf(event);
    if (token !== null && !hasSelection(list)) actions.choose(token, false);
  });
  list.addEventListener("keydown", (event) => {
    if (!ownKey(event) || nodes.length === 0) return;
    if (actions.keys?.(event.key, cursor)) {
      // the view's own
    } else if (/^(Arrow(Left|Right|Up|Down)|Home|End)$/.test(event.key)) {
      const boxAt = (/** @type {number} */ i) => words[i].getClientRects()[0] ?? words[i].getBoundingClientRect();
      const step = event.key === "ArrowDown" ? 1 : event.key === "ArrowUp" ? -1 : 0;
      if (here === null && event.key.startsWith("Arrow")) actions.point(cursor, true);
      else actions.point(step ? lineTarget(cursor, step, nodes.length, boxAt) : keyTarget(event.key, cursor, nodes.length) ?? cursor, true);
    } else if (event.key === "Enter" || event.key === " ") actions.choose(cursor, true);
    else if (event.key === "Escape") {
      if (!actions.leave()) list.blur();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  });

  return { element, list, fill, paint, mark, light, focus, frame };
}

/**
 * Scroll a list's own box until a node of it is seen; the page only where the list has no box of its own. The list is the
 * node's offset parent.
 * @type {(list: HTMLElement, node: HTMLElement) => void}
 */
export function revealIn(list, node) {
  const { offsetTop: above, offsetHeight: height } = node;
  if (list.scrollHeight <= list.clientHeight) node.scrollIntoView({ block: "nearest" });
  else if (above < list.scrollTop) list.scrollTop = above - 8;
  else if (above + height + 12 > list.scrollTop + list.clientHeight) list.scrollTop = above + height + 12 - list.clientHeight;
}
