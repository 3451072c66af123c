// The running text with its underlines, and the panel that explains one token. Used by every view that shows a
// generation: createReader() draws what update() is given and knows nothing of widgets or models.

import { appendRuns, decimal, equalChoices, hasSelection, make, ownKey, percent, spokenLabel, visibleLabel, visibleRuns } from "../kit/common.js";
import { keyTarget, lineTarget } from "../kit/keys.js";
import {
  CONTINUED,
  HESITATION,
  OUTSIDE,
  STROKES,
  bars,
  commonStart,
  decode,
  example,
  leastSure,
  ordinal,
  stroke,
} from "./logic.js";

const PROMPT_MARKS = 4000;

function legend() {
  const element = make("p", "lk-legend");
  element.append(make("span", "lk-legend-title", "How probable each token was"));
  STROKES.forEach(({ label }, i) => {
    const item = make("span", "lk-legend-item");
    const sample = make("span", `lk-word lk-s${i}`, "\u2003\u2003");
    sample.setAttribute("aria-hidden", "true");
    item.append(sample, ` ${label}`);
    element.append(item);
  });
  const item = make("span", "lk-legend-item");
  const sample = make("span", "lk-word lk-s2 lk-wave", "\u2003\u2003");
  sample.setAttribute("aria-hidden", "true");
  item.append(sample, ` many options (entropy over ${HESITATION} nats)`);
  element.append(item);
  return element;
}

/** One token as an element; its text is exactly what the token adds to the running text. */
function tokenElement(piece, token, kind, strokeClass) {
  const element = make("span", "lk-token");
  element.setAttribute("role", "option");
  if (kind === OUTSIDE) {
    element.append(make("span", `lk-outside ${strokeClass}`, visibleLabel(token)));
    return element;
  }
  if (kind === CONTINUED) {
    element.append(make("span", `lk-continued ${strokeClass}`, "+"));
    return element;
  }
  const runs = visibleRuns(piece);
  // What leaves nothing to read has its name in words from the start; others get theirs when they are reached.
  if (runs.every((run) => run.kind !== "text")) element.setAttribute("aria-label", spokenLabel(token));
  // The line goes under the word and not under the space before it, so that words stay apart.
  let start = 0;
  while (start < runs.length && runs[start].kind === "space") start += 1;
  if (start === runs.length) start = 0;
  appendRuns(element, runs.slice(0, start));
  const word = make("span", `lk-word ${strokeClass}`);
  appendRuns(word, runs.slice(start));
  element.append(word);
  return element;
}

/** A token's text for the panel: one line, marks in muted ink, kept apart from the text around it. */
export function tokenLabel(text, limit) {
  const label = make("bdi", "lk-label");
  const shown = visibleLabel(text, limit);
  const lead = /^·*/u.exec(shown)[0].length;
  if (text.startsWith(" ") && lead > 0) label.append(make("span", "lk-mark", shown.slice(0, lead)), shown.slice(lead));
  else label.append(shown === "" ? "(empty)" : shown);
  return label;
}

function barRow(row, strings) {
  const element = make("li", "lk-bar");
  const name = make("span", "lk-bar-name");
  if (row.others) name.append("all other tokens");
  else name.append(tokenLabel(strings[row.token], 40));
  if (row.others) element.classList.add("lk-bar-others");
  if (row.taken) element.classList.add("lk-bar-taken");
  const track = make("span", "lk-track");
  const fill = make("span", "lk-track-fill");
  fill.style.width = `${Math.min(100, Math.max(0, row.probability * 100)) || 0}%`;
  track.append(fill);
  const note = make("span", "lk-bar-note", row.taken ? (row.rank ? `taken, ${ordinal(row.rank)}` : "taken") : "");
  element.append(name, track, make("span", "lk-bar-number", percent(row.probability)), note);
  return element;
}

