// The features view as a widget: what can be typed and searched for, the text with its features, the open one's dashboard.

import { button } from "../kit/controls.js";
import { box, counted, make, sayOrHide, thousands, visibleLabel } from "../kit/common.js";
import { entryField, statusLine } from "../kit/field.js";
import { mount } from "../kit/mount.js";
import { drawDashboard } from "./dashboard.js";
import { NO_FEATURE } from "./logic.js";
import { featureRow } from "./rows.js";
import { markOpen, textPane } from "./text_pane.js";

/** @typedef {import("../kit/mount.js").Mounted} Mounted */
/** @typedef {import("./dashboard.js").Dashboard} Dashboard */

/**
 * A feature by its number. What it says is its own: the kernel's answer to another must not wipe it.
 * @type {(view: Mounted, open: (feature: number) => void) => {element: HTMLFormElement, field: HTMLInputElement}}
 */
function byNumber(view, open) {
  const element = make("form", "lk-actions lk-fv-number");
  const label = make("label", "", "Feature");
  const field = make("input");
  const most = view.get("facts").features - 1;
  Object.assign(field, { type: "number", min: "0", max: String(most), step: "1", id: view.id("number") });
  label.htmlFor = field.id;
  const go = button("Open", "Open the feature of this number", () => {});
  go.type = "submit";
  const said = make("span", "lk-muted");
  said.setAttribute("role", "status");
  element.noValidate = true; // the browser's bubble covers the text and says less
  element.append(label, field, go, said);
  element.addEventListener("submit", (event) => {
    event.preventDefault();
    const index = field.value.trim() === "" ? NaN : Number(field.value);
    const good = Number.isInteger(index) && index >= 0 && index <= most;
    said.textContent = good ? "" : `There are features 0 to ${thousands(most)}.`;
    if (good) open(index);
  });
  return { element, field };
}

/** @param {{model: import("../kit/ask.js").Model, el: HTMLElement}} widget */
function render(widget) {
  const view = mount(widget, "lk-features lk-panes");
  const { exported, root } = view;
  /** @type {Record<string, Dashboard & {failed?: string}>} */
  const stored = exported ? view.get("dashboards") : {};
  const feature = () => /** @type {number} */ (view.get("feature"));
  /** @type {Dashboard | null} the dashboard on show */
  let known = null;

  const opener = {
    /** Without a text to shade and without a way to its dashboard there is nothing to open. @param {number} index */
    openable(index) {
      const facts = view.get("facts");
      return Boolean(facts.text || (exported ? Object.hasOwn(stored, String(index)) : facts.can_look_up));
    },
    open(/** @type {number} */ index) {
      if (index === feature()) return;
      if (exported || !view.get("facts").can_look_up) view.set("feature", index);
      else looking.hear(view.wire.tell({ feature: index }));
    },
  };

  const head = make("p", "lk-muted");
  const typed = entryField(view, {
    trait: "typed",
    status: "status",
    title: "Your text",
    hint: "Type a text and see which features are active on its tokens",
    busyText: "computing the features …",
    lines: 2,
  });
  const search = entryField(view, {
    trait: "asked",
    status: "searching",
    title: "Search the features",
    hint: "Words that say what a feature may stand for",
    busyText: "searching …",
  });
  const hits = make("ol", "lk-bars lk-fv-hits");
  search.element.append(hits);
  const entries = box("lk-fv-entries lk-split", typed.element, search.element);
  const number = byNumber(view, opener.open);
  const text = textPane(view, opener);
  const looking = statusLine();
  const dashboard = make("div", "lk-fv-dashboard");
  const notes = make("p", "lk-muted lk-small lk-fv-notes");
  root.append(head, entries, number.element, text.legend, text.element, looking.element, dashboard, notes);

  function drawHead() {
    const facts = view.get("facts");
    const of = facts.model ? ` of ${visibleLabel(facts.model, 80)}` : "";
    const tokens = facts.text ? ` · ${counted(facts.tokens, "token")}` : "";
    head.replaceChildren(
      make("strong", "", visibleLabel(facts.sae, 80)),
      ` · ${thousands(facts.features)} features of what enters layer ${facts.layer}${of}${tokens}`,
    );
    typed.element.hidden = exported || !facts.can_take;
    search.element.hidden = exported || !facts.can_search;
    entries.hidden = Boolean(typed.element.hidden && search.element.hidden);
    number.element.hidden = !facts.text && (exported || !facts.can_look_up);
    const said = [];
    if (facts.text && facts.tokens > facts.drawn) {
      said.push(`The first ${thousands(facts.drawn)} of ${thousands(facts.tokens)} tokens are drawn.`);
    }
    if (facts.text && facts.most > facts.n) {
      said.push(`The ${thousands(facts.n)} most active features of each token are listed; one token has ${thousands(facts.most)}.`);
    }
    if (exported && facts.can_look_up) {
      const count = Object.values(stored).filter((each) => !each.failed).length;
      said.push(`This file holds the dashboards of ${counted(count, "feature")}; those of the others need the notebook's kernel.`);
    }
    sayOrHide(notes, said.join(" "));
  }

  function drawOpened() {
    const [index, opened, facts] = [feature(), view.get("opened"), view.get("facts")];
    const given = exported ? stored[String(index)] : view.get("dashboard");
    const there = given && !given.failed && given.feature === index ? given : null;
    if (!exported) {
      if (opened.feature === index) looking.draw(opened, `looking up feature ${index} …`);
    } else if (given?.failed) looking.draw({ state: "failed", message: given.failed }, "");
    else if (there || index === NO_FEATURE || (!facts.can_look_up && facts.text)) looking.say("");
    else looking.say(`The dashboard of feature ${index} is not in this file: it needs the notebook’s kernel.`);
    // the one before stays, dimmed, until the next is there: nothing jumps
    const coming = !there && !exported && facts.can_look_up && (looking.busy() || opened.feature !== index);
    if (there && known !== there) dashboard.replaceChildren(...drawDashboard(there, view.id("d"), opener));
    else if (!there && !coming) dashboard.replaceChildren();
    dashboard.classList.toggle("lk-fv-old", coming);
    known = there;
    if (document.activeElement !== number.field) number.field.value = index === NO_FEATURE ? "" : String(index);
    looking.element.hidden = !exported && !facts.can_look_up;
    text.shade(known?.largest ?? null);
    text.foot();
    markOpen(view);
  }

  function drawHits() {
    const found = /** @type {[number, string][]} */ (view.get("hits"));
    hits.replaceChildren(...found.map(([index, why]) => featureRow(index, opener, { className: "lk-fv-hit", note: why })));
    hits.hidden = found.length === 0;
    markOpen(view);
  }

  function readText() {
    text.read();
    drawHead();
    drawOpened();
  }

  readText();
  drawHits();
  view.on("version", readText);
  for (const name of ["feature", "opened", "dashboard", "shade"]) view.on(name, drawOpened);
  view.on("hits", drawHits);
  view.atEnd(looking.clear);
  return view.unmount;
}

export default { render };
