// The mask view: counts, an overview of all samples, and one of them token by token.

import { floatsOf } from "../kit/codes.js";
import { columns } from "../kit/columns.js";
import { box, counted, make, setText, spokenLabel, thousands, visibleLabel } from "../kit/common.js";
import { button } from "../kit/controls.js";
import { statusLine } from "../kit/field.js";
import { legend } from "../kit/legend.js";
import { mount } from "../kit/mount.js";
import { nameOf, passageOf, quoted, tokenList } from "../kit/token_list.js";
import { ENDING, LEARNT, NO_LOSS, barOf, lookWords, lossWords, placeOf, readBars, rowFrom } from "./logic.js";

/** @typedef {import("../kit/mount.js").Mounted} Mounted */
/** @typedef {import("./logic.js").Row} Row */

/** Text in a frame, on one line, with what can't be seen written out. @param {string} text */
const inQuotes = (text) => make("bdi", "lk-mask-quoted", visibleLabel(text, 400));

/** What is true of all the data. @param {any} facts */
function summary(facts) {
  const { model, samples, rows, room, tokens, trained, ending, frame, problems, more, duplicates, kind } = facts;
  const strong = (/** @type {string} */ text) => make("strong", "", text);
  const line = make("p", "lk-mask-facts");
  line.append(strong(lossWords(trained, tokens)), ` in ${counted(samples, "sample")} for `, make("bdi", "", model));
  if (rows !== null) line.append(`, packed into ${counted(rows, "row")} of ${thousands(room)} tokens: no sample sees another`);
  if (duplicates > 0) line.append(`; ${counted(duplicates, "sample")} stand${duplicates === 1 ? "s" : ""} in the data before`);
  const wrapped = make("p", "lk-muted");
  if (frame !== null) wrapped.append("The chat template writes ", inQuotes(frame[0]), " before a prompt and ", inQuotes(frame[1]), " after it. ");
  else if (kind === "prompt") wrapped.append("Prompts are taken as they are: this model has no chat template. ");
  if (kind === "text") wrapped.append("Plain text carries loss everywhere but at its first token, which follows from nothing. ");
  if (ending.length > 0) wrapped.append("What ends: ", ...ending.flatMap((/** @type {string} */ name, /** @type {number} */ i) => [...(i > 0 ? [", "] : []), inQuotes(name)]), ".");
  const list = make("ul", "lk-mask-problems");
  list.hidden = problems.length === 0;
  for (const problem of problems) list.append(make("li", "lk-failed", `Not to be trained on: ${problem}`));
  if (more > 0) list.append(make("li", "lk-failed", `And ${counted(more, "problem")} more.`));
  return box("", line, wrapped, list);
}

