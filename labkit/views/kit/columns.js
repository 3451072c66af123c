// Upright bars side by side, to be pointed at or gone through with the arrow keys.

import { make, ownKey } from "./common.js";

/**
 * point(i, byKey): the bar pointed at, or null; choose(i): it was clicked, or Enter was pressed on it; leave(): Escape.
 * @typedef {object} ColumnActions
 * @property {(i: number | null, byKey: boolean) => void} point
 * @property {(i: number) => void} [choose]
 * @property {() => void} leave
 */

/**
 * height(i): 0 to 1; look(i): the class of its fill; dress(fill, i): whatever else it looks like; marked(i): whether it is framed; say(i): what is read out of it.
 * @typedef {object} Bars
 * @property {number} count
 * @property {(i: number) => number} height
 * @property {(i: number) => string} [look]
 * @property {(fill: HTMLElement, i: number) => void} [dress]
 * @property {(i: number) => boolean} [marked]
 * @property {(i: number) => string} [say]
 */

/**
 * With actions, a list to move in; without, a picture whose numbers stand beside it. Returns {list, draw(bars), mark(marked),
 * at(event)}: the bar under a pointer, or null.
 * @param {{label: string, id: string, className?: string, actions?: ColumnActions | null}} given
 */
export function columns({ label, id, className = "", actions = null }) {
  const list = make("div", `lk-columns ${className}`.trim());
  list.setAttribute("role", actions ? "listbox" : "img");
  list.setAttribute("aria-label", label);
  /** @type {HTMLElement[]} */
  let nodes = [];
  /** @type {number | null} */
  let cursor = null;

  /** @param {Bars} bars */
  function draw({ count, height, look, dress, marked, say }) {
    if (nodes.length !== count) {
      setCursor(null);
      nodes = Array.from({ length: count }, (_, i) => {
        const node = make("div", "lk-column");
        if (actions) {
          node.id = `${id}-${i}`;
          node.setAttribute("role", "option");
        }
        node.append(make("div", "lk-column-fill"));
        return node;
      });
      list.replaceChildren(...nodes);
    }
    nodes.forEach((node, i) => {
      const fill = /** @type {HTMLElement} */ (node.firstChild);
      fill.style.height = `${100 * Math.max(0, height(i)) || 0}%`;
      fill.className = `lk-column-fill ${look?.(i) ?? ""}`.trim();
      dress?.(fill, i);
      if (actions && say) node.setAttribute("aria-label", say(i));
    });
    mark(marked ?? (() => false));
  }

  /** @param {(i: number) => boolean} marked */
  function mark(marked) {
    nodes.forEach((node, i) => {
      node.classList.toggle("lk-column-marked", marked(i));
      if (actions) node.setAttribute("aria-selected", String(marked(i)));
    });
  }

  /** @param {number | null} i */
  function setCursor(i) {
    if (cursor !== null) nodes[cursor]?.classList.remove("lk-column-here");
    cursor = i;
    if (i === null) list.removeAttribute("aria-activedescendant");
    else {
      nodes[i].classList.add("lk-column-here");
      list.setAttribute("aria-activedescendant", nodes[i].id);
    }
  }

  /** @param {PointerEvent | MouseEvent} event */
  function at(event) {
    const box = list.getBoundingClientRect();
    const i = Math.floor(((event.clientX - box.left) / box.width) * nodes.length);
    return i >= 0 && i < nodes.length ? i : null;
  }

  if (actions) {
    list.tabIndex = 0;
    list.setAttribute("aria-orientation", "horizontal");
    list.addEventListener("pointermove", (event) => {
      const i = event.pointerType === "touch" ? null : at(event);
      if (i !== null) actions.point(i, false);
    });
    list.addEventListener("pointerleave", () => actions.point(null, false));
    list.addEventListener("click", (event) => {
      const i = at(event);
      if (i === null || !actions.choose) return;
      setCursor(i);
      actions.choose(i);
    });
    list.addEventListener("blur", () => {
      setCursor(null);
      actions.point(null, false);
    });
    list.addEventListener("keydown", (event) => {
      if (!ownKey(event) || nodes.length === 0) return;
      const now = cursor ?? -1;
      /** @type {Record<string, number>} */
      const moves = { ArrowRight: now + 1, ArrowLeft: now - 1, Home: 0, End: nodes.length - 1 };
      if (event.key === "Escape") {
        setCursor(null);
        actions.leave();
      } else if ((event.key === "Enter" || event.key === " ") && cursor !== null && actions.choose) actions.choose(cursor);
      else if (Object.hasOwn(moves, event.key)) {
        setCursor(Math.max(0, Math.min(nodes.length - 1, moves[event.key])));
        actions.point(cursor, true);
      } else return;
      event.preventDefault();
      event.stopPropagation();
    });
  }

  return { list, draw, mark, at };
}
