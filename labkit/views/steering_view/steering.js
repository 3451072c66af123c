// The steering view as a widget: the prompt, a slider for each feature, and two texts side by side.

import { appendRuns, make, makeRoot, setText, spokenLabel, thousands, visibleLabel, visibleRuns } from "../kit/common.js";
import { button } from "../kit/controls.js";
import { NO_ANSWER, patience } from "../kit/patience.js";

const TYPING_MS = 700; // somebody who types on does not mean what stands there yet
const FULL_BAR = 100; // per cent of the track

/** A strength with its sign, as exact as it is: "+12.5", "−3", "0". */
function strengthWords(value) {
  if (value === 0) return "0";
  return `${value > 0 ? "+" : "−"}${Number(Math.abs(value).toPrecision(10))}`;
}

function timesWords(value, typical) {
  return value === 0 ? "off" : `${strengthWords(Number((value / typical).toPrecision(3)))} × its highest`;
}

/** The strength at a position of a slider, with as many digits as are shown. */
function strengthAt(position, { high, steps }) {
  if (Math.abs(position) === steps) return Math.sign(position) * high;
  return Number(((position / steps) * high).toPrecision(4));
}

function plain(parent, text) {
  appendRuns(parent, visibleRuns(text, { spaces: false }));
  return parent;
}