/** @param {{model: import("../kit/ask.js").Model, el: HTMLElement}} widget */
function render(widget) {
  const view = mount(widget, "lk-mask");
  const { root, exported } = view;
  const facts = view.get("facts");
  const packed = facts.rows !== null;
  const unit = packed ? "row" : "sample";
  const count = packed ? facts.rows : facts.samples;
  const bars = readBars(floatsOf(view.get("bars")));
  const held = /** @type {Row[]} */ (view.get("held"));
  const shown = () => /** @type {Row} */ ((exported && held.find(({ row }) => row === view.get("row"))) || view.get("shown"));
  const line = statusLine();

  // which one
  const number = make("input", "lk-mask-number");
  Object.assign(number, { type: "number", min: 0, max: count - 1, step: 1, id: view.id("row"), autocomplete: "off" });
  const label = make("label", "", packed ? "Row" : "Sample");
  label.htmlFor = number.id;
  const back = button("‹", `The ${unit} before`, () => go(next(-1)));
  const on = button("›", `The next ${unit}`, () => go(next(1)));
  const pair = box("lk-pair", label, number, make("span", "lk-muted", ` of ${thousands(count)}, from 0`));
  const about = make("p", "lk-mask-about");
  const largest = Math.max(...bars.map(({ tokens }) => tokens), 1);
  const overview = columns({
    label: `All ${unit}s: tokens, and those with loss; arrow keys move, Enter opens`,
    id: view.id("bar"),
    className: "lk-mask-overview",
    actions: {
      point: (i) => setText(hint, i === null ? "" : barWords(i)),
      choose: (i) => go(exported ? nearest(bars[i].row) : bars[i].row),
      leave: () => setText(hint, ""),
    },
  });
  const hint = make("p", "lk-muted lk-small lk-mask-hint");
  const list = tokenList({
    label: "The tokens: arrow keys move, Escape lets go",
    id: view.id("t"),
    className: "lk-mask-text lk-tl-scrolled",
    actions: {
      point,
      choose: (token) => point(token, true),
      leave() {
        const there = at !== null;
        point(null, true);
        return there;
      },
      say: (token) => {
        const place = placeOf(shown(), token);
        return place ? `${spokenLabel(nameOf(passages[shown().samples.indexOf(place.sample)], place.position), 40)}, ${lookWords(place.sample.looks[place.position])}` : "";
      },
    },
  });
  const foot = make("p", "lk-foot");
  const word = (/** @type {string} */ name) => {
    const sample = make("span", `lk-tl-token ${name}`);
    sample.append(make("span", "lk-tl-word", "token"));
    return sample;
  };
  const key = legend([
    { sample: word("lk-mask-learnt"), text: "carries loss: the model learns to write it" },
    { sample: word("lk-mask-learnt lk-mask-ending"), text: "and learns to stop here" },
    { sample: word("lk-mask-read"), text: "no loss: only read" },
  ]);
  key.classList.add("lk-small");
  const controls = box("lk-controls", pair, back, on, about);
  const several = count > 1;
  pair.hidden = back.hidden = on.hidden = overview.list.hidden = hint.hidden = !several;
  root.append(summary(facts), overview.list, hint, controls, line.element, key, list.element, foot);
  line.element.hidden = exported;
  /** @type {import("../kit/token_list.js").Passage[]} */
  let passages = [];
  /** @type {number | null} */
  let at = null;

  /** @param {number} i */
  function barWords(i) {
    const { row, tokens, trained } = bars[i];
    const end = i + 1 < bars.length ? bars[i + 1].row : count;
    const mean = (/** @type {number} */ value) => (end - row > 1 ? value.toFixed(1) : String(value));
    return `${unit} ${thousands(row)}${end - row > 1 ? ` to ${thousands(end - 1)}, on average` : ""}: ${mean(tokens)} tokens, ${mean(trained)} of them with loss`;
  }
  /** In a file: the row it holds that is nearest. @param {number} row */
  const nearest = (row) => held.reduce((best, each) => (Math.abs(each.row - row) < Math.abs(best - row) ? each.row : best), held[0].row);
  /** @param {number} step @returns {number | null} */
  function next(step) {
    const now = view.get("row");
    if (!exported) return now + step >= 0 && now + step < count ? now + step : null;
    const place = held.findIndex(({ row }) => row === now) + step;
    return held[place]?.row ?? null;
  }
  /** @param {number | null} row */
  function go(row) {
    if (row === null || row === view.get("row")) return;
    if (exported) view.set("row", row);
    else line.hear(view.wire.tell({ row }));
  }
  number.addEventListener("change", () => {
    const row = rowFrom(number.value, count);
    const there = row === null ? null : exported ? nearest(row) : row;
    if (there === null) line.say(`Give a whole number from 0 to ${thousands(count - 1)}.`);
    else line.say("");
    go(there);
    number.value = String(view.get("row"));
  });

  /** @type {(token: number | null, byKey: boolean) => void} */
  function point(token, byKey) {
    if (token === null && !byKey) return;
    at = token;
    list.focus(token, { follow: byKey });
    const place = token === null ? null : placeOf(shown(), token);
    if (place === null) {
      setText(foot, "Point at a token for its id and whether it is learnt.");
      return;
    }
    const { sample, position } = place;
    const passage = passages[shown().samples.indexOf(sample)];
    foot.replaceChildren(quoted(nameOf(passage, position)), ` · token ${thousands(position)} of sample ${thousands(sample.sample)} · id ${sample.ids[position]} · `, make("strong", "", lookWords(sample.looks[position])));
  }

  function draw() {
    const row = shown();
    number.value = String(row.row);
    back.disabled = next(-1) === null;
    on.disabled = next(1) === null;
    const [tokens, trained] = ["tokens", "trained"].map((name) => row.samples.reduce((sum, each) => sum + /** @type {any} */ (each)[name], 0));
    const ends = row.samples.every((each) => each.ends) || facts.kind === "text";
    const more = row.more > 0 ? `; ${counted(row.more, "token")} more are not drawn` : "";
    about.replaceChildren(lossWords(trained, tokens), `${packed ? ` of ${thousands(facts.room)} there is room for` : ""}${more}`, ends ? "" : "; no token ends its answer");
    passages = row.samples.map((sample) => {
      const passage = passageOf(sample.pieces);
      if (row.samples.length === 1) return passage;
      const words = `sample ${thousands(sample.sample)}: ${lossWords(sample.trained, sample.tokens)}`;
      return { ...passage, head: make("p", "lk-tl-passage-head lk-muted lk-small", words), title: words };
    });
    list.fill(passages);
    const looks = row.samples.flatMap((sample) => sample.looks);
    list.mark("lk-mask-read", (i) => looks[i] === NO_LOSS);
    list.mark("lk-mask-learnt", (i) => looks[i] >= LEARNT);
    list.mark("lk-mask-ending", (i) => looks[i] === ENDING);
    overview.mark((i) => i === barOf(bars, row.row));
    point(null, true);
  }
  overview.draw({
    count: bars.length,
    height: (i) => bars[i].tokens / largest,
    dress: (fill, i) => fill.style.setProperty("--lk-mask-share", `${(100 * bars[i].trained) / Math.max(bars[i].tokens, 1)}%`),
    say: barWords,
  });
  draw();
  view.on(["row", "shown"], draw);
  view.atEnd(line.clear);
  return view.unmount;
}

export default { render };
