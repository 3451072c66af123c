// The two texts side by side, and where they part.

import { appendRuns, make, setText, thousands, counted, visibleLabel, visibleRuns } from "../kit/common.js";
import { isBusy } from "../kit/field.js";
import { fillTrack, legend, track } from "../kit/legend.js";
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
function textPane(view, name) {
  const { exported } = view;
  const strengths = () => /** @type {number[]} */ (view.get("values"));
  const unit = view.get("unit") ? ` ${view.get("unit")}` : "";
  const element = make("section", `lk-steer-pane lk-steer-${name}`);
  const title = make("h2", "", name === "steered" ? "Steered" : "Unsteered");
  title.id = view.id(name);
  element.setAttribute("aria-labelledby", title.id);
  const of = make("p", "lk-steer-of");
  const text = make("div", "lk-steer-text");
  text.dir = "auto";
  const empty = make("p", "lk-muted lk-steer-empty");
  const note = make("p", "lk-steer-note");
  const loss = make("div", "lk-steer-loss");
  const said = make("p", "lk-steer-said");
  const meter = track(0);
  const ends = make("div", "lk-steer-ends");
  ends.setAttribute("aria-hidden", "true");
  const end = make("span");
  ends.append(make("span", "", "0"), end);
  loss.append(said, meter, ends);
  element.append(title, of, text, empty, note, loss);
  let drawn = "";

  /** @type {(pieces: string[], from: number | null) => void} */
  function drawTokens(pieces, from) {
    const now = JSON.stringify([pieces, from]);
    if (now === drawn) return; // what is selected stays so
    drawn = now;
    text.replaceChildren(
      ...pieces.map((token, i) => {
        const piece = make("span", from !== null && i >= from ? "lk-steer-token lk-steer-other" : "lk-steer-token");
        appendRuns(piece, visibleRuns(token, { limit: 40 }));
        return piece;
      }),
    );
  }

  /** @param {Side | null} side */
  function drawOf(side) {
    of.hidden = !side;
    of.replaceChildren();
    if (name === "unsteered") of.append(make("span", "lk-muted", strengths().length > 1 ? "all strengths 0" : "strength 0"));
    (side?.of ?? []).forEach(([label, value, typical], i) => {
      const part = make("span", "lk-steer-part");
      const bdi = make("bdi");
      appendRuns(bdi, visibleRuns(label, { spaces: false }));
      part.append(bdi, " ", make("strong", "", strengthWords(value) + unit));
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
      drawTokens(side?.tokens ?? [], shown.parted);
      text.hidden = !side || side.tokens.length === 0;
      drawOf(side);
      setText(empty, emptyWords(side));
      empty.hidden = empty.textContent === "";
      setText(note, side?.note ?? "");
      note.hidden = !side?.note;
      loss.hidden = !side;
      if (side) drawLoss(side, shown.scale, shown.unsteered?.share ?? null);
    },
  };
}

/** @param {string | undefined} token */
function named(token) {
  const element = make("bdi", "lk-quoted");
  element.textContent = token === undefined ? "the end" : `“${visibleLabel(token, 40)}”`;
  return element;
}

/** Where the two part, in a sentence. @param {Shown} shown @returns {(string | Node)[]} */
function partedWords({ unsteered, steered, parted: from }) {
  if (!unsteered || !steered) return [];
  if (from === null) {
    const n = Math.min(unsteered.count, steered.count);
    const ended = unsteered.state !== "writing" && steered.state !== "writing";
    if (n === 0) return [];
    return [ended && unsteered.count === steered.count ? "The two texts are the same." : `The same so far: ${counted(n, "token")}.`];
  }
  const where = from === 0 ? "They part at the first token" : `They part after ${counted(from, "token")}`;
  if (from >= unsteered.tokens.length && from >= steered.tokens.length) return [`${where}.`];
  const [one, other] = [unsteered, steered].map((side) => named(side.tokens[from]));
  return [make("strong", "", where), " (underlined from there): ", one, " unsteered, ", other, " steered."];
}

/**
 * Both texts, the sentence where they part, and what their bars mean.
 * @param {Mounted} view
 */
export function texts(view) {
  const parted = make("p", "lk-steer-parted"); // its line is always there, so that nothing below moves
  const panes = make("div", "lk-steer-panes");
  const sides = /** @type {const} */ (["unsteered", "steered"]).map((name) => textPane(view, name));
  panes.append(...sides.map(({ element }) => element));
  const key = legend([
    { text: "Mean loss: nats per token that the unsteered model gives to each text; more is less plausible to it." },
    { sample: "lk-track-mark", text: "the unsteered text's." },
  ]);
  key.classList.add("lk-muted", "lk-small");
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
