// The loads of the layer on show: a bar for each expert, beside what chance gives.

import { box, make, percent, thousands } from "../kit/common.js";
import { legend } from "../kit/legend.js";
import { expertChart } from "./chart.js";
import { byChance, inOrder } from "./logic.js";
import { loadWords } from "./words.js";

/**
 * say(): the expert in focus is another, by key or click, and is to be read out. Returns {element, draw(), mark(), resize()}.
 * @param {import("./state.js").Focus} focus
 * @param {string} id
 * @param {() => void} say
 */
export function loadChart(focus, id, say) {
  const { shared } = focus;
  const chart = expertChart({
    label: "Experts by load: arrow keys move, Enter holds one and gives it a colour, Escape lets go",
    id,
    actions: {
      point(expert, byKey) {
        shared.pointExpert(expert);
        if (byKey) say();
      },
      choose(expert) {
        shared.chooseExpert(expert);
        say();
      },
      leave() {
        shared.pointExpert(null);
        if (shared.heldExpert === null) chart.list.blur();
        shared.holdExpert(null);
      },
    },
  });
  const key = make("div", "lk-rt-key lk-small");

  function draw() {
    const { route } = focus;
    const [layer, uniform] = [shared.layer, 1 / route.experts];
    chart.setTitle(`Load in layer ${shared.name}`, `share of the ${thousands(route.counted * route.k)} choices`);
    chart.draw({
      order: inOrder(route.load(layer), shared.view.get("order")),
      share: (expert) => focus.share(expert),
      slot: (expert) => shared.slot(layer, expert),
      level: uniform,
      band: route.band,
      marked: (expert) => expert === shared.expert,
      say: (expert) => loadWords(focus, expert),
    });
    key.replaceChildren(route.band === null ? "No token is counted here." : chanceKey(route.experts, uniform, route.band));
  }

  return {
    element: box("lk-rt-loads", chart.element, key),
    draw,
    mark: () => chart.mark((expert) => expert === shared.expert),
    resize: chart.resize,
  };
}

/** @type {(experts: number, uniform: number, band: [number, number]) => HTMLElement} */
function chanceKey(experts, uniform, [low, high]) {
  const outside = make("span", "lk-muted", `(of ${experts} bars ${byChance(experts)} would stand outside)`);
  return legend([
    { sample: "lk-chart-line", text: `uniform ${percent(uniform)}` },
    { sample: "lk-chart-band", text: [`choosing at random gives ${percent(low)} to ${percent(high)} in 95 % of cases `, outside] },
  ]);
}
