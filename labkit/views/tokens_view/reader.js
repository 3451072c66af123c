// The running text with its underlines, and the panel that explains one token. Used by every view that shows a generation:
// it reads the traits of TokenTraits.

import { box, decimal, make, percent, sayOrHide, setText, showText, spokenLabel, visibleLabel } from "../kit/common.js";
import { button } from "../kit/controls.js";
import { legend } from "../kit/legend.js";
import { table } from "../kit/table.js";
import { tokenList } from "../kit/token_list.js";
import { decode, example, leastSure, stroke } from "./logic.js";
import { tokenPanel } from "./panel.js";

/** @typedef {import("./logic.js").Stroke} Stroke */

const PROMPT_MARKS = 4000;
const LEAST_SURE = 5; // listed for those who hear the page

/** @type {(word: HTMLElement, stroke: Stroke, wavy: boolean) => HTMLElement} */
function underline(word, { line, wave, deep }, wavy) {
  word.classList.add("lk-stroke");
  word.classList.toggle("lk-wave", wavy);
  word.style.setProperty("--lk-thick", `${wavy ? wave : line}px`);
  word.style.setProperty("--lk-deep", `${100 * deep}%`);
  return word;
}

/** @type {(strokes: Stroke[], hesitation: number) => HTMLElement} */
function strokesKey(strokes, hesitation) {
  const sample = (/** @type {Stroke} */ each, wavy = false) => underline(make("span", "", "\u2003\u2003"), each, wavy);
  return legend(
    [
      ...strokes.map((each) => ({ sample: sample(each), text: each.label })),
      { sample: sample(strokes[2], true), text: `many options (entropy over ${hesitation} nats)` },
    ],
    { title: "How probable each token was", quiet: true },
  );
}

/**
 * Returns {element, update(held), hold(token)}: update draws the view's traits as they are, and tokens that were drawn before
 * keep their nodes; hold holds a token, -1 none.
 * @param {import("../kit/mount.js").Mounted} view
 * @param {{onHold?: (token: number) => void, label?: string}} [options] onHold(-1): none is held any more
 */
