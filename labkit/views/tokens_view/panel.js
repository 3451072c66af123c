// What is known of one token: what else the model considered, and its numbers.

import { barRow } from "../kit/bars.js";
import { box, decimal, equalChoices, make, percent } from "../kit/common.js";
import { tokenLabel } from "../kit/token_list.js";
import { bars, ordinal } from "./logic.js";

/** @type {(row: import("./logic.js").Bar, strings: string[]) => HTMLElement} */
function bar(row, strings) {
  const rank = row.rank ? `, ${ordinal(row.rank)}` : "";
  const { element } = barRow({
    name: row.others ? "all other tokens" : tokenLabel(strings[row.token], 40),
    share: row.probability,
    number: percent(row.probability),
    note: row.taken ? `taken${rank}` : "",
  });
  element.classList.toggle("lk-bar-others", row.others);
  element.classList.toggle("lk-bar-taken", row.taken);
  return element;
}

/** Returns {element, draw(token, caption, data, strings, drawn)}; drawn: how the tokens were chosen, in words. */
export function tokenPanel() {
  const element = make("section", "lk-panel lk-focus-panel");
  element.setAttribute("aria-label", "Alternatives of one token");
  return {
    element,
    /** @type {(token: number, caption: string, data: import("./logic.js").Data, strings: string[], drawn: string) => void} */
    draw(i, caption, data, strings, drawn) {
      element.hidden = i < 0;
      if (i < 0) return;
      const title = make("p", "lk-panel-title");
      title.append(tokenLabel(strings[data.token[i]], 48), make("span", "lk-panel-place lk-muted", `token ${i}, id ${data.id[i]}`));
      const kind = data.outside.has(i) ? "not part of the text" : data.continued.has(i) ? "more bytes of a character" : "";
      if (kind) title.append(make("span", "lk-panel-place lk-muted", kind));
      if (caption) title.append(make("span", "lk-panel-caption lk-muted", caption));
      const chart = make("ul", "lk-bars");
      chart.style.setProperty("--lk-rows", String(data.k + 2));
      chart.append(...bars(data, i).map((row) => bar(row, strings)));
      const facts = make("dl", "lk-facts");
      for (const [name, value] of [
        ["Probability", percent(Math.exp(data.logprob[i]))],
        ["Log-probability", `${decimal(data.logprob[i], 3)} nats`],
        ["Rank", `${ordinal(data.rank[i] + 1)} choice`],
        ["Entropy", `${decimal(data.entropy[i], 3)} nats`],
        ["As open as", equalChoices(data.entropy[i])],
        ["When drawn", drawn.startsWith("greedy") ? "certain: greedy" : percent(Math.exp(data.sampledLogprob[i]))],
      ]) {
        facts.append(box("lk-fact", make("dt", "lk-muted", name), make("dd", "", value)));
      }
      element.replaceChildren(title, box("lk-panel-body lk-split", chart, facts));
    },
  };
}
