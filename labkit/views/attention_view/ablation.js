// What becomes of the text when heads are taken away: the next token and the loss, before and after.

import { box, decimal, make, percent } from "../kit/common.js";
import { button } from "../kit/controls.js";
import { isBusy, statusLine } from "../kit/field.js";
import { track } from "../kit/legend.js";
import { table } from "../kit/table.js";
import { tokenLabel } from "../kit/token_list.js";

/** @typedef {import("./source.js").Head} Head */
/** @typedef {{heads: Head[], loss_before: number | null, loss_after: number | null, next: {text: string, before: number | null, after: number | null}[]}} Effect */

/** Heads in words: layer 5 · head 3 and layer 6 · heads 1, 2. @param {Head[]} heads */
export function sayHeads(heads) {
  /** @type {Map<number, number[]>} */
  const byLayer = new Map();
  for (const [layer, head] of heads) byLayer.set(layer, [...(byLayer.get(layer) ?? []), head]);
  const parts = [...byLayer].map(([layer, all]) => `layer ${layer} · head${all.length > 1 ? "s" : ""} ${all.join(", ")}`);
  return parts.length > 4 ? `${heads.length} heads in ${parts.length} layers` : parts.join(" and ");
}

/** The change of the loss, in a sentence. @type {(before?: number | null, after?: number | null) => string} */
export function sayLoss(before, after) {
  if (typeof before !== "number" || typeof after !== "number") return "";
  const change = after - before;
  const less = Math.abs(change) < 0.0005;
  const word = less ? "hardly changes" : change > 0 ? "rises" : "falls";
  const by = less ? "" : ` by ${decimal(Math.abs(change), 3)}`;
  return `The loss of this text ${word}${by}: ${decimal(before, 3)} before, ${decimal(after, 3)} after (nats a token).`;
}

/** Returns {element, update()}. @param {import("./shared.js").Shared} shared */
export function ablationStrip({ view, facts, source }) {
  const one = button("Ablate this head", "", () => ask([[view.get("layer"), view.get("head")]]));
  const many = button("", "", () => ask(view.get("marked")));
  const status = statusLine();
  const sentence = make("p", "lk-att-outcome");
  sentence.setAttribute("role", "status"); // what came of it is said aloud; the table can be read after it
  const result = make("div", "lk-att-effect");
  const bar = box("lk-controls", make("h2", "lk-att-title", "Take heads away"), one, many, status.element);
  const element = box("lk-att-ablation", bar, sentence, result);
  element.hidden = !facts.can_ablate;

  /** @param {Head[]} heads */
  function ask(heads) {
    if (isBusy(view.get("effect_status"))) return;
    status.say("");
    source.ablate(heads).catch((/** @type {Error} */ error) => status.say(error.message));
  }

  function update() {
    if (!facts.can_ablate) return;
    const { state, message, heads } = view.get("effect_status");
    const marked = view.get("marked");
    const live = !view.exported;
    element.hidden = !live && state === "idle"; // a file that has nothing to tell of it
    one.hidden = !live;
    many.hidden = !live || marked.length === 0;
    many.textContent = `Ablate the ${marked.length} marked`;
    const busy = isBusy({ state });
    for (const each of [one, many]) each.setAttribute("aria-disabled", String(busy)); // disabled, it would lose the focus
    status.say(busy ? `computing without ${sayHeads(heads)} …` : "");
    if (busy) return; // what was there stays until there is something else
    sentence.classList.toggle("lk-muted", state !== "done");
    if (state === "done") drawEffect(view.get("effect"));
    else {
      result.replaceChildren();
      sentence.textContent = state === "failed" ? message : state === "stopped" ? "It was stopped before it was done." : "Nothing has been taken away yet.";
    }
  }

  /** @param {Effect} effect */
  function drawEffect({ heads, loss_before, loss_after, next }) {
    sentence.replaceChildren(make("strong", "", `Without ${sayHeads(heads)}. `), sayLoss(loss_before, loss_after));
    const top = Math.max(1e-9, ...next.flatMap(({ before, after }) => [before ?? 0, after ?? 0]));
    const bar = (/** @type {number | null} */ value, /** @type {string} */ kind) => {
      const cell = make("span", `lk-att-${kind}`);
      cell.append(track((value ?? 0) / top), make("span", "lk-att-share", percent(value ?? NaN)));
      return cell;
    };
    const rows = next.map(({ text, before, after }) => [tokenLabel(text, 24), bar(before, "before"), bar(after, "after")]);
    result.replaceChildren(table({ caption: "The next token", columns: ["Token", "before", "after"], rows, className: "lk-att-next" }));
  }

  return { element, update };
}
