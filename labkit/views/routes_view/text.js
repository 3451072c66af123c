// The running text, each token in the colour of the expert that it goes to first, with that expert's number under it.

import { make, ownKey } from "../kit/common.js";
import { followPointer, revealIn, tokenNode } from "../kit/running_text.js";
import { afterKey, tokensOf } from "./logic.js";

export const FAMILY = "lk-rt"; // of this view's classes

/**
 * actions: point(token or null), choose(token), move(layer, token), leave().
 * Returns {element, list, fill(route), paint({layer, slot, changed}), light(marks), focus(token, held, follow), frame()}; frame
 * is to be called when the width changed.
 */
export function routesText({ label, prefix, actions }) {
  const box = make("div", "lk-rt-textbox");
  const list = make("div", "lk-rt-text");
  // The frame of the token in focus lies over the text: a change within the text would have all its words painted anew.
  const frames = make("div", "lk-rt-frames");
  frames.setAttribute("aria-hidden", "true");
  box.append(list, frames);
  list.tabIndex = 0;
  list.dir = "auto";
  list.setAttribute("role", "listbox");
  list.setAttribute("aria-label", `${label}: left and right move by token, up and down by layer, Enter holds, Escape lets go`);
  let route = null;
  let nodes = [];
  let words = [];
  let drawn = []; // what each word shows now
  let here = null;
  let place = [0, 0];

  function fill(next) {
    route = next;
    const made = Array.from({ length: route.n }, (_, i) => tokenNode(route, i, FAMILY));
    nodes = made.map(({ node }) => node);
    words = made.map(({ word }) => word);
    nodes.forEach((node, i) => {
      node.id = `${prefix}-${i}`;
      node.dataset.token = String(i);
      if (route.special.has(i)) node.classList.add("lk-rt-special");
    });
    drawn = [];
    here = null;
    list.replaceChildren(...nodes);
  }

  /** The colours of a layer. changed: marks by token, or null. */
  function paint({ layer, slot, changed }) {
    place = [layer, place[1]];
    const digits = String(route.experts - 1).length;
    for (let i = 0; i < route.n; i += 1) {
      const expert = route.expert(layer, i);
      const mark = changed?.[i] ?? 0;
      const key = `${expert} ${slot(expert)} ${mark}`;
      if (drawn[i] === key) continue;
      const bare = drawn[i] === undefined;
      drawn[i] = key;
      const short = bare ? [...words[i].textContent].length < Math.max(2, digits) : words[i].classList.contains("lk-rt-short");
      words[i].className = `lk-rt-word lk-rt-c${slot(expert)}${short ? " lk-rt-short" : ""}${mark ? ` lk-rt-changed${mark}` : ""}`;
      words[i].dataset.expert = String(expert);
    }
  }

  /** Light the tokens with a mark and dim the others; null: all alike. */
  function light(marks) {
    list.classList.toggle("lk-rt-dimmed", marks !== null);
    nodes.forEach((node, i) => {
      const on = marks !== null && marks[i] > 0;
      if (node.classList.contains("lk-rt-lit") !== on) node.classList.toggle("lk-rt-lit", on);
    });
  }

  /** The token in focus; held: it stays. */
  function focus(token, held, follow = false) {
    put(token, held, follow);
    frame();
  }

  function put(token, held, follow) {
    if (here !== null && nodes[here]) {
      nodes[here].classList.remove("lk-rt-here", "lk-rt-held");
      nodes[here].removeAttribute("aria-selected");
    }
    here = token;
    if (token === null || !nodes[token]) return;
    place = [place[0], token];
    nodes[token].classList.add("lk-rt-here");
    nodes[token].classList.toggle("lk-rt-held", held);
    nodes[token].setAttribute("aria-selected", String(held));
    list.setAttribute("aria-activedescendant", nodes[token].id);
    if (follow) revealIn(list, nodes[token]);
  }

  function frame() {
    if (here === null || !words[here]) {
      frames.replaceChildren();
      return;
    }
    const home = frames.getBoundingClientRect();
    const held = nodes[here].classList.contains("lk-rt-held");
    const boxes = [...words[here].getClientRects()].map((rect) => {
      const edge = make("div", held ? "lk-rt-edge lk-rt-edge-held" : "lk-rt-edge");
      edge.style.left = `${rect.left - home.left - 2}px`;
      edge.style.top = `${rect.top - home.top - 2}px`;
      edge.style.width = `${rect.width + 4}px`;
      edge.style.height = `${rect.height + 4}px`;
      return edge;
    });
    frames.replaceChildren(...boxes);
  }
  list.addEventListener("scroll", frame, { passive: true });

  followPointer(list, { point: (token) => actions.point(token), choose: (token) => actions.choose(token) });
  list.addEventListener("pointerleave", () => actions.point(null));
  list.addEventListener("keydown", (event) => {
    if (!ownKey(event) || route === null) return;
    const target = afterKey(event.key, place, route.layers, route.n);
    if (target !== null) actions.move(...target);
    else if (event.key === "Enter" || event.key === " ") actions.choose(place[1], true);
    else if (event.key === "Escape") {
      if (!actions.leave()) list.blur();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  });

  return { element: box, list, fill, paint, light, focus, frame };
}

/** Which tokens an expert takes, for `light`; null for none. */
export function litBy(route, layer, expert) {
  return expert === null ? null : tokensOf(route, layer, expert);
}
