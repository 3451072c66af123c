// The chat panel: turns, a field to say something in, the settings, and behind a reply its tokens, branches and trace.

import { aloud } from "../kit/aloud.js";
import { unlessDropped } from "../kit/ask.js";
import { box, make, outsideText, sayOrHide, section, setText, showText, spokenLabel } from "../kit/common.js";
import { button, sliderFor } from "../kit/controls.js";
import { isBusy, statusLine, stopwatch, textField } from "../kit/field.js";
import { mount } from "../kit/mount.js";
import { choiceStore } from "../tokens_view/choice.js";
import { createReader } from "../tokens_view/reader.js";
import { shownText, treePane } from "../tree_view/pane.js";
import { shownTurns, temperatureWords } from "./logic.js";

/** @typedef {import("../kit/mount.js").Mounted} Mounted */
/** @typedef {import("./logic.js").Turn} Turn */

/** The system prompt and how replies are drawn. @type {(view: Mounted, hear: (asked: Promise<unknown>) => void) => HTMLElement} */
function settingsPane(view, hear) {
  const { hottest, least_top_p: least } = view.get("limits");
  const { element: system } = textField(view, { trait: "system", title: "System prompt", hint: "none", lines: 2, delay: 400, hear });
  const put = (/** @type {string} */ trait) => (/** @type {number} */ value) => hear(view.wire.tell({ [trait]: value }));
  const warmth = sliderFor("Temperature", view.id("temperature"), { min: 0, max: hottest, step: 0.05 }, put("temperature"));
  const nucleus = sliderFor("Top-p", view.id("top_p"), { min: least, max: 1, step: 0.05 }, put("top_p"));
  const seedLabel = make("label", "", "Seed");
  const seed = make("input", "lk-chat-seed");
  Object.assign(seed, { type: "number", min: 0, step: 1, id: view.id("seed"), autocomplete: "off" });
  seedLabel.htmlFor = seed.id;
  seed.addEventListener("change", () => {
    const value = Number(seed.value);
    if (seed.value !== "" && Number.isInteger(value) && value >= 0) put("seed")(value);
    else seed.value = String(view.get("seed"));
  });
  const draw = () => {
    const [temperature, topP] = [view.get("temperature"), view.get("top_p")];
    warmth.slider.value = String(temperature);
    warmth.say(temperatureWords(temperature));
    nucleus.slider.value = String(topP);
    nucleus.say(topP === 1 ? "1 (off)" : topP.toFixed(2));
    nucleus.slider.disabled = seed.disabled = temperature === 0;
    if (document.activeElement !== seed) seed.value = String(view.get("seed"));
  };
  draw();
  view.on(["temperature", "top_p", "seed"], draw);
  const pairs = [[warmth.label, warmth.slider, warmth.output], [nucleus.label, nucleus.slider, nucleus.output], [seedLabel, seed]];
  return box("lk-chat-settings", system, box("lk-controls", ...pairs.map((parts) => box("lk-pair", ...parts))));
}

/**
 * The turns, each reply with what can be looked at behind it. Returns {element, draw()}.
 * @type {(view: Mounted, hear: (asked: Promise<unknown>) => void) => {element: HTMLElement, draw: () => void}}
 */
function turnsPane(view, hear) {
  const element = make("div", "lk-chat-turns");
  element.setAttribute("role", "log");
  element.setAttribute("aria-label", "The conversation");
  element.setAttribute("aria-live", "off"); // a reply is read out once it is there
  element.tabIndex = 0;
  /** @type {{element: HTMLElement, draw: (turn: Turn) => void}[]} */
  const drawn = [];

  /** @type {(turn: Turn, i: number) => {element: HTMLElement, draw: (turn: Turn) => void}} */
  function made({ role }, i) {
    const who = role === "user" ? "You" : view.get("model_name") || "The model";
    const body = outsideText("div", "lk-prose");
    const note = make("span", "lk-muted lk-small");
    const tokens = button("Tokens and branches", "", () => choose(view.get("chosen") === i ? -1 : i));
    const trace = button("Trace", "Trace this reply, and see its attention below", () => hear(view.wire.ask("trace", { turn: i })));
    trace.hidden = !view.get("can_trace") || view.exported;
    const actions = box("lk-actions", tokens, trace, note);
    const turn = make("article", `lk-chat-turn lk-chat-${role}`);
    const name = outsideText("p", "lk-chat-who", who);
    turn.append(name, body, actions);
    turn.setAttribute("aria-label", `${spokenLabel(who)}, turn ${i + 1}`);
    let text = "";
    return {
      element: turn,
      draw(now) {
        if (text !== now.text || body.childNodes.length === 0) showText(body, now.text || "…", { spaces: false, limit: 4000 });
        text = now.text;
        setText(note, now.texts > 1 ? `${now.note} · ${now.texts} texts` : now.note);
        actions.hidden = role === "user" || now.writing;
        // a file has the texts of the one reply that was on show
        tokens.hidden = view.exported && view.get("chosen") !== i;
        tokens.setAttribute("aria-pressed", String(view.get("chosen") === i));
        turn.classList.toggle("lk-chat-chosen", view.get("chosen") === i);
      },
    };
  }
  const choose = (/** @type {number} */ turn) => {
    if (!view.exported) hear(view.wire.tell({ chosen: turn }));
  };

  return {
    element,
    draw() {
      const turns = shownTurns(view.get("turns"), view.exported ? {} : view.get("talk"));
      const atEnd = element.scrollHeight - element.clientHeight - element.scrollTop < 8;
      const before = drawn.length;
      while (drawn.length > turns.length) drawn.pop()?.element.remove();
      turns.forEach((turn, i) => {
        if (drawn[i] && !drawn[i].element.classList.contains(`lk-chat-${turn.role}`)) {
          for (const each of drawn.splice(i)) each.element.remove();
        }
        if (!drawn[i]) {
          drawn[i] = made(turn, i);
          element.append(drawn[i].element);
        }
        drawn[i].draw(turn);
      });
      element.hidden = turns.length === 0;
      if (atEnd || turns.length > before) element.scrollTop = element.scrollHeight;
    },
  };
}

