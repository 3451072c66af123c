// What becomes of the text when heads are taken away: the next token and the loss, before and after.

import { decimal, make, percent } from "../kit/common.js";
import { button } from "../kit/controls.js";
import { axisLabel } from "./head.js";

/** Heads in words: layer 5 · head 3 and layer 6 · heads 1, 2. */
export function sayHeads(heads) {
  const byLayer = new Map();
  for (const [layer, head] of heads) byLayer.set(layer, [...(byLayer.get(layer) ?? []), head]);
  const parts = [...byLayer].map(([layer, all]) => `layer ${layer} · head${all.length > 1 ? "s" : ""} ${all.join(", ")}`);
  return parts.length > 4 ? `${heads.length} heads in ${parts.length} layers` : parts.join(" and ");
}

/** The change of the loss, in a sentence. */
export function sayLoss(before, after) {
  if (before === null || after === null || before === undefined || after === undefined) return "";
  const change = after - before;
  const less = Math.abs(change) < 0.0005;
  const word = less ? "hardly changes" : change > 0 ? "rises" : "falls";
  const by = less ? "" : ` by ${decimal(Math.abs(change), 3)}`;
  return `The loss of this text ${word}${by}: ${decimal(before, 3)} before, ${decimal(after, 3)} after (nats a token).`;
}

/** actions: ablate(heads); chosen() → {shown: [layer, head], marked: [...]}. Returns {element, update()}. */
export function ablationStrip({ model, facts, actions }) {
  const element = make("div", "lk-att-ablation");
  element.hidden = !facts.can_ablate;
  const bar = make("div", "lk-att-controls");
  bar.append(make("h2", "lk-att-title", "Take heads away"));
  const unlessRunning = (action) => () => model.get("effect").state !== "running" && action();
  const one = button("Ablate this head", "", unlessRunning(() => actions.ablate([actions.chosen().shown])));
  const many = button("", "", unlessRunning(() => actions.ablate(actions.chosen().marked)));
  const status = make("span", "lk-att-status");
  status.setAttribute("role", "status");
  bar.append(one, many, status);
  const sentence = make("p", "lk-att-outcome");
  sentence.setAttribute("role", "status"); // what came of it is said aloud; the table can be read after it
  const result = make("div", "lk-att-effect");
  element.append(bar, sentence, result);

  function update() {
    if (!facts.can_ablate) return;
    element.hidden = !actions.live && !model.get("effect").state; // a file that has nothing to tell of it
    const { marked } = actions.chosen();
    many.hidden = marked.length === 0;
    many.textContent = `Ablate the ${marked.length} marked`;
    const live = actions.live;
    one.hidden = !live;
    many.hidden ||= !live;
    const effect = model.get("effect");
    const running = effect.state === "running";
    for (const each of [one, many]) each.setAttribute("aria-disabled", String(running)); // disabled, it would lose the focus
    status.textContent = running ? `computing without ${sayHeads(effect.heads)} …` : "";
    if (running) return; // what was there stays until there is something else
    sentence.classList.toggle("lk-att-muted", effect.state !== "done");
    if (effect.state === "done") drawEffect(effect);
    else {
      result.replaceChildren();
      sentence.textContent = {
        failed: `It could not be computed: ${effect.reason}`,
        stopped: "It was stopped before it was done.",
      }[effect.state] ?? "Nothing has been taken away yet.";
    }
  }

  function drawEffect(effect) {
    const without = make("strong", "", `Without ${sayHeads(effect.heads)}. `);
    sentence.replaceChildren(without, sayLoss(effect.loss_before, effect.loss_after));
    const table = make("table", "lk-att-next");
    const caption = make("caption", "", "The next token");
    const header = make("tr");
    for (const name of ["Token", "before", "after"]) {
      const cell = make("th", "", name);
      cell.scope = "col";
      header.append(cell);
    }
    table.append(caption, header);
    const top = Math.max(1e-9, ...effect.next.flatMap(({ before, after }) => [before ?? 0, after ?? 0]));
    for (const { text, before, after } of effect.next) {
      const row = make("tr");
      const name = make("td");
      name.append(axisLabel(text, 24));
      row.append(name);
      for (const [value, kind] of [[before, "before"], [after, "after"]]) {
        const cell = make("td", `lk-att-${kind}`);
        const bar_ = make("span", "lk-att-bar-of");
        bar_.style.width = `${(100 * (value ?? 0)) / top}%`;
        const track = make("span", "lk-att-track");
        track.append(bar_);
        cell.append(track, make("span", "lk-att-share", percent(value ?? NaN)));
        row.append(cell);
      }
      table.append(row);
    }
    result.replaceChildren(table);
  }

  return { element, update };
}
