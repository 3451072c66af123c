// The text, shaded by the open feature, and beside it the features of the token in focus or of the whole text.

import { button } from "../kit/controls.js";
import { floatsOf } from "../kit/codes.js";
import { box, counted, decimal, make, percent, spokenLabel, thousands, unread, visibleLabel } from "../kit/common.js";
import { legend } from "../kit/legend.js";
import { nameOf, passageOf, quoted } from "../kit/token_list.js";
import { NO_FEATURE, activation, decodeFeatures, depth } from "./logic.js";
import { featureRow } from "./rows.js";
import { shadedText } from "./shaded.js";

/** @typedef {import("../kit/mount.js").Mounted} Mounted */
/** @typedef {import("./rows.js").Opener} Opener */

const FEW = 10; // features of a token, before all of them are asked for
const NO_HEIGHTS = new Float32Array(0);

/**
 * Returns {legend, element, read(), shade(largest), foot()}: read() where the text is another; shade() where the open feature
 * is, with its highest activation in the corpus, or null; foot() where what is said of the token in focus changed.
 * @type {(view: Mounted, opener: Opener) => {legend: HTMLElement, element: HTMLElement, read: () => void,
 *   shade: (largest: number | null) => void, foot: () => void}}
 */
export function textPane(view, opener) {
  const state = {
    facts: view.get("facts"),
    /** @type {ReturnType<typeof decodeFeatures> | null} */
    text: null,
    passage: passageOf({ texts: [], continued: [], called: [] }),
    /** @type {number | null} the token whose features are listed */
    here: null,
    unfolded: false,
  };
  const held = () => /** @type {number} */ (view.get("held"));
  const open = () => /** @type {number} */ (view.get("feature"));
  const named = (/** @type {number} */ token) => nameOf(state.passage, token);

  const key = make("div", "lk-fv-legend");
  const list = shadedText({
    label: "The text: arrow keys move by token and line, Enter holds, Escape lets go",
    id: view.id("t"),
    className: "lk-fv-text lk-tl-scrolled",
    actions: {
      point(token, byKey) {
        if (token === null || token === state.here || (!byKey && held() >= 0)) return;
        if (byKey) view.set("held", NO_FEATURE);
        show(token, byKey);
      },
      choose(token) {
        const next = held() === token ? -1 : token;
        show(token);
        view.set("held", next);
      },
      leave() {
        const there = state.here !== null;
        letGo();
        return there;
      },
      say,
    },
  });
  const foot = make("p", "lk-foot");
  const title = make("h2", "lk-fv-list-title");
  const note = make("p", "lk-muted lk-small");
  const rows = make("ol", "lk-bars lk-fv-of-token");
  const more = button("", "", () => {
    state.unfolded = !state.unfolded;
    drawRows();
  });
  const back = button("The whole text again", "", letGo);
  const right = make("section", "lk-fv-right");
  right.append(title, note, rows, box("lk-actions lk-fv-buttons", more, back));
  const element = box("lk-fv-top lk-split", box("lk-fv-left", list.element, foot), right);

  function letGo() {
    view.set("held", -1);
    show(null);
  }

  /** Whether the kernel sent the open feature's own activations: it does where the lists leave the weaker ones out. */
  function sent() {
    const given = view.get("shade");
    return given?.byteLength === 4 * (state.text?.n ?? NaN) && view.get("opened").feature === open() ? floatsOf(given) : null;
  }

  /** The open feature's activation on every token. */
  function heights() {
    if (state.text === null) return NO_HEIGHTS;
    return open() === NO_FEATURE ? new Float32Array(state.text.n) : (sent() ?? state.text.of(open()));
  }

  /** @param {number | null} largest */
  function shade(largest) {
    const { facts, text } = state;
    if (text === null) return;
    const values = heights();
    const top = values.reduce((most, value) => (value > most ? value : most), 0);
    const inCorpus = largest !== null && largest > 0;
    const scale = inCorpus ? largest : top;
    list.shade(values, scale);
    /** @type {(string | Node)[]} */
    const words = facts.nothing ? [make("strong", "", facts.nothing)] : [];
    if (!facts.nothing) {
      const where = inCorpus ? `its highest activation in the corpus${top > scale ? ", and above" : ""}` : "its highest activation in this text";
      const on = values.reduce((count, value) => count + (value > 0 ? 1 : 0), 0);
      words.push("Shade: how active ", make("strong", "", `feature ${open()}`), " is on each token");
      if (scale > 0) {
        const ramp = make("span", "lk-fv-ramp");
        ramp.style.setProperty("--lk-fv-deep", `${depth(1, 1)}%`);
        unread(ramp);
        words.push(", from 0 ", ramp, ` to ${activation(scale)}, ${where}`);
      }
      words.push(on > 0 ? `. Underlined: active there, on ${counted(on, "token")}.` : ". It is active on no token of this text.");
    }
    const dotted = make("span", "lk-fv-missing-sample", "dotted");
    const missing = { text: [dotted, `: features are not defined, at ${counted(text.missing.size, "token")}.`] };
    key.replaceChildren(legend([{ text: words }, ...(text.missing.size > 0 ? [missing] : [])]));
  }

  /** What is known of the open feature on a token, in a few words. @param {number} token */
  function reading(token) {
    const { facts, text } = state;
    if (text === null) return "";
    const why = text.missing.get(token);
    if (why !== undefined) return why;
    if (open() === NO_FEATURE) return "no feature is active here";
    const value = heights()[token];
    if (value > 0) return `feature ${open()} at ${decimal(value, 4)}`;
    if (facts.most > facts.n && sent() === null && text.full(token)) {
      return `feature ${open()} is not among the ${facts.n} most active here`;
    }
    return `feature ${open()} is not active here`;
  }

  /** @param {number} token */
  function say(token) {
    const [best] = state.text?.top(token) ?? [];
    const most = best ? `; most active: feature ${best.feature} at ${activation(best.value)}` : "";
    return `${spokenLabel(named(token), 40)}, token ${token}: ${reading(token)}${most}${held() === token ? "; held" : ""}`;
  }

  function drawFoot() {
    const { here, text } = state;
    if (text === null) return;
    if (here === null) {
      foot.textContent = "Point at a token, or move to it with the arrow keys, for its features; a click holds it.";
      return;
    }
    foot.replaceChildren(quoted(named(here)), ` (token ${here}): ${reading(here)}`);
    if (!text.missing.has(here) && Number.isFinite(text.left[here])) {
      foot.append(` · the reconstruction leaves ${percent(text.left[here])} of its squared distance from the mean unexplained`);
    }
  }

  /** @type {(feature: number, value: number, most: number, note?: string) => HTMLElement} */
  const row = (feature, value, most, note) =>
    featureRow(feature, opener, { share: value / most, number: activation(value), exact: decimal(value, 6), note });

  function drawRows() {
    const { facts, text, here, unfolded } = state;
    if (text === null) return;
    back.hidden = here === null;
    more.hidden = true;
    rows.classList.toggle("lk-fv-unnoted", here !== null);
    if (here === null) {
      title.replaceChildren("The text’s strongest features");
      note.textContent = facts.nothing || "Each at the token where it is most active.";
      const at = (/** @type {number} */ token) =>
        token < text.n ? visibleLabel(named(token).replace(/^ (?=.)/, ""), 16) : `token ${token}`;
      const strongest = /** @type {[number, number, number][]} */ (facts.strongest);
      rows.replaceChildren(...strongest.map(([feature, value, token]) => row(feature, value, strongest[0][1], at(token))));
    } else {
      const top = text.top(here);
      title.replaceChildren("Features on ", quoted(named(here)), " ", make("span", "lk-muted", text.missing.has(here) ? "" : `token ${here}`));
      if (text.missing.has(here)) note.textContent = text.missing.get(here) ?? "";
      else if (top.length === 0) note.textContent = "No feature is active on this token.";
      else note.textContent = `${thousands(top.length)}${text.full(here) ? " or more" : ""} active, the most active first.`;
      more.hidden = top.length <= FEW;
      more.textContent = unfolded ? `only the ${FEW} most active` : `all ${thousands(top.length)}`;
      more.setAttribute("aria-expanded", String(unfolded));
      rows.replaceChildren(...top.slice(0, unfolded ? top.length : FEW).map(({ feature, value }) => row(feature, value, top[0].value)));
    }
    markOpen(view);
  }

  /** List a token's features; null: the whole text's. @type {(token: number | null, follow?: boolean) => void} */
  function show(token, follow = false) {
    if (token !== state.here) state.unfolded = false;
    state.here = token;
    list.focus(token, { held: token !== null && held() === token, follow });
    drawFoot();
    drawRows();
  }

  view.on("held", () => state.text && show(held() >= 0 ? held() : state.here));
  return {
    legend: key,
    element,
    shade,
    foot: drawFoot,
    read() {
      const facts = view.get("facts");
      state.facts = facts;
      state.text = facts.text ? decodeFeatures(facts, view.get("indices"), view.get("values"), view.get("unexplained")) : null;
      key.hidden = element.hidden = state.text === null;
      if (state.text === null) return;
      state.passage = { ...passageOf({ texts: view.get("texts"), ...facts }), missing: state.text.missing };
      list.fill([state.passage]);
      show(held() >= 0 && held() < state.text.n ? held() : null);
    },
  };
}

/** Mark the open feature in every list. @param {Mounted} view */
export function markOpen(view) {
  for (const row of /** @type {NodeListOf<HTMLElement>} */ (view.root.querySelectorAll("button.lk-fv-row"))) {
    const on = Number(row.dataset.feature) === view.get("feature");
    row.classList.toggle("lk-fv-open", on);
    if (on) row.setAttribute("aria-current", "true");
    else row.removeAttribute("aria-current");
  }
}