/** The attention view of a trace, which is a widget of its own. @param {Mounted} view */
function tracePane(view) {
  const { element, title } = section(view.id("trace"), "Attention in this reply", "lk-chat-trace");
  const place = make("div");
  const note = make("p", "lk-muted");
  element.append(note, place);
  let shown = "";
  async function draw() {
    const id = view.exported ? "" : view.get("opened");
    element.hidden = id === "";
    if (id === shown) return;
    shown = id;
    place.replaceChildren();
    sayOrHide(note, "");
    if (id === "") return;
    const manager = /** @type {any} */ (view.model).widget_manager;
    try {
      const model = await manager.get_model(id);
      const child = await manager.create_view(model, {});
      if (shown === id) place.replaceChildren(child.el);
      view.atEnd(() => child.remove?.());
    } catch {
      sayOrHide(note, "This page can't show it here: run chat.traces[-1] in a cell of its own.");
    }
    title.scrollIntoView?.({ block: "nearest" });
  }
  return { element, draw };
}

/** @param {{model: import("../kit/ask.js").Model, el: HTMLElement}} widget */
function render(widget) {
  const view = mount(widget, "lk-tokens lk-tree-view lk-chat lk-panes");
  const { exported, wire } = view;
  const line = statusLine();
  const clock = stopwatch(view);
  const loud = aloud(view);
  const settings = settingsPane(view, line.hear);
  const turns = turnsPane(view, line.hear);
  const trace = tracePane(view);
  const traced = statusLine();

  const label = make("label", "", "Say something");
  const field = make("textarea", "lk-entry-field");
  Object.assign(field, { rows: 2, id: view.id("say"), dir: "auto", placeholder: "Enter sends, Shift + Enter begins a line" });
  label.htmlFor = field.id;
  const send = button("Send", "", say);
  const stop = button("Stop", "", () => line.hear(wire.ask("stop", {}, { repeat: true })));
  const again = button("Another reply", "Another reply: the last one drawn anew, with the settings as they are now", () => ask("again", {}));
  const clear = button("Clear", "Clear: begin another conversation", () => ask("clear", {}));
  const entry = box("lk-chat-entry", label, field, box("lk-actions", send, stop, again, clear, line.element, clock.element));
  settings.hidden = entry.hidden = exported;
  const system = outsideText("p", "lk-muted", `System prompt: ${view.get("system")}`);
  system.hidden = !exported || view.get("system") === "";

  const pane = treePane(view);
  const can = view.get("can_branch") && !exported;
  const reader = createReader(shownText(view), {
    label: "Tokens of the reply",
    onHold: (token) => view.set("held", token),
    choices: choiceStore(view, () => view.get("shown")),
    onBranch: can ? (at, token) => pane.hear(wire.ask("branch", { of: view.get("shown"), at, token })) : null,
  });
  const behind = box("lk-chat-behind", box("lk-split", reader.element, pane.tree), pane.compare);
  view.root.append(settings, system, turns.element, entry, traced.element, behind, trace.element, loud.element);

  /** The kernel refused, or there is none. @type {(name: string, args: object) => void} */
  function ask(name, args) {
    wire.ask(name, args).catch(unlessDropped((error) => line.draw({ state: "failed", message: error.message }, "")));
  }

  function say() {
    const text = field.value;
    if (text.trim() === "" || send.disabled) return;
    field.value = "";
    wire.ask("say", { text }).catch(
      unlessDropped((error) => {
        if (field.value === "") field.value = text;
        line.draw({ state: "failed", message: error.message }, "");
      }),
    );
  }
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    say();
  });

  let was = false;
  function drawTalk() {
    const status = exported ? {} : view.get("talk");
    const busy = isBusy(status);
    turns.draw();
    if (exported) return;
    line.draw({ ...status, message: busy ? "" : status.message }, "writing …");
    clock.run(busy);
    send.disabled = busy;
    stop.disabled = !busy;
    const all = /** @type {Turn[]} */ (view.get("turns"));
    again.disabled = busy || all.at(-1)?.role !== "assistant";
    clear.disabled = all.length === 0;
    if (was && !busy && all.at(-1)?.role === "assistant") loud.say(() => all.at(-1)?.text ?? null);
    was = busy;
  }

  function drawBehind() {
    behind.hidden = view.get("chosen") < 0;
    if (behind.hidden) return;
    reader.update(view.get("held"));
    pane.draw();
  }

  function drawUnsent() {
    if (view.get("unsent") && field.value === "") field.value = view.get("unsent");
  }

  drawTalk();
  drawBehind();
  drawUnsent();
  trace.draw();
  view.on(["turns", "talk", "chosen"], drawTalk);
  view.on(exported ? "shown" : ["version", "chosen"], drawBehind);
  view.on(["nodes", "shown", "compared", "status"], () => {
    if (!behind.hidden) pane.draw();
  });
  view.on(["choices", "choice_status"], reader.chosen);
  view.on("held", () => reader.hold(view.get("held")));
  view.on("unsent", drawUnsent);
  view.on("opened", trace.draw);
  view.on("tracing", () => traced.draw(view.get("tracing"), "tracing the reply …"));
  view.atEnd(line.clear);
  view.atEnd(traced.clear);
  return view.unmount;
}

export default { render };
