// The token in focus: its experts in every layer, and its router probabilities in the layer on show.

import { box, make, thousands } from "../kit/common.js";
import { table } from "../kit/table.js";
import { nameOf, quoted } from "../kit/token_list.js";
import { expertChart } from "./chart.js";
import { chip } from "./colours.js";
import { NO_COLOUR, about, choices, inOrder, number } from "./logic.js";

/** @typedef {import("./state.js").Focus} Focus */

/**
 * known(): the exact numbers of the token have come. Returns {element, draw(), drawPath(), resize()}.
 * @param {Focus} focus
 * @param {string} id
 * @param {() => void} known
 */
export function tokenPanel(focus, id, known) {
  const { shared } = focus;
  const title = make("h2");
  const path = tokenPath(focus);
  const chosen = make("div", "lk-rt-chosen");
  const chart = expertChart({ label: "Router probability of each expert", id });
  const note = make("p", "lk-muted lk-small lk-rt-reading");
  /** What the chart shows. @type {import("./source.js").Numbers | null} */
  let numbers = null;
  /** An expert of the chart under the pointer. @type {number | null} */
  let pointed = null;

  function drawPath() {
    const { token, held, chosen: shown } = focus;
    const how = held === token ? ", held" : shown === null ? ", an example; point at any other token" : "";
    title.replaceChildren(quoted(nameOf(focus.route, token)), make("span", "lk-muted lk-small", ` token ${thousands(token)}${how}`));
    path.draw();
  }

  function draw() {
    drawPath();
    drawNumbers();
  }

  /** The numbers, which are asked for where they are not here. */
  function drawNumbers() {
    const { question } = focus;
    const found = shared.source.get(question, () => {
      if (JSON.stringify(focus.question) !== JSON.stringify(question)) return;
      drawNumbers();
      known();
    });
    chart.setTitle(`Router probability in layer ${shared.name}`);
    if (found === null) return; // still on its way: what is there stays
    numbers = found ?? null;
    chart.element.hidden = numbers === null;
    if (numbers) drawChart(numbers);
    drawNote();
    drawTable();
  }

  /** @param {import("./source.js").Numbers} found */
  function drawChart({ probabilities, exact }) {
    const { route, token } = focus;
    const layer = shared.layer;
    const all = choices(route, layer, token).map(({ expert }) => expert);
    chart.draw({
      order: inOrder(route.load(layer), shared.view.get("order")),
      share: (expert) => probabilities[expert],
      slot(expert) {
        const slot = shared.slot(layer, expert);
        return !all.includes(expert) ? NO_COLOUR : slot === NO_COLOUR ? "chosen" : slot;
      },
      level: shared.facts.router === "sigmoid" ? null : 1 / route.experts,
      marked: (expert) => all.includes(expert),
      summary: all.map((expert) => `expert ${expert} ${number(probabilities[expert], exact)}`).join(", "),
    });
  }

  function drawTable() {
    const rows = choices(focus.route, shared.layer, focus.token).map(({ expert, weight }, j) => [
      chip(shared.slot(shared.layer, expert), expert),
      numbers?.weights ? number(numbers.weights[j], true) : about(weight, false),
      numbers ? about(numbers.probabilities[expert], numbers.exact) : "not in this file",
    ]);
    chosen.replaceChildren(table({ columns: ["Expert", "Weight", "Router probability"], rows }));
  }

  function drawNote() {
    const { router, alone, with_probabilities: held } = shared.facts;
    if (numbers === null) {
      note.textContent = `This file holds the probabilities of the first ${thousands(held[focus.which])} tokens only; the weights are of all.`;
    } else if (pointed !== null) {
      note.textContent = `expert ${pointed}: ${about(numbers.probabilities[pointed], numbers.exact)}`;
    } else {
      const said = router === "sigmoid" ? ["Each expert's own: they don't sum to 1."] : [];
      if (!alone) said.push("A balancing bias or groups of experts have a say in the choice, so that the chosen need not be the most probable.");
      note.textContent = said.join(" ") || "Filled: the chosen ones. Point at a bar for its number.";
    }
  }

  for (const name of /** @type {const} */ (["pointermove", "pointerleave"])) {
    chart.list.addEventListener(name, (event) => {
      pointed = name === "pointermove" ? chart.itemAt(event) : null;
      drawNote();
    });
  }

  const probability = box("lk-rt-probability", chart.element, note, chosen);
  const element = box("lk-rt-token-panel lk-focus-panel", title, box("lk-rt-panelbody lk-split", path.element, probability));
  return { element, draw, drawPath, resize: chart.resize };
}

/** A row for each layer, with the token's experts as wide as their weights. @param {Focus} focus */
function tokenPath(focus) {
  const { shared } = focus;
  const title = make("p", "lk-muted");
  const list = make("ol", "lk-rt-path");
  list.setAttribute("aria-label", "Experts of this token in each layer, the largest weight first");
  list.tabIndex = 0; // it scrolls
  let drawn = "";

  function draw() {
    const { route, token } = focus;
    const key = JSON.stringify([focus.question, shared.slots, list.clientWidth]);
    if (drawn === key) return;
    drawn = key;
    title.textContent = `In each layer ${route.k === 1 ? "its expert" : `its ${route.k} experts, as wide as their weights`}`;
    const room = Math.max(120, list.clientWidth - 44 - 3 * route.k);
    const rows = shared.facts.layers.map((name, layer) => {
      const row = make("li", layer === shared.layer ? "lk-rt-on" : "");
      row.dataset.layer = String(layer);
      const label = make("span", "lk-rt-pathlayer", String(name));
      label.prepend(make("span", "lk-spoken", "layer "));
      const chips = choices(route, layer, token).map((each, j) => pathChip(each, shared.slot(layer, each.expert), j < route.k - 1, room));
      row.append(label, box("lk-rt-chips", ...chips));
      return row;
    });
    list.replaceChildren(...rows);
    if (list.scrollHeight > list.clientHeight) list.scrollTop = rows[shared.layer].offsetTop - list.clientHeight / 2;
  }

  list.addEventListener("click", (event) => {
    const row = /** @type {HTMLElement | null} */ (/** @type {Element} */ (event.target).closest("li"));
    if (row) shared.layer = Number(row.dataset.layer);
  });
  return { element: box("lk-rt-pathbox", title, list), draw };
}

/** @type {(choice: {expert: number, weight: number, part: number}, slot: number, more: boolean, room: number) => HTMLElement} */
function pathChip({ expert, weight, part }, slot, more, room) {
  const said = `weight ${about(weight, false)}`;
  // cut in half, a number would be another one
  const fits = part * room >= 7.5 * String(expert).length + 2;
  const element = chip(slot, fits ? expert : "");
  if (!fits) element.append(make("span", "lk-spoken", `expert ${expert}`));
  element.style.flexGrow = String(Math.max(0.04, part));
  element.title = `expert ${expert}: ${said}`;
  element.append(make("span", "lk-spoken", ` ${said}${more ? "," : ""}`));
  return element;
}
