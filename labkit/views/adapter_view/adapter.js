// The adapter view: the prompt, a slider for each adapter, and the text with and without them.

import { floatsOf } from "../kit/codes.js";
import { box, make, outsideText, sayOrHide, section, setText, spokenLabel } from "../kit/common.js";
import { button } from "../kit/controls.js";
import { isBusy, statusLine, stopwatch, textField } from "../kit/field.js";
import { legend } from "../kit/legend.js";
import { mount } from "../kit/mount.js";
import { sliderRows } from "../kit/slider.js";
import { nameOf, passageOf, quoted, tokenList } from "../kit/token_list.js";
import { depth, differWords, klWords, meaning, scaleAt, scaleWords } from "./logic.js";

/** @typedef {import("../kit/mount.js").Mounted} Mounted */
/** @typedef {import("./logic.js").Side} Side */
/** @typedef {import("./logic.js").Shown} Shown */

const TYPING_MS = 700; // somebody who types on does not mean what stands there yet
const EMPTY = passageOf({ texts: [], continued: [], called: [] });

/**
 * One text. Returns {element, draw(side, words), paint(kl, top), passage()}.
 * @type {(view: Mounted, name: "base" | "tuned", title: string, point: (token: number | null, byKey: boolean) => void,
 *   say: (token: number) => string) => {element: HTMLElement, head: HTMLElement, list: ReturnType<typeof tokenList>,
 *   draw: (side: Side | null, words: string) => void, passage: () => import("../kit/token_list.js").Passage}}
 */
function pane(view, name, words, point, say) {
  const { element } = section(view.id(name), words, `lk-adapt-${name}`);
  const head = make("p", "lk-muted lk-adapt-of");
  const empty = make("p", "lk-muted");
  const list = tokenList({
    label: `${words}: arrow keys move, Escape lets go`,
    id: view.id(`${name}t`),
    className: "lk-adapt-text",
    actions: {
      point,
      choose: (token) => point(token, true),
      leave() {
        point(null, true);
        return false;
      },
      say,
    },
  });
  element.append(head, list.element, empty);
  let passage = EMPTY;
  return {
    element,
    head,
    list,
    passage: () => passage,
    draw(side, said) {
      passage = side === null ? EMPTY : passageOf(side.pieces);
      list.fill([passage], { keep: true });
      const differ = new Set(side?.differ ?? []);
      list.mark("lk-adapt-other", (i) => differ.has(i));
      list.element.hidden = passage.texts.length === 0;
      sayOrHide(empty, said);
    },
  };
}

/**
 * Both texts, and what is said of the token that is pointed at. Returns {element, draw()}.
 * @param {Mounted} view
 */
function texts(view) {
  const { exported } = view;
  const shown = () => /** @type {Shown} */ (view.get("shown"));
  const kl = () => {
    const sent = /** @type {DataView} */ (view.get("kl"));
    return sent.byteLength > 0 ? floatsOf(sent) : null;
  };
  const differ = make("p", "lk-adapt-differ"); // its line is always there, so that nothing below moves
  const foot = make("p", "lk-foot lk-muted");
  foot.setAttribute("aria-live", "polite");
  const klOf = (/** @type {number} */ token) => {
    const found = kl();
    return found === null || token >= found.length ? "" : `KL to the base ${klWords(found[token])} nats`;
  };
  const base = pane(view, "base", "Adapters off", (token, byKey) => point(base, token, byKey), (token) => spokenLabel(nameOf(base.passage(), token), 40));
  const tuned = pane(view, "tuned", "With the adapters", (token, byKey) => point(tuned, token, byKey), (token) =>
    [spokenLabel(nameOf(tuned.passage(), token), 40), klOf(token)].filter(Boolean).join(", "),
  );

  /** @type {(where: ReturnType<typeof pane>, token: number | null, byKey: boolean) => void} */
  function point(where, token, byKey) {
    for (const each of [base, tuned]) each.list.focus(each === where ? token : null, { follow: byKey });
    if (token === null) {
      foot.replaceChildren("Point at a token for its KL to the base.");
      return;
    }
    const own = new Set((where === base ? shown().base : shown().tuned)?.differ ?? []).has(token);
    const parts = [where === tuned ? klOf(token) : "", own ? "the other text does not have it" : ""].filter(Boolean);
    foot.replaceChildren(quoted(nameOf(where.passage(), token)), ` · token ${token}${parts.length > 0 ? ` · ${parts.join(" · ")}` : ""}`);
  }
  const word = make("span", "lk-adapt-other");
  word.append(make("span", "lk-tl-word", "token"));
  const ramp = make("span", "lk-adapt-ramp");
  const top = make("span");
  const key = legend([
    { sample: word, text: "the other text does not have it" },
    { sample: ramp, text: ["KL(base || with the adapters) at the token, 0 to ", top, " nats"] },
  ], { quiet: true });
  const panes = box("lk-adapt-panes lk-split", base.element, tuned.element);

  return {
    element: box("", differ, panes, foot, key),
    draw() {
      const now = shown();
      const busy = !exported && isBusy(view.get("status"));
      base.draw(now.base, now.base === null ? (busy ? "Not begun yet." : "Nothing was written.") : endWords(now.base, now, busy));
      tuned.draw(now.tuned, now.tuned === null ? noTuned(now, busy) : endWords(now.tuned, now, busy));
      tuned.element.classList.toggle("lk-adapt-old", now.old && now.tuned !== null);
      const names = /** @type {string[]} */ (view.get("adapters"));
      tuned.head.replaceChildren();
      if (now.tuned !== null) {
        names.forEach((name, i) => {
          tuned.head.append(i > 0 ? ", " : "", outsideText("bdi", "", name), " ", make("strong", "", scaleWords(now.of[i])));
        });
        if (now.mean !== undefined && now.mean !== null) tuned.head.append(" · KL ", make("strong", "", klWords(now.mean)), " nats a token on average");
        if (now.old) tuned.head.append(" · from before");
      }
      const found = kl();
      const most = now.top ?? 1;
      setText(top, String(most));
      tuned.list.paint(
        (i) => `${found === null || i >= found.length ? 0 : depth(found[i], most)}%`,
        (painted, deep) => painted.style.setProperty("--lk-deep", deep),
      );
      setText(differ, differWords(now));
      key.hidden = now.tuned === null;
      panes.setAttribute("aria-busy", String(busy));
      point(base, null, false);
    },
  };
}