function render({ model, el }) {
  const exported = Boolean(model.get("exported"));
  const prefix = `lk-${Math.random().toString(36).slice(2, 10)}`;
  const features = model.get("features");
  const unit = model.get("unit");
  const withUnit = (words) => (unit ? `${words} ${unit}` : words);
  const root = makeRoot("lk-steer");

  // the prompt ---------------------------------------------------------------------------------------------------------

  const entry = make("div", "lk-steer-entry");
  const label = make("label", "", "Prompt");
  const typed = make("textarea", "lk-steer-typed");
  typed.id = `${prefix}-prompt`;
  typed.rows = 2;
  typed.dir = "auto";
  typed.spellcheck = false;
  label.htmlFor = typed.id;
  entry.append(label, typed);
  const quote = make("p", "lk-steer-prompt");
  const quoted = make("bdi", "lk-steer-quoted");
  quote.append(make("span", "lk-steer-muted", "Going on from "), quoted);
  entry.hidden = exported;
  quote.hidden = !exported;

  // the sliders --------------------------------------------------------------------------------------------------------

  const controls = make("div", "lk-steer-controls");
  controls.setAttribute("role", "group");
  controls.setAttribute("aria-label", "How strongly each feature is added");
  // room for the longest that is ever said, so that no slider moves under the pointer
  controls.style.setProperty("--lk-times", `${((unit ? unit.length + 2 : 0) + "−0.125 × its highest".length) * 0.85}ch`);
  const rows = features.map((feature, i) => {
    const element = make("div", "lk-steer-row");
    const spoken = spokenLabel(feature.label, 120);
    const name = make("label", "lk-steer-name");
    name.dir = "auto";
    plain(name, feature.label);
    const key = make("span", "lk-steer-muted lk-steer-key", feature.key === feature.label ? "" : feature.key);
    const heading = make("div", "lk-steer-heading");
    heading.append(name, " ", key);

    const track = make("div", "lk-steer-track");
    const slider = make("input", "lk-steer-slider");
    Object.assign(slider, { type: "range", min: -feature.steps, max: feature.steps, step: 1, id: `${prefix}-s${i}` });
    name.htmlFor = slider.id;
    slider.setAttribute("aria-label", spoken); // what can't be seen in the label has a name too
    const ends = make("div", "lk-steer-ends");
    ends.setAttribute("aria-hidden", "true");
    ends.append(...[-feature.high, 0, feature.high].map((value) => make("span", "", strengthWords(value))));
    track.append(slider, ends);

    const exact = make("input", "lk-steer-exact");
    Object.assign(exact, { type: "number", step: "any", min: -feature.high, max: feature.high, autocomplete: "off" });
    exact.setAttribute("aria-label", `${spoken}: exact strength`);
    const times = make("span", "lk-steer-muted lk-steer-times");
    const back = button("Back to 0", `Back to 0: ${spoken}`, () => {
      setStrength(i, 0);
      slider.focus({ preventScroll: true }); // the button has nothing left to do
    });
    back.classList.add("lk-steer-back");
    const hint = make("p", "lk-steer-hint");
    hint.id = `${prefix}-h${i}`;
    hint.setAttribute("role", "alert");
    hint.hidden = true;
    const numbers = make("div", "lk-steer-numbers");
    numbers.append(exact, times);
    element.append(heading, track, numbers, back, hint);

    slider.addEventListener("input", () => setStrength(i, strengthAt(Number(slider.value), feature)));
    exact.addEventListener("change", () => {
      const value = exact.value === "" ? NaN : Number(exact.value);
      const good = Math.abs(value) <= feature.high;
      hint.hidden = good;
      setText(hint, good ? "" : `Give a number from ${strengthWords(-feature.high)} to ${strengthWords(feature.high)}.`);
      exact.setAttribute("aria-invalid", String(!good));
      if (good) exact.removeAttribute("aria-describedby");
      else exact.setAttribute("aria-describedby", hint.id);
      if (good) setStrength(i, value);
    });
    controls.append(element);
    return { feature, slider, exact, times, back, hint };
  });

  function setStrength(i, value) {
    const { exact, hint } = rows[i];
    hint.hidden = true;
    exact.setAttribute("aria-invalid", "false");
    exact.removeAttribute("aria-describedby");
    exact.value = String(value);
    setStrengths(model.get("values").map((each, k) => (k === i ? value : each)));
  }

  function setStrengths(values) {
    if (String(values) === String(model.get("values"))) return;
    ask(() => {
      model.set("values", values);
      model.save_changes();
    });
  }

  const allBack = button("All back to 0", "", () => {
    setStrengths(features.map(() => 0));
    rows[0].slider.focus({ preventScroll: true });
  });
  const stop = button("Stop", "", () => ask(() => model.send({ type: isBusy() ? "stop" : "again" })));
  const status = make("span", "lk-steer-status");
  const clock = make("span", "lk-steer-muted");
  const bar = make("div", "lk-steer-bar");
  bar.append(allBack, stop, status, clock);
  const spoken = make("div", "lk-spoken");
  spoken.setAttribute("role", "status");

  const absent = make("p", "lk-steer-muted lk-steer-absent", "The sliders need the notebook that wrote the texts; this file shows them as they were.");
  controls.hidden = bar.hidden = exported;
  absent.hidden = !exported;

  // the texts ----------------------------------------------------------------------------------------------------------

  const parted = make("p", "lk-steer-parted");
  const panes = make("div", "lk-steer-panes");
  const sides = ["unsteered", "steered"].map((name) => {
    const element = make("section", `lk-steer-pane lk-steer-${name}`);
    const title = make("h2", "", name === "steered" ? "Steered" : "Unsteered");
    title.id = `${prefix}-${name}`;
    element.setAttribute("aria-labelledby", title.id);
    const of = make("p", "lk-steer-of");
    const text = make("div", "lk-steer-text");
    text.dir = "auto";
    const empty = make("p", "lk-steer-muted lk-steer-empty");
    const note = make("p", "lk-steer-note");
    const loss = make("div", "lk-steer-loss");
    const said = make("p", "lk-steer-said");
    const track = make("div", "lk-steer-meter");
    track.setAttribute("aria-hidden", "true"); // the numbers are written out above
    const fill = make("span", "lk-steer-fill");
    const mark = make("span", "lk-steer-mark");
    track.append(fill, mark);
    const ends = make("div", "lk-steer-ends");
    ends.setAttribute("aria-hidden", "true");
    const end = make("span");
    ends.append(make("span", "", "0"), end);
    loss.append(said, track, ends);
    element.append(title, of, text, empty, note, loss);
    panes.append(element);
    return { name, element, of, text, empty, note, loss, said, fill, mark, end, drawn: "" };
  });
  const key = make("p", "lk-steer-muted lk-steer-foot");
  key.append(
    "Mean loss: nats per token that the unsteered model gives to each text; more is less plausible to it. ",
    make("span", "lk-steer-mark lk-steer-sample"),
    " the unsteered text's.",
  );
  root.append(entry, quote, controls, absent, bar, spoken, parted, panes, key);
  el.append(root);

  function drawTokens(side, tokens, from) {
    const drawn = JSON.stringify([tokens, from]);
    if (drawn === side.drawn) return; // what is selected stays so
    side.drawn = drawn;
    side.text.replaceChildren(
      ...tokens.map((token, i) => {
        const piece = make("span", from !== null && i >= from ? "lk-steer-token lk-steer-other" : "lk-steer-token");
        appendRuns(piece, visibleRuns(token, { limit: 40 }));
        return piece;
      }),
    );
  }

  function drawSide(side, shown) {
    const facts = shown[side.name];
    const busy = isBusy();
    side.element.classList.toggle("lk-steer-old", facts?.old ?? false);
    drawTokens(side, facts?.tokens ?? [], shown.parted);
    side.text.hidden = !facts || facts.tokens.length === 0;

    side.of.hidden = !facts;
    side.of.replaceChildren();
    if (side.name === "unsteered") side.of.append(make("span", "lk-steer-muted", features.length > 1 ? "all strengths 0" : "strength 0"));
    (facts?.of ?? []).forEach(([name, value, typical], i) => {
      const part = make("span", "lk-steer-part");
      part.append(plain(make("bdi"), name), " ", make("strong", "", withUnit(strengthWords(value))));
      if (exported) part.append(make("span", "lk-steer-muted", ` (${timesWords(value, typical)})`));
      side.of.append(i > 0 ? ", " : "", part);
    });
    if (facts?.old) side.of.append(make("span", "lk-steer-muted", " · from before"));

    const emptyWords = () => {
      if (facts && facts.more > 0) return `and ${thousands(facts.more)} tokens more, which are not drawn`;
      if (facts && facts.tokens.length > 0) {
        if (exported && facts.state === "writing") return "When this file was written, the text was not finished.";
        return facts.state === "stopped" ? "Stopped here." : "";
      }
      if (facts && facts.state === "done") return "The model ended its text at once.";
      if (facts) return busy ? "No token yet." : "Stopped before the first token.";
      if (side.name === "steered" && model.get("values").every((value) => value === 0)) {
        return exported ? "All strengths were 0: there is only the unsteered text." : "All strengths are 0: move a slider, and the steered text comes here.";
      }
      return busy ? "Not begun yet." : "Nothing was written.";
    };
    setText(side.empty, emptyWords());
    side.empty.hidden = side.empty.textContent === "";

    setText(side.note, facts?.note ?? "");
    side.note.hidden = !facts?.note;

    side.loss.hidden = !facts;
    if (!facts) return;
    const nats = facts.loss === "" ? "not known yet" : facts.loss;
    side.said.replaceChildren("Mean loss ", make("strong", "", nats), /\d/.test(nats) ? " nats per token" : "");
    if (facts.loss === "" && facts.state !== "writing") side.said.replaceChildren("Mean loss not known");
    if (facts.gap) side.said.append(`, ${facts.gap}`);
    side.fill.style.width = `${FULL_BAR * (facts.share ?? 0)}%`;
    const base = shown.unsteered?.share ?? null;
    side.mark.hidden = base === null;
    side.mark.style.insetInlineStart = `${FULL_BAR * (base ?? 0)}%`;
    setText(side.end, String(shown.scale));
  }

  function tokenName(token) {
    const element = make("bdi", "lk-steer-quoted");
    element.textContent = token === undefined ? "the end" : `“${visibleLabel(token, 40)}”`;
    return element;
  }

  function drawParted(shown) {
    const { unsteered, steered, parted: from } = shown;
    parted.replaceChildren();
    // its line is always there, so that nothing below moves
    if (!unsteered || !steered) return;
    if (from === null) {
      const n = Math.min(unsteered.count, steered.count);
      const ended = unsteered.state !== "writing" && steered.state !== "writing";
      if (n > 0) parted.append(ended && unsteered.count === steered.count ? "The two texts are the same." : `The same so far: ${thousands(n)} token${n === 1 ? "" : "s"}.`);
      return;
    }
    const where = from === 0 ? "They part at the first token" : `They part after ${thousands(from)} token${from === 1 ? "" : "s"}`;
    if (from >= unsteered.tokens.length && from >= steered.tokens.length) {
      parted.append(`${where}.`);
      return;
    }
    parted.append(
      make("strong", "", where),
      " (underlined from there): ",
      tokenName(unsteered.tokens[from]),
      " unsteered, ",
      tokenName(steered.tokens[from]),
      " steered.",
    );
  }

  function drawShown() {
    const shown = model.get("shown");
    quoted.replaceChildren();
    if (exported) plain(quoted, shown.prompt);
    for (const side of sides) drawSide(side, shown);
    drawParted(shown);
    key.hidden = !shown.unsteered && !shown.steered;
  }

  function drawValues() {
    const values = model.get("values");
    rows.forEach(({ feature, slider, exact, times, back }, i) => {
      const value = values[i];
      const position = Math.round((value / feature.high) * feature.steps);
      if (Number(slider.value) !== position) slider.value = String(position);
      if (exact.value === "" || Number(exact.value) !== value) exact.value = String(value);
      // drawn from the middle: how far from 0, and to which side
      const at = FULL_BAR * (0.5 + value / feature.high / 2);
      slider.style.setProperty("--lk-from", `${Math.min(at, FULL_BAR / 2)}%`);
      slider.style.setProperty("--lk-to", `${Math.max(at, FULL_BAR / 2)}%`);
      slider.setAttribute("aria-valuetext", `${withUnit(strengthWords(value))}, ${timesWords(value, feature.typical)}`);
      setText(times, [unit, timesWords(value, feature.typical)].filter(Boolean).join(", "));
      back.disabled = value === 0;
    });
    allBack.disabled = values.every((value) => value === 0);
  }

  // how far it is ------------------------------------------------------------------------------------------------------

  function isBusy() {
    const { state } = model.get("status");
    return !exported && (state === "waiting" || state === "running");
  }

  let ticking = null;
  let stopped = false;
  let wasBusy = false;
  let heard = "";
  function tick(began) {
    clearInterval(ticking);
    clock.textContent = "";
    if (began === null) return;
    ticking = setInterval(() => {
      clock.textContent = `${Math.floor((Date.now() - began) / 1000)} s`;
    }, 1000);
  }

  function drawStatus() {
    if (exported) return;
    const { state = "waiting", message = "" } = model.get("status");
    const busy = isBusy();
    const again = state === "stopped" || state === "failed";
    setText(status, message);
    status.classList.toggle("lk-steer-failed", state === "failed");
    setText(stop, again ? "Write again" : "Stop");
    stop.disabled = !busy && !again;
    panes.setAttribute("aria-busy", String(busy));
    if (busy !== wasBusy) tick(busy ? Date.now() : null);
    wasBusy = busy;
    // a screen reader hears what begins and how it ends, not each token
    const kind = state === "running" ? message.split("…")[0] : message;
    if (state !== "waiting" && kind !== heard) {
      heard = kind;
      const note = model.get("shown").steered?.note ?? "";
      spoken.textContent = spokenLabel([kind, state === "done" ? note : ""].filter(Boolean).join(". "), 600);
    }
  }

  const { ask, answered } = patience(() => {
    setText(status, NO_ANSWER);
    status.classList.add("lk-steer-failed");
    spoken.textContent = NO_ANSWER;
  });

  let typing = null;
  function commit() {
    clearTimeout(typing);
    typing = null;
    if (typed.value === model.get("prompt")) return;
    ask(() => {
      model.set("prompt", typed.value);
      model.save_changes();
    });
  }
  typed.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(commit, TYPING_MS);
  });
  typed.addEventListener("change", commit);
  function drawPrompt() {
    // what is being typed is newer than anything the kernel sends
    if (typing === null && typed.value !== model.get("prompt")) typed.value = model.get("prompt");
  }

  // One message carries both the texts and how far they are.
  let waiting = false;
  function redraw() {
    if (waiting) return;
    waiting = true;
    queueMicrotask(() => {
      waiting = false;
      if (stopped) return;
      drawShown();
      drawStatus();
    });
  }

  const events = [
    ["change:values", drawValues],
    ["change:values", redraw],
    ["change:prompt", drawPrompt],
    ["change:status", answered],
    ["change:status", redraw],
    ["change:shown", redraw],
  ];
  drawPrompt();
  drawValues();
  drawShown();
  drawStatus();
  for (const [event, callback] of events) model.on(event, callback);
  return () => {
    stopped = true;
    clearInterval(ticking);
    clearTimeout(typing);
    answered();
    for (const [event, callback] of events) model.off(event, callback);
  };
}

export default { render };