/** @param {{onHold?: (token: number) => void, label?: string}} [options] onHold(-1): none is held any more */
export function createReader({ onHold = () => {}, label = "Generated tokens" } = {}) {
  const prefix = `lk-${Math.random().toString(36).slice(2, 10)}`;
  const element = make("div");
  const head = make("p", "lk-head");
  const note = make("p", "lk-note");
  const scroll = make("div", "lk-scroll");
  const text = make("div", "lk-text");
  text.dir = "auto";
  const fold = make("button", "lk-fold");
  fold.type = "button";
  const prompt = make("span", "lk-prompt");
  const list = make("span", "lk-list");
  list.setAttribute("role", "listbox");
  list.setAttribute("aria-label", `${label}: arrow keys move, Enter holds one, Escape leaves`);
  list.setAttribute("aria-orientation", "horizontal");
  const panel = make("section", "lk-panel");
  panel.setAttribute("aria-label", "Alternatives of one token");
  const spoken = make("div", "lk-spoken");
  text.append(fold, prompt, list);
  scroll.append(text);
  const key = legend();
  element.append(head, key, note, scroll, panel, spoken);

  let data = decode(null, 0, 0);
  let strings = [];
  let facts = { running: false, drawn: "" };
  let promptText = ["", ""];
  let unfolded = false;
  let drawnPrompt = "";
  let keys = [];
  const nodes = [];
  let held = -1;
  let active = -1; // where the keyboard is
  let shown = -1; // what the panel explains
  let caption = "";

  const focused = () => element.ownerDocument.activeElement === list || /** @type {ShadowRoot} */ (list.getRootNode()).activeElement === list;

  function mark(i, className, on) {
    if (i >= 0 && i < nodes.length) nodes[i].classList.toggle(className, on);
  }

  function show(i, why) {
    mark(shown, "lk-shown", false);
    shown = i;
    caption = why;
    mark(shown, "lk-shown", true);
    drawPanel();
  }

  /** What to explain when nobody points: the held token, the keyboard's, or an example worth seeing. */
  function rest() {
    if (held >= 0) show(held, "held");
    else if (active >= 0) show(active, "");
    else if (facts.running && data.n > 0) show(data.n - 1, "the newest token");
    else show(example(data), "an open choice; point at any other token");
  }

  function activate(i) {
    mark(active, "lk-active", false);
    active = i;
    mark(active, "lk-active", true);
    if (active < 0) {
      list.removeAttribute("aria-activedescendant");
      return;
    }
    const node = nodes[active];
    node.id = `${prefix}-${active}`;
    node.setAttribute("aria-label", spokenToken(active));
    list.setAttribute("aria-activedescendant", node.id);
  }

  function hold(i) {
    if (held >= 0 && held < nodes.length) {
      nodes[held].classList.remove("lk-held");
      nodes[held].removeAttribute("aria-selected");
    }
    held = i >= 0 && i < nodes.length ? i : -1;
    if (held >= 0) {
      nodes[held].classList.add("lk-held");
      nodes[held].setAttribute("aria-selected", "true");
    }
  }

  function toggle(i) {
    hold(held === i ? -1 : i);
    if (held >= 0) show(held, "held");
    else show(i, "");
    onHold(held);
  }

  function spokenToken(i) {
    return (
      `token ${i}, ${spokenLabel(strings[data.token[i]], 40)}, probability ${percent(Math.exp(data.logprob[i]))}, ` +
      `rank ${data.rank[i] + 1}, entropy ${decimal(data.entropy[i])} nats`
    );
  }

  function fact(name, value) {
    const group = make("div", "lk-fact");
    group.append(make("dt", "", name), make("dd", "", value));
    return group;
  }

  function drawPanel() {
    if (shown < 0 || shown >= data.n) {
      panel.replaceChildren();
      panel.hidden = true;
      return;
    }
    panel.hidden = false;
    const i = shown;
    const title = make("p", "lk-panel-title");
    title.append(tokenLabel(strings[data.token[i]], 48));
    title.append(make("span", "lk-panel-place", `token ${i}, id ${data.id[i]}`));
    const kind =
      data.kind[i] === OUTSIDE
        ? "not part of the text"
        : data.kind[i] === CONTINUED
          ? "more bytes of a character"
          : "";
    if (kind) title.append(make("span", "lk-panel-place", kind));
    if (caption) title.append(make("span", "lk-panel-caption", caption));

    const rows = bars(data, i);
    const chart = make("ul", "lk-bars");
    chart.style.setProperty("--lk-rows", data.k + 2);
    chart.append(...rows.map((row) => barRow(row, strings)));

    const rank = data.rank[i];
    const list_ = make("dl", "lk-facts");
    list_.append(
      fact("Probability", percent(Math.exp(data.logprob[i]))),
      fact("Log-probability", `${decimal(data.logprob[i], 3)} nats`),
      fact("Rank", `${ordinal(rank + 1)} choice`),
      fact("Entropy", `${decimal(data.entropy[i], 3)} nats`),
      fact("As open as", equalChoices(data.entropy[i])),
      fact(
        "When drawn",
        facts.drawn.startsWith("greedy") ? "certain: greedy" : percent(Math.exp(data.sampledLogprob[i])),
      ),
    );
    const body = make("div", "lk-panel-body");
    body.append(chart, list_);
    panel.replaceChildren(title, body);
  }

  function drawHead() {
    head.replaceChildren();
    if (facts.model) head.append(make("strong", "", visibleLabel(facts.model, 80)));
    (facts.headline ?? []).forEach((part, i) => {
      if (i > 0 || facts.model) head.append(" · ");
      head.append(make("span", "lk-head-part", part));
    });
    note.textContent = facts.empty ?? "";
    note.hidden = !facts.empty;
  }

  function drawPrompt() {
    const [rest_, tail] = promptText;
    fold.hidden = rest_ === "";
    fold.textContent = unfolded ? "fold the prompt" : `show all ${facts.prompt_tokens} tokens of the prompt`;
    fold.setAttribute("aria-expanded", String(unfolded));
    const whole = unfolded ? rest_ + tail : (rest_ === "" ? "" : "… ") + tail;
    prompt.hidden = whole === "";
    if (whole === drawnPrompt) return;
    drawnPrompt = whole;
    prompt.replaceChildren();
    appendRuns(prompt, visibleRuns(whole, { limit: PROMPT_MARKS, spaces: false }));
  }

  function drawText() {
    const next = new Array(data.n);
    const classes = new Array(data.n);
    for (let i = 0; i < data.n; i += 1) {
      const waving = data.entropy[i] >= HESITATION ? " lk-wave" : "";
      classes[i] = `lk-s${stroke(Math.exp(data.logprob[i]))}${waving}`;
      next[i] = `${data.kind[i]} ${classes[i]} ${strings[data.piece[i]]}\u0000${strings[data.token[i]]}`;
    }
    const same = commonStart(keys, next);
    for (let i = same; i < nodes.length; i += 1) nodes[i].remove();
    nodes.length = same;
    const fresh = element.ownerDocument.createDocumentFragment();
    for (let i = same; i < data.n; i += 1) {
      const node = tokenElement(strings[data.piece[i]], strings[data.token[i]], data.kind[i], classes[i]);
      node.dataset.i = String(i);
      nodes.push(node);
      fresh.append(node);
    }
    list.append(fresh);
    keys = next;
    list.hidden = data.n === 0;
    key.hidden = data.n === 0;
    scroll.hidden = data.n === 0 && Boolean(prompt.hidden);
    if (data.n > 0) list.tabIndex = 0;
    else list.removeAttribute("tabindex");
  }

  function drawSpoken() {
    spoken.replaceChildren();
    const least = leastSure(data, 5);
    if (least.length === 0) return;
    const table = make("table");
    table.append(make("caption", "", "The tokens the model was least sure of"));
    const header = make("tr");
    for (const name of ["Token", "Text", "Probability", "Rank", "Entropy"]) {
      const cell = make("th", "", name);
      cell.scope = "col";
      header.append(cell);
    }
    table.append(header);
    for (const i of least) {
      const row = make("tr");
      for (const value of [
        String(i),
        spokenLabel(strings[data.token[i]], 40),
        percent(Math.exp(data.logprob[i])),
        String(data.rank[i] + 1),
        `${decimal(data.entropy[i])} nats`,
      ]) {
        row.append(make("td", "", value));
      }
      table.append(row);
    }
    spoken.append(table);
  }

  const tokenAt = (event) => {
    const node = event.target.closest?.(".lk-token");
    return node && list.contains(node) ? Number(node.dataset.i) : -1;
  };

  list.addEventListener("pointerover", (event) => {
    const i = tokenAt(event);
    if (i >= 0 && held < 0 && event.pointerType !== "touch") show(i, "");
  });
  list.addEventListener("click", (event) => {
    const i = tokenAt(event);
    if (i < 0 || hasSelection(list)) return;
    list.focus({ preventScroll: true });
    activate(i);
    toggle(i);
  });
  list.addEventListener("focus", () => {
    if (active < 0 && data.n > 0 && list.matches(":focus-visible")) {
      activate(Math.max(0, shown));
      rest();
    }
  });
  list.addEventListener("blur", () => {
    activate(-1);
  });
  list.addEventListener("keydown", (event) => {
    if (!ownKey(event)) return;
    const from = active >= 0 ? active : Math.max(0, shown);
    let target = keyTarget(event.key, from, data.n);
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      target = lineTarget(from, event.key === "ArrowDown" ? 1 : -1, data.n, (i) => {
        return nodes[i].getClientRects()[0] ?? nodes[i].getBoundingClientRect();
      });
    }
    if (target !== null) {
      activate(target);
      // Moving on from a held token lets it go: the panel follows the keyboard.
      if (held >= 0 && target !== held) {
        hold(-1);
        onHold(-1);
      }
      show(target, held >= 0 ? "held" : "");
      reveal(nodes[target]);
    } else if (event.key === "Enter" || event.key === " ") {
      activate(from);
      toggle(from);
    } else if (event.key === "Escape") {
      if (held >= 0) toggle(held);
      else {
        list.blur();
        rest();
      }
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  });
  fold.addEventListener("click", () => {
    unfolded = !unfolded;
    drawPrompt();
  });

  /** Scroll the text's own box, never the page, until the token is seen. */
  function reveal(node) {
    const box = node.getBoundingClientRect();
    const frame = scroll.getBoundingClientRect();
    if (box.top < frame.top) scroll.scrollTop -= frame.top - box.top + 8;
    else if (box.bottom > frame.bottom) scroll.scrollTop += box.bottom - frame.bottom + 8;
  }

  return {
    element,

    /** Draw a state {strings, block, facts, prompt_text, held}. Tokens drawn before and unchanged keep their nodes. */
    update(state) {
      data = decode(state.block, state.facts.n ?? 0, state.facts.k ?? 0);
      strings = state.strings;
      facts = state.facts;
      promptText = state.prompt_text;
      // A reader at the end of a growing text stays at its end; anywhere else stays where it is.
      const following = facts.running && scroll.scrollHeight - scroll.clientHeight - scroll.scrollTop < 8;
      const wasActive = active;
      drawHead();
      drawPrompt();
      drawText();
      drawSpoken();
      hold(state.held ?? held);
      activate(wasActive < data.n ? wasActive : -1);
      if (following) scroll.scrollTop = scroll.scrollHeight;
      rest();
    },

    /** Hold a token from outside; -1 lets go. */
    hold(i) {
      if (i === held) return;
      hold(i);
      rest();
    },

    focused,
  };
}