/** What stands below a text. @type {(side: Side, now: Shown, busy: boolean) => string} */
function endWords(side, now, busy) {
  if (side.count === 0 && side.done) return "The model ended its text at once.";
  if (side.done || busy) return side.count === 0 ? "No token yet." : "";
  return now.state === "writing" ? "When this file was written, the text was not finished." : "Stopped here.";
}

/** What stands in place of the text with adapters. @type {(now: Shown, busy: boolean) => string} */
function noTuned(now, busy) {
  if (now.of.length > 0 && now.of.every((scale) => scale === 0)) return "All scales are 0: this is the base's own text.";
  return busy ? "Not begun yet." : "Nothing was written.";
}

/** @param {{model: import("../kit/ask.js").Model, el: HTMLElement}} widget */
function render(widget) {
  const view = mount(widget, "lk-adapt");
  const { exported, root } = view;
  root.classList.add("lk-panes");
  const { low, high, steps } = view.get("limits");
  const line = statusLine();
  const marks = [...new Set([low, 0, 1, high])].sort((a, b) => a - b);
  const { element: rows } = sliderRows(view, {
    trait: "values",
    name: "How much of each adapter is on",
    scales: view.get("adapters").map((/** @type {string} */ label) => ({
      label,
      low,
      high,
      origin: 0,
      marks,
      positions: /** @type {[number, number]} */ ([Math.round(low * steps), Math.round(high * steps)]),
      at: (/** @type {number} */ position) => scaleAt(position, steps, low, high),
      buttons: [{ text: "0", value: 0 }, { text: "1", value: 1 }],
      what: "scale",
      text: scaleWords,
      spoken: (/** @type {number} */ value) => `${scaleWords(value)}, ${meaning(value)}`,
      beside: meaning,
    })),
    set: (values) => line.hear(view.wire.tell({ values })),
  });
  const stop = button("Stop", "", () => line.hear(view.wire.ask(isBusy(view.get("status")) ? "stop" : "again")));
  const clock = stopwatch(view);
  const bar = box("lk-actions lk-adapt-bar", stop, line.element, clock.element);
  const absent = make("p", "lk-muted", "The sliders need the notebook that wrote the texts; this file shows them as they were.");
  rows.hidden = bar.hidden = exported;
  absent.hidden = !exported;
  /** @type {HTMLElement} */
  let prompt;
  if (exported) {
    prompt = make("p", "lk-adapt-prompt");
    prompt.append(make("span", "lk-muted", "Prompt "), outsideText("bdi", "lk-prose", view.get("shown").prompt));
  } else prompt = textField(view, { trait: "prompt", title: "Prompt", lines: 2, delay: TYPING_MS, hear: line.hear }).element;
  const both = texts(view);
  root.append(prompt, rows, absent, bar, both.element);

  function draw() {
    both.draw();
    if (exported) return;
    const now = view.get("status");
    line.draw(now, "waiting …");
    clock.run(isBusy(now));
    const again = now.state === "stopped" || now.state === "failed";
    setText(stop, again ? "Write again" : "Stop");
    stop.disabled = !isBusy(now) && !again;
  }
  draw();
  view.on(["values", "status", "shown", "kl"], draw);
  view.atEnd(line.clear);
  return view.unmount;
}

export default { render };
