// The running text with its underlines, and the panel that explains one token. Used by every view that shows a generation:
// it reads the traits of TokenTraits.

import { box, decimal, make, percent, sayOrHide, setText, showText, spokenLabel, visibleLabel } from "../kit/common.js";
import { button } from "../kit/controls.js";
import { legend } from "../kit/legend.js";
import { table } from "../kit/table.js";
import { tokenList } from "../kit/token_list.js";
import { decode, decodeMarks, example, leastSure, stroke } from "./logic.js";
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

/** What the strip under the text and the signs in it mean. @param {number} overridden */
function marksKey(overridden) {
  const form = legend(
    [
      { sample: "lk-forbidden", text: "how much of the model's probability the form forbade there" },
      { sample: "lk-overridden", text: `more than ${Math.round(100 * overridden)} %: the form chose, not the model` },
    ],
    { quiet: true },
  );
  const drafts = legend(
    [
      { sample: "lk-drafted", text: "proposed by the draft, and accepted" },
      { sample: "lk-round", text: "a round begins: one pass of the model" },
    ],
    { quiet: true },
  );
  return { form, drafts };
}

/**
 * Returns {element, update(held), hold(token)}: update draws the view's traits as they are, and tokens that were drawn before
 * keep their nodes; hold holds a token, -1 none.
 * @param {import("../kit/mount.js").Mounted} view
 * @param {object} [options]
 * @param {(token: number) => void} [options.onHold] -1: none is held any more
 * @param {string} [options.label]
 * @param {import("./choice.js").Choices | null} [options.choices] how tokens were chosen
 * @param {((token: number, id: number, text: string) => void) | null} [options.onBranch] the text is to go on from a token with another
 */
export function createReader(view, { onHold = () => {}, label = "Generated tokens", choices = null, onBranch = null } = {}) {
  const { strokes, hesitation, kinds, overridden } = view.get("constants");
  let data = decode(null, 0, 0, kinds);
  let marks = decodeMarks({ n: 0, k: 0 });
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
  const signs = marksKey(overridden);
  const foot = make("p", "lk-muted lk-tokens-foot");
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
        show(token, token === held ? heldWords() : "", byKey);
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
  const panel = tokenPanel({ id: view.id("stage"), branch: onBranch, redraw: () => drawPanel() });
  let captioned = "";
  const spoken = make("div", "lk-spoken");
  text.append(fold, prompt, list.element);
  const element = box("", head, key, signs.form, signs.drafts, note, scroll, foot, panel.element, spoken);

  /** @type {(token: number, caption: string, follow?: boolean) => void} */
  function show(token, caption, follow = false) {
    shown = token;
    list.focus(token < 0 ? null : token, { held: token >= 0 && token === held, follow });
    captioned = caption;
    drawPanel();
    if (shown >= 0 && shown < data.n) choices?.want(shown);
  }

  function drawPanel() {
    const there = shown >= 0 && shown < data.n;
    const choice = there ? (choices?.get(shown) ?? null) : null;
    const rows = Math.max(data.k + 2, choice || choices?.on() ? (choices?.rows ?? 0) : 0);
    panel.element.classList.toggle("lk-panel-choices", choices?.on() ?? false);
    panel.draw(there ? shown : -1, choices?.said() || choice?.note || captioned, { data, strings, drawn: facts.drawn, marks, choice, rows, overridden });
  }

  /** What to explain when nobody points: the held token, the keyboard's, or an example worth seeing. */
  function rest() {
    if (held >= 0) show(held, heldWords());
    else if (walking && shown >= 0 && shown < data.n) show(shown, "");
    else if (facts.running && data.n > 0) show(data.n - 1, "the newest token");
    else show(example(data), "an open choice; point at any other token");
  }

  /** Where the text can branch, what to do; where only its lab could let it, what to ask for. */
  function heldWords() {
    if (onBranch) return "held: click another token to branch";
    return choices?.on() ? "held; lk.views.tree(gen) branches here" : "held";
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
    show(token, held >= 0 ? heldWords() : "");
  }

  /** @param {number} token */
  function spokenToken(token) {
    return (
      `token ${token}, ${spokenLabel(strings[data.token[token]], 40)}, probability ${percent(Math.exp(data.logprob[token]))}, ` +
      `rank ${data.rank[token] + 1}, entropy ${decimal(data.entropy[token])} nats` +
      (marks.forbidden ? `, the form forbade ${percent(marks.forbidden[token])}` : "") +
      (marks.drafted.has(token) ? ", drafted" : "")
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
    const shareOf = (/** @type {number} */ i) => (marks.forbidden ? Math.round(100 * marks.forbidden[i]) || 0 : "");
    list.paint(
      (i) => `${stroke(Math.exp(data.logprob[i]), strokes)} ${shareOf(i)} ${data.entropy[i] >= hesitation ? "wavy" : ""}`,
      (word, look) => {
        const [line, share] = look.split(" ");
        underline(word, strokes[Number(line)], look.endsWith("wavy"));
        word.classList.toggle("lk-forbidden", share !== "");
        word.style.setProperty("--lk-share", `${share || 0}%`);
      },
    );
    list.mark("lk-overridden", (i) => marks.forbidden !== null && marks.forbidden[i] > overridden);
    list.mark("lk-drafted", (i) => marks.drafted.has(i));
    list.mark("lk-round", (i) => marks.rounds.has(i));
    element.classList.toggle("lk-formed", marks.forbidden !== null || marks.drafted.size > 0);
    signs.form.hidden = marks.forbidden === null;
    signs.drafts.hidden = marks.drafted.size === 0 && marks.rounds.size === 0;
    sayOrHide(foot, (facts.foot ?? []).join(" "));
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
      const [n, k] = [facts.n ?? 0, facts.k ?? 0];
      data = decode(view.get("block"), n, k, kinds);
      const [forbidden, allowed] = [view.get("forbidden"), view.get("allowed")];
      marks = decodeMarks({ n, k, forbidden, allowed, drafted: facts.drafted, rounds: facts.rounds });
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
    /** How a token was chosen is known by now. */
    chosen: drawPanel,
  };
}