export function createReader(view, { onHold = () => {}, label = "Generated tokens" } = {}) {
  const { strokes, hesitation, kinds } = view.get("constants");
  let data = decode(null, 0, 0, kinds);
  let facts = view.get("facts");
  /** @type {string[]} */
  let strings = [];
  let unfolded = false;
  let drawnPrompt = "";
  let held = -1;
  let shown = -1; // what the panel explains
  let walking = false; // whether the keyboard is at it

  const head = make("p", "lk-muted");
  const key = strokesKey(strokes, hesitation);
  const note = make("p", "lk-note");
  const text = make("div", "lk-prose");
  text.dir = "auto";
  const scroll = box("lk-scroll lk-tl-scrolled", text);
  const fold = button("", "", () => {
    unfolded = !unfolded;
    drawPrompt();
  });
  fold.classList.add("lk-fold");
  const prompt = make("span", "lk-prompt");
  const list = tokenList({
    label: `${label}: arrow keys move, Enter holds one, Escape leaves`,
    id: view.id("token"),
    className: "lk-list",
    scroller: scroll,
    actions: {
      point(token, byKey) {
        if (token === null || (held >= 0 && !byKey)) return;
        if (held >= 0 && token !== held) letGo(); // moving on from a held token: the panel follows the keyboard
        walking ||= byKey;
        show(token, token === held ? "held" : "", byKey);
      },
      choose(token, byKey) {
        walking ||= byKey;
        toggle(token);
      },
      leave() {
        const there = held >= 0;
        if (there) toggle(held);
        else {
          walking = false;
          rest();
        }
        return there;
      },
      say: spokenToken,
    },
  });
  list.list.addEventListener("blur", () => {
    walking = false;
  });
  const panel = tokenPanel();
  const spoken = make("div", "lk-spoken");
  text.append(fold, prompt, list.element);
  const element = box("", head, key, note, scroll, panel.element, spoken);

  /** @type {(token: number, caption: string, follow?: boolean) => void} */
  function show(token, caption, follow = false) {
    shown = token;
    list.focus(token < 0 ? null : token, { held: token >= 0 && token === held, follow });
    panel.draw(shown < data.n ? shown : -1, caption, data, strings, facts.drawn);
  }

  /** What to explain when nobody points: the held token, the keyboard's, or an example worth seeing. */
  function rest() {
    if (held >= 0) show(held, "held");
    else if (walking && shown >= 0 && shown < data.n) show(shown, "");
    else if (facts.running && data.n > 0) show(data.n - 1, "the newest token");
    else show(example(data), "an open choice; point at any other token");
  }

  function letGo() {
    held = -1;
    onHold(-1);
  }

  /** @param {number} token */
  function toggle(token) {
    if (held === token) letGo();
    else {
      held = token;
      onHold(token);
    }
    show(token, held >= 0 ? "held" : "");
  }

  /** @param {number} token */
  function spokenToken(token) {
    return (
      `token ${token}, ${spokenLabel(strings[data.token[token]], 40)}, probability ${percent(Math.exp(data.logprob[token]))}, ` +
      `rank ${data.rank[token] + 1}, entropy ${decimal(data.entropy[token])} nats`
    );
  }

  function drawHead() {
    const parts = (facts.headline ?? []).map((/** @type {string} */ part) => make("span", "lk-head-part", part));
    if (facts.model) parts.unshift(make("strong", "", visibleLabel(facts.model, 80)));
    head.replaceChildren(...parts.flatMap((/** @type {Node} */ part, /** @type {number} */ i) => (i > 0 ? [" · ", part] : [part])));
    sayOrHide(note, facts.empty ?? "");
  }

  function drawPrompt() {
    const [before, tail] = view.get("prompt_text");
    fold.hidden = before === "";
    setText(fold, unfolded ? "fold the prompt" : `show all ${facts.prompt_tokens} tokens of the prompt`);
    fold.setAttribute("aria-expanded", String(unfolded));
    const whole = unfolded ? before + tail : (before === "" ? "" : "… ") + tail;
    prompt.hidden = whole === "";
    if (whole === drawnPrompt) return;
    drawnPrompt = whole;
    showText(prompt, whole, { limit: PROMPT_MARKS, spaces: false });
  }

  function drawText() {
    const texts = Array.from(data.piece, (piece) => strings[piece]);
    const names = new Map(texts.flatMap((piece, i) => (strings[data.token[i]] === piece ? [] : [[i, strings[data.token[i]]]])));
    list.fill([{ texts, names, continued: data.continued, outside: data.outside }], { keep: true });
    list.paint(
      (i) => `${stroke(Math.exp(data.logprob[i]), strokes)} ${data.entropy[i] >= hesitation ? "wavy" : ""}`,
      (word, look) => underline(word, strokes[Number.parseInt(look, 10)], look.endsWith("wavy")),
    );
    list.element.hidden = key.hidden = data.n === 0;
    scroll.hidden = data.n === 0 && Boolean(prompt.hidden);
  }

  function drawSpoken() {
    const rows = leastSure(data, LEAST_SURE).map((i) => [
      String(i),
      spokenLabel(strings[data.token[i]], 40),
      percent(Math.exp(data.logprob[i])),
      String(data.rank[i] + 1),
      `${decimal(data.entropy[i])} nats`,
    ]);
    const columns = ["Token", "Text", "Probability", "Rank", "Entropy"];
    spoken.replaceChildren(...(rows.length > 0 ? [table({ columns, rows, caption: "The tokens the model was least sure of" })] : []));
  }

  return {
    element,
    update(next = held) {
      facts = view.get("facts");
      strings = view.get("strings");
      data = decode(view.get("block"), facts.n ?? 0, facts.k ?? 0, kinds);
      // A reader at the end of a growing text stays at its end; anywhere else stays where it is.
      const following = facts.running && scroll.scrollHeight - scroll.clientHeight - scroll.scrollTop < 8;
      drawHead();
      drawPrompt();
      drawText();
      drawSpoken();
      held = next < data.n ? next : -1;
      if (following) scroll.scrollTop = scroll.scrollHeight;
      rest();
    },
    /** @param {number} token */
    hold(token) {
      if (token === held) return;
      held = token < data.n ? token : -1;
      rest();
    },
  };
}
