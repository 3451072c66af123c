// The two texts side by side, and where they part.

import { box, make, outsideText, sayOrHide, setText, thousands, unread, visibleLabel } from "../kit/common.js";
import { isBusy } from "../kit/field.js";
import { fillTrack, legend, track } from "../kit/legend.js";
import { partedText, textPane } from "../kit/paired_texts.js";
import { strengthWords, timesWords } from "./logic.js";

/** @typedef {import("../kit/mount.js").Mounted} Mounted */

/**
 * One text, as `_side_of` in Python makes it.
 * @typedef {{tokens: string[], more: number, count: number, state: "writing" | "done" | "stopped", old: boolean,
 *   of: [string, number, number][], note: string, loss: string, share: number | null, gap: string}} Side
 */

/** @typedef {{prompt: string, unsteered: Side | null, steered: Side | null, parted: number | null, scale: number}} Shown */

/**
 * @param {Mounted} view
 * @param {"unsteered" | "steered"} name
 */
function pane(view, name) {
  const { exported } = view;
  const strengths = () => /** @type {number[]} */ (view.get("values"));
  const unit = view.get("unit") ? ` ${view.get("unit")}` : "";
  const { element, text, fill } = textPane(view.id(name), name === "steered" ? "Steered" : "Unsteered", `lk-steer-${name}`);
  const of = make("p", "lk-steer-of");
  const empty = make("p", "lk-muted lk-steer-empty");
  const note = make("p", "lk-steer-note");
  const said = make("p", "lk-steer-said");
  const meter = track(0);
  const end = make("span");
  const ends = box("lk-steer-ends lk-muted lk-small", make("span", "", "0"), end);
  unread(ends);
  const loss = box("lk-steer-loss", said, meter, ends);
  text.before(of);
  element.append(empty, note, loss);

  /** @param {Side | null} side */
  function drawOf(side) {
    of.hidden = !side;
    of.replaceChildren();
    if (name === "unsteered") of.append(make("span", "lk-muted", strengths().length > 1 ? "all strengths 0" : "strength 0"));
    (side?.of ?? []).forEach(([label, value, typical], i) => {
      const part = make("span", "lk-steer-part");
      part.append(outsideText("bdi", "", label), " ", make("strong", "", strengthWords(value) + unit));
      if (exported) part.append(make("span", "lk-muted", ` (${timesWords(value, typical)})`));
      of.append(i > 0 ? ", " : "", part);
    });
    if (side?.old) of.append(make("span", "lk-muted", " · from before"));
  }

  /** What stands below the text, or in its place. @param {Side | null} side */
  function emptyWords(side) {
    const busy = !exported && isBusy(view.get("status"));
    if (side && side.more > 0) return `and ${thousands(side.more)} tokens more, which are not drawn`;
    if (side && side.tokens.length > 0) {
      if (exported && side.state === "writing") return "When this file was written, the text was not finished.";
      return side.state === "stopped" ? "Stopped here." : "";
    }
    if (side && side.state === "done") return "The model ended its text at once.";
    if (side) return busy ? "No token yet." : "Stopped before the first token.";
    if (name === "steered" && strengths().every((value) => value === 0)) {
      if (exported) return "All strengths were 0: there is only the unsteered text.";
      return "All strengths are 0: move a slider, and the steered text comes here.";
    }
    return busy ? "Not begun yet." : "Nothing was written.";
  }

  /** @type {(side: Side, scale: number, base: number | null) => void} */
  function drawLoss(side, scale, base) {
    if (side.loss === "" && side.state !== "writing") said.replaceChildren("Mean loss not known");
    else {
      const nats = side.loss === "" ? "not known yet" : side.loss;
      said.replaceChildren("Mean loss ", make("strong", "", nats), /\d/.test(nats) ? " nats per token" : "");
    }
    if (side.gap) said.append(`, ${side.gap}`);
    fillTrack(meter, side.share ?? 0, base);
    setText(end, String(scale));
  }

  return {
    element,
    /** @param {Shown} shown */
    draw(shown) {
      const side = shown[name];
      element.classList.toggle("lk-steer-old", side?.old ?? false);
      fill(side?.tokens ?? [], (i) => shown.parted !== null && i >= shown.parted);
      text.hidden = !side || side.tokens.length === 0;
      drawOf(side);
      sayOrHide(empty, emptyWords(side));
      sayOrHide(note, side?.note ?? "");
      loss.hidden = !side;
      if (side) drawLoss(side, shown.scale, shown.unsteered?.share ?? null);
    },
  };
}

/** @param {string | undefined} token */
function named(token) {
  return make("bdi", "lk-quoted", token === undefined ? "the end" : `“${visibleLabel(token, 40)}”`);
}

/** Where the two part, in a sentence. @param {Shown} shown @returns {(string | Node)[]} */
function partedWords({ unsteered, steered, parted: from }) {
  if (!unsteered || !steered) return [];
  const sides = [unsteered, steered];
  const where = partedText(from, [unsteered.count, steered.count], sides.every(({ state }) => state !== "writing"));
  if (from === null || sides.every(({ tokens }) => from >= tokens.length)) return [where];
  const [one, other] = sides.map(({ tokens }) => named(tokens[from]));
  return [make("strong", "", where.slice(0, -1)), " (underlined from there): ", one, " unsteered, ", other, " steered."];
}

/**
 * Both texts, the sentence where they part, and what their bars mean.
 * @param {Mounted} view
 */
export function texts(view) {
  const parted = make("p", "lk-steer-parted"); // its line is always there, so that nothing below moves
  const sides = /** @type {const} */ (["unsteered", "steered"]).map((name) => pane(view, name));
  const panes = box("lk-steer-panes lk-split", ...sides.map(({ element }) => element));
  const key = legend([
    { text: "Mean loss: nats per token that the unsteered model gives to each text; more is less plausible to it." },
    { sample: "lk-track-mark", text: "the unsteered text's." },
  ], { quiet: true });
  return {
    elements: [parted, panes, key],
    panes,
    /** @param {Shown} shown */
    draw(shown) {
      for (const side of sides) side.draw(shown);
      parted.replaceChildren(...partedWords(shown));
      key.hidden = !shown.unsteered && !shown.steered;
    },
  };
}
