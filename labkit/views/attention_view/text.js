// The text: point at a token and see where it looks, or who looks at it, for one head, a layer, or the marked heads.

import { aloud } from "../kit/aloud.js";
import { box, make, spokenLabel } from "../kit/common.js";
import { picker, setOptions } from "../kit/controls.js";
import { passageOf, tokenList } from "../kit/token_list.js";
import { needsLight } from "../kit/colour.js";
import { aboutWeight, strongest } from "./logic.js";
import { numbered } from "./labels.js";

const DIRECTIONS = [{ value: "from", title: "what it looks at" }, { value: "into", title: "who looks at it" }];
const NAMED = 4;
const ASK_AFTER = 50; // ms; a pointer on its way asks for nothing

/** What the text can be shaded by. @typedef {{name: string, title: string, heads: import("./source.js").Head[]}} Scope */

/**
 * point(token) tells which token is pointed at, or null; trace() is the one shown; scopes() is what can be asked.
 * Returns {element, update(), recolour(), link(token)}.
 * @param {import("./shared.js").Shared} shared
 * @param {{trace: () => number, scopes: () => Scope[], point: (token: number | null) => void}} actions
 */
export function textPane(shared, actions) {
  const { view, texts, source, codes } = shared;
  const [direction, scope] = [
    picker("Shade", view.id("direction"), DIRECTIONS, () => draw()),
    picker("Heads", view.id("scope"), [], () => draw()),
  ];
  for (const { label } of [direction, scope]) label.className = "lk-spoken"; // the list's own words tell what it is for
  const controls = box("lk-controls", make("h2", "lk-att-title", "The text"), direction.label, direction.select, scope.label, scope.select);
  const foot = make("p", "lk-foot lk-att-textfoot");
  const said = aloud(view);
  const soon = view.later(source.live ? ASK_AFTER : 0);

  /** @typedef {"pointed" | "held" | "cursor" | "linked"} How */
  /** Which tokens are pointed at, held by a click, reached by a key, pointed at elsewhere; the first that is one is shown.
   * @type {Record<How, number | null>} */
  const at = { pointed: null, held: null, cursor: null, linked: null };
  const focus = () => at.pointed ?? at.held ?? at.cursor ?? at.linked;
  let trace = -1;
  /** The line that is painted. @type {Uint8Array | null} */
  let shaded = null;

  const list = tokenList({
    label: "Tokens of the text: arrow keys move, Enter holds, Escape lets go",
    id: view.id("token"),
    className: "lk-tl-scrolled lk-att-tokens",
    actions: {
      point(token, byKey) {
        if (byKey) chosen({ pointed: null, held: null, cursor: token }, true);
        else if (token !== at.pointed) {
          at.pointed = token;
          soon(() => chosen());
        }
      },
      choose: (token) => chosen({ held: at.held === token ? null : token, cursor: token }, true),
      leave() {
        const there = focus() !== null;
        chosen({ pointed: null, held: null, cursor: null }, true);
        return there;
      },
    },
  });
  const element = box("lk-att-text", controls, list.element, foot, said.element);

  /** @param {Partial<Record<How, number | null>>} changes */
  function chosen(changes = {}, aloud = false) {
    Object.assign(at, changes);
    draw(aloud);
    actions.point(focus());
    if (aloud) sayIt();
  }

  function update() {
    if (trace !== actions.trace()) {
      trace = actions.trace();
      list.fill([passageOf({ texts: texts[trace], continued: [], called: [] })]);
      Object.assign(at, { pointed: null, held: null, cursor: null, linked: null });
    }
    setOptions(scope.select, actions.scopes().map(({ name, title }) => ({ value: name, title })));
    draw();
  }

  function draw(follow = false) {
    const token = focus();
    list.focus(token, { held: token !== null && token === at.held, follow });
    if (token === null) {
      paint(null);
      foot.replaceChildren("Point at a token, or move with the arrow keys.");
      return;
    }
    const into = direction.select.value === "into";
    const heads = actions.scopes().find(({ name }) => name === scope.select.value)?.heads ?? [];
    const line = source.line({ trace, heads, token, into, aside: view.get("aside") }, () => {
      if (focus() === token) draw();
    });
    if (line === undefined) {
      paint(null);
      foot.replaceChildren("This file does not hold all of these heads.");
    } else if (line !== null) { // one on its way: what is painted stays
      paint(line);
      foot.replaceChildren(...words(token, line, into));
    }
  }

  /** @param {Uint8Array | null} line */
  function paint(line) {
    shaded = line;
    const colours = shared.palette;
    list.paint(
      (i) => (line?.[i] ? [...colours.subarray(4 * line[i], 4 * line[i] + 3)].join(" ") : ""),
      (word, rgb) => {
        word.style.backgroundColor = rgb && `rgb(${rgb})`;
        word.style.color = rgb && (needsLight(rgb.split(" ").map(Number)) ? "#ffffff" : "#000000");
      },
    );
  }

  /** @type {(token: number, line: Uint8Array, into: boolean) => (string | Node)[]} */
  function words(token, line, into) {
    const best = strongest(codes, line, NAMED);
    const name = (/** @type {number} */ i) => numbered(texts[trace][i], i);
    if (!codes.isNumber(line[token]) && best.length === 0) return [...name(token), ": its weights are not numbers."];
    const others = best.flatMap(({ token: other, code }, i) => [
      ...[i > 0 ? ", " : "", ...(other === token ? ["itself"] : name(other)), ": "],
      make("strong", "", aboutWeight(codes, code).replace("about ", "")),
    ]);
    const none = into ? "no token" : "no token of the text";
    return [...name(token), into ? " is looked at most by " : " looks most at ", ...(best.length > 0 ? others : [none])];
  }

  function sayIt() {
    said.say(() => {
      const token = focus();
      if (token === null || !shaded) return null;
      const label = (/** @type {number} */ i) => spokenLabel(texts[trace][i], 40);
      const best = strongest(codes, shaded, NAMED).map(({ token: i, code }) => `${i === token ? "itself" : label(i)}: ${aboutWeight(codes, code)}`);
      return `${label(token)}, token ${token}, ${direction.select.value === "into" ? "is looked at by" : "looks at"} ${best.join("; ")}`;
    });
  }

  return {
    element,
    update,
    recolour: () => draw(),
    /** @param {number | null} token */
    link(token) {
      if (at.linked === token) return;
      at.linked = token;
      const { scrollHeight, clientHeight } = list.list; // what is pointed at elsewhere must not move the page
      if (at.pointed === null && at.held === null && at.cursor === null) draw(token !== null && scrollHeight > clientHeight);
    },
  };
}
