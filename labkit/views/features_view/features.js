// The features view as a widget: the box to type in, the search, the text with its tokens' features, the dashboard.

import { decimal, make, makeRoot, percent, spokenLabel, thousands, visibleLabel } from "../kit/common.js";
import { button } from "../kit/controls.js";
import { entryField, statusLine } from "../kit/entry.js";
import { nameOf, quoted } from "../kit/running_text.js";
import { NO_FEATURE, activation, decodeFeatures, depth, floats } from "./logic.js";
import { FAMILY, shadedText } from "./text.js";
import { dashboardPane, featureRow } from "./dashboard.js";

const FEW = 10; // features of a token, before all of them are asked for
const WIDE = 720; // CSS pixels, from where the features of a token stand beside the text

function render({ model, el }) {
  const exported = Boolean(model.get("exported"));
  const prefix = `lk-${Math.random().toString(36).slice(2, 10)}`;
  const root = makeRoot("lk-features");
  const stored = exported ? model.get("dashboards") : {};

  let facts = model.get("facts");
  let text = null; // decoded, or null for a dashboard alone
  let shade = new Float32Array(0);
  let known = null; // the open feature's dashboard
  let here = null; // the token whose features are listed
  let unfolded = false;

  const set = (name, value) => {
    if (model.get(name) === value) return;
    model.set(name, value);
    model.save_changes();
  };
  const feature = () => model.get("feature");

  const context = {
    /** Without a text to shade and without a way to its dashboard there is nothing to open. */
    openable: (index) => facts.text || (exported ? Object.hasOwn(stored, String(index)) : facts.can_look_up),
    open(index) {
      if (index === feature()) return;
      if (!exported && facts.can_look_up) looking.expect();
      set("feature", index);
    },
  };

  // ----------------------------------------------------------------------------------------------------- the elements

  const head = make("p", "lk-fv-head");
  const typed = entryField({
    family: FAMILY,
    id: `${prefix}-typed`,
    title: "Your text",
    hint: "Type a text and see which features are at work on its tokens",
    multiline: true,
    busyText: "computing the features …",
    send: (value) => set("typed", value),
  });
  const search = entryField({
    family: FAMILY,
    id: `${prefix}-search`,
    title: "Search the features",
    hint: "Words that say what a feature may stand for",
    multiline: false,
    busyText: "searching …",
    send: (value) => set("asked", value),
  });
  const hits = make("ol", "lk-fv-hits");
  search.box.append(hits);
  const entries = make("div", "lk-fv-entries");
  entries.append(typed.box, search.box);

  // A feature by its number. Its own message: the kernel's answer to another must not wipe it.
  const byNumber = make("form", "lk-fv-number");
  const numberLabel = make("label", "", "Feature");
  const numberField = make("input");
  numberField.type = "number";
  numberField.min = "0";
  numberField.max = String(facts.features - 1);
  numberField.step = "1";
  numberField.id = `${prefix}-number`;
  numberLabel.htmlFor = numberField.id;
  const numberGo = button("Open", "Open the feature of this number", () => {});
  numberGo.type = "submit";
  const numberSaid = make("span", "lk-fv-muted");
  numberSaid.setAttribute("role", "status");
  byNumber.noValidate = true; // the browser's bubble covers the text and says less
  byNumber.append(numberLabel, numberField, numberGo, numberSaid);
  byNumber.addEventListener("submit", (event) => {
    event.preventDefault();
    const index = numberField.value.trim() === "" ? NaN : Number(numberField.value);
    const good = Number.isInteger(index) && index >= 0 && index < facts.features;
    numberSaid.textContent = good ? "" : `There are features 0 to ${thousands(facts.features - 1)}.`;
    if (good) context.open(index);
  });

  const legend = make("div", "lk-fv-legend");
  const words = shadedText({
    label: "The text: arrow keys move by token and line, Enter holds, Escape lets go",
    prefix: `${prefix}-t`,
    className: "lk-fv-text",
    actions: {
      point(token, follow) {
        if (!follow && model.get("held") >= 0) return;
        if (follow && model.get("held") >= 0) set("held", -1);
        show(token, follow);
      },
      choose(token) {
        const held = model.get("held") === token ? -1 : token;
        show(token);
        set("held", held);
      },
      leave() {
        const there = here !== null;
        set("held", -1);
        show(null);
        return there;
      },
      say: (token) => said(token),
    },
  });
  const foot = make("p", "lk-fv-foot");
  const left = make("div", "lk-fv-left");
  left.append(words.list, foot);
  const right = make("section", "lk-fv-right");
  const listTitle = make("h2", "lk-fv-list-title");
  const listNote = make("p", "lk-fv-muted lk-fv-small");
  const list = make("ol", "lk-fv-list lk-fv-of-token");
  const more = button("", "", () => {
    unfolded = !unfolded;
    drawList();
  });
  const back = button("The whole text again", "", () => {
    set("held", -1);
    show(null);
  });
  const buttons = make("div", "lk-fv-buttons");
  buttons.append(more, back);
  right.append(listTitle, listNote, list, buttons);
  const body = make("div", "lk-fv-top");
  body.append(left, right);

  const looking = statusLine(FAMILY);
  const pane = dashboardPane({ prefix: `${prefix}-d`, context });
  const notes = make("p", "lk-fv-muted lk-fv-small lk-fv-notes");
  root.append(head, entries, byNumber, legend, body, looking.element, pane.element, notes);
  el.append(root);

  // ---------------------------------------------------------------------------------------------------------- drawing

  function drawHead() {
    const of = facts.model ? ` of ${visibleLabel(facts.model, 80)}` : "";
    const tokens = facts.text ? ` · ${thousands(facts.tokens)} token${facts.tokens === 1 ? "" : "s"}` : "";
    head.replaceChildren(
      make("strong", "", visibleLabel(facts.sae, 80)),
      ` · ${thousands(facts.features)} features of what enters layer ${facts.layer}${of}${tokens}`,
    );
    typed.box.hidden = exported || !facts.can_take;
    search.box.hidden = exported || !facts.can_search;
    entries.hidden = typed.box.hidden && search.box.hidden;
    legend.hidden = body.hidden = !facts.text;
    byNumber.hidden = !facts.text && (exported || !facts.can_look_up);
    const said = [];
    if (facts.text && facts.tokens > facts.drawn) {
      said.push(`The first ${thousands(facts.drawn)} of ${thousands(facts.tokens)} tokens are drawn.`);
    }
    if (facts.text && facts.most > facts.n) {
      said.push(`The ${thousands(facts.n)} most active features of each token are listed; one token has ${thousands(facts.most)}.`);
    }
    if (exported && facts.can_look_up) {
      const count = Object.values(stored).filter((each) => !each.failed).length;
      said.push(`This file holds the dashboards of ${count} feature${count === 1 ? "" : "s"}; those of the others need the notebook's kernel.`);
    }
    notes.textContent = said.join(" ");
    notes.hidden = said.length === 0;
  }

  /** The open feature's activation on every token; from the kernel's own where lists leave the weaker ones out. */
  function heights() {
    if (feature() === NO_FEATURE) return new Float32Array(text.n);
    return shade.length === text.n && model.get("opened").feature === feature() ? shade : text.of(feature());
  }

  const complete = () => facts.most <= facts.n || (shade.length === text.n && model.get("opened").feature === feature());

  function scale(values) {
    const top = values.reduce((most, value) => (value > most ? value : most), 0);
    if (known?.largest > 0) {
      return { top: known.largest, where: `its highest activation in the corpus${top > known.largest ? ", and above" : ""}` };
    }
    return { top, where: "its highest activation in this text" };
  }

  function drawShade() {
    if (text === null) return;
    const values = heights();
    const { top, where } = scale(values);
    words.paint(values, top);
    legend.replaceChildren();
    const line = make("p");
    if (facts.nothing) line.append(make("strong", "", facts.nothing));
    else {
      const at = values.reduce((count, value) => count + (value > 0 ? 1 : 0), 0);
      line.append("Shade: how active ", make("strong", "lk-fv-name", `feature ${feature()}`), " is on each token");
      if (top > 0) {
        const ramp = make("span", "lk-fv-ramp");
        ramp.style.setProperty("--lk-fv-deep", `${depth(1, 1)}%`);
        ramp.setAttribute("aria-hidden", "true");
        line.append(", from 0 ", ramp, ` to ${activation(top)}, ${where}. `);
      } else line.append(". ");
      line.append(at > 0 ? `Underlined: at work there, on ${thousands(at)} token${at === 1 ? "" : "s"}.` : "It is at work on no token of this text.");
    }
    legend.append(line);
    if (text.missing.size > 0) {
      const count = text.missing.size;
      const dotted = make("p");
      dotted.append(make("span", "lk-fv-missing-sample", "dotted"), `: features are not defined, at ${thousands(count)} token${count === 1 ? "" : "s"}.`);
      legend.append(dotted);
    }
  }

  /** What is known of the open feature on a token, in a few words. */
  function reading(token) {
    if (text.missing.has(token)) return text.missing.get(token);
    if (feature() === NO_FEATURE) return "no feature is at work here";
    const value = heights()[token];
    if (value > 0) return `feature ${feature()} at ${decimal(value, 4)}`;
    if (!complete() && text.full(token)) return `feature ${feature()} is not among the ${facts.n} most active here`;
    return `feature ${feature()} is not at work here`;
  }

  function said(token) {
    const [best] = text.top(token);
    const most = best ? `; most active: feature ${best.feature} at ${activation(best.value)}` : "";
    const held = model.get("held") === token ? "; held" : "";
    return `${spokenLabel(nameOf(text, token), 40)}, token ${token}: ${reading(token)}${most}${held}`;
  }

  function drawFoot() {
    if (here === null) {
      foot.textContent = "Point at a token, or move to it with the arrow keys, for its features; a click holds it.";
      return;
    }
    foot.replaceChildren(quoted(nameOf(text, here), FAMILY), ` (token ${here}): ${reading(here)}`);
    if (!text.missing.has(here) && Number.isFinite(text.left[here])) {
      foot.append(` · its features leave over ${percent(text.left[here])} of its squared distance from the mean`);
    }
  }

  function drawList() {
    back.hidden = here === null;
    list.classList.toggle("lk-fv-unnoted", here !== null);
    listNote.textContent = "";
    list.replaceChildren();
    more.hidden = true;
    if (here === null) {
      listTitle.replaceChildren("The text’s strongest features");
      listNote.textContent = facts.nothing || "Each at the token where it is most active.";
      const most = facts.strongest[0]?.[1] ?? 1;
      facts.strongest.forEach(([index, value, token]) => {
        const on = token < text.n ? visibleLabel(nameOf(text, token).replace(/^ (?=.)/, ""), 16) : `token ${token}`;
        const row = featureRow({ feature: index, share: value / most, value: activation(value), exact: decimal(value, 6), context });
        const where = make("bdi", "lk-fv-row-note", on);
        row.firstElementChild?.append(" ", where);
        list.append(row);
      });
    } else if (text.missing.has(here)) {
      listTitle.replaceChildren("Features on ", quoted(nameOf(text, here), FAMILY));
      listNote.textContent = text.missing.get(here);
    } else {
      const top = text.top(here);
      listTitle.replaceChildren("Features on ", quoted(nameOf(text, here), FAMILY), " ", make("span", "lk-fv-muted", `token ${here}`));
      if (top.length === 0) listNote.textContent = "No feature is at work on this token.";
      else listNote.textContent = `${thousands(top.length)}${text.full(here) ? " or more" : ""} at work, the most active first.`;
      more.hidden = top.length <= FEW;
      more.textContent = unfolded ? `only the ${FEW} most active` : `all ${thousands(top.length)}`;
      more.setAttribute("aria-expanded", String(unfolded));
      for (const { feature: index, value } of unfolded ? top : top.slice(0, FEW)) {
        list.append(featureRow({ feature: index, share: value / top[0].value, value: activation(value), exact: decimal(value, 6), context }));
      }
    }
    markOpen();
  }

  function markOpen() {
    for (const row of /** @type {NodeListOf<HTMLElement>} */ (root.querySelectorAll("button.lk-fv-row"))) {
      const on = Number(row.dataset.feature) === feature();
      row.classList.toggle("lk-fv-open", on);
      if (on) row.setAttribute("aria-current", "true");
      else row.removeAttribute("aria-current");
    }
  }

  /** List a token's features; null: the whole text's. */
  function show(token, follow = false) {
    if (token !== here) unfolded = false;
    here = token;
    words.focus(token, token !== null && model.get("held") === token, follow);
    drawFoot();
    drawList();
  }

  function drawDashboard() {
    const index = feature();
    const opened = model.get("opened");
    const given = exported ? stored[String(index)] : model.get("dashboard");
    const there = given && !given.failed && given.feature === index ? given : null;
    if (exported) {
      if (given?.failed) looking.draw({ state: "failed", message: given.failed }, "");
      else if (there || index === NO_FEATURE || (!facts.can_look_up && facts.text)) looking.say("");
      else looking.say(`The dashboard of feature ${index} is not in this file: it needs the notebook’s kernel.`);
    } else if (opened.feature === index) looking.draw(opened, `looking up feature ${index} …`);
    const shown = known;
    known = there;
    if (there) {
      if (shown !== there) pane.draw(there);
      pane.old(false);
    } else if (!exported && (looking.busy() || opened.feature !== index) && facts.can_look_up) {
      pane.old(true); // the one before stays, dimmed, until the next is there: nothing jumps
    } else pane.draw(null);
    if (document.activeElement !== numberField) numberField.value = index === NO_FEATURE ? "" : String(index);
    looking.element.hidden = !exported && !facts.can_look_up;
    drawShade();
    markOpen();
  }

  function drawHits() {
    hits.replaceChildren(
      ...model.get("hits").map(([index, why]) => {
        const item = make("li");
        const can = context.openable(index);
        const row = /** @type {any} */ (make(can ? "button" : "div", "lk-fv-row lk-fv-hit"));
        row.dataset.feature = String(index);
        if (can) {
          row.type = "button";
          row.addEventListener("click", () => context.open(index));
        }
        row.append(make("span", "lk-fv-row-name", `feature ${index}`), " ", make("bdi", "", why));
        item.append(row);
        return item;
      }),
    );
    hits.hidden = model.get("hits").length === 0;
    markOpen();
  }

  function readText() {
    facts = model.get("facts");
    text = facts.text ? decodeFeatures(facts, model.get("texts"), model.get("indices"), model.get("values"), model.get("unexplained")) : null;
    readShade();
    drawHead();
    if (text === null) return;
    words.fill([{ texts: text.texts, kinds: text.kinds, names: text.names, missing: text.missing }]);
    drawShade();
    const held = model.get("held");
    show(held >= 0 && held < text.n ? held : null);
  }

  function readShade() {
    const given = model.get("shade");
    shade = given && given.byteLength > 0 ? floats(given) : new Float32Array(0);
  }

  // -------------------------------------------------------------------------------------------------------- listening

  const events = [
    ["change:version", readText],
    ["change:feature", () => (drawDashboard(), text && drawFoot())],
    ["change:opened", () => (drawDashboard(), text && drawFoot())],
    ["change:dashboard", drawDashboard],
    ["change:shade", () => (readShade(), text && drawShade())],
    ["change:held", () => text && show(model.get("held") >= 0 ? model.get("held") : here)],
    ["change:typed", () => typed.show(model.get("typed"))],
    ["change:status", () => typed.draw(model.get("status"))],
    ["change:asked", () => search.show(model.get("asked"))],
    ["change:searching", () => search.draw(model.get("searching"))],
    ["change:hits", drawHits],
  ];

  const watcher = new ResizeObserver(() => root.classList.toggle("lk-fv-wide", root.clientWidth - 28 >= WIDE));
  readText();
  drawDashboard();
  drawHits();
  typed.show(model.get("typed"));
  search.show(model.get("asked"));
  if (!exported) {
    typed.draw(model.get("status"));
    search.draw(model.get("searching"));
  }
  root.classList.toggle("lk-fv-wide", root.clientWidth - 28 >= WIDE);
  watcher.observe(root);
  for (const [event, callback] of events) model.on(event, callback);
  return () => {
    for (const line of [typed.status, search.status, looking]) line.clear();
    watcher.disconnect();
    for (const [event, callback] of events) model.off(event, callback);
  };
}

export default { render };
