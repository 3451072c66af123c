// What is known of one feature: examples, how its activations are spread, what it promotes, its neighbours.

import { barRow } from "../kit/bars.js";
import { columnChart } from "../kit/column_chart.js";
import { box, counted, decimal, make, percent, spokenLabel, thousands } from "../kit/common.js";
import { legend } from "../kit/legend.js";
import { nameOf, passageOf, quoted } from "../kit/token_list.js";
import { activation, axisNumber, logHeight, occupied } from "./logic.js";
import { featureRow } from "./rows.js";
import { shadedText } from "./shaded.js";

/** @typedef {import("./rows.js").Opener} Opener */

/**
 * As `plain` in activations.py makes it; null is what is no number.
 * @typedef {object} Dashboard
 * @property {number} feature
 * @property {number} density
 * @property {number} largest
 * @property {number} tokens
 * @property {Example[]} examples
 * @property {(number | null)[]} edges
 * @property {number[]} counts
 * @property {[string, number | null, number | null][]} kinds
 * @property {[string, number | null][]} promoted
 * @property {[string, number | null][]} suppressed
 * @property {[number, number | null][]} nearest
 * @property {number | null} chance
 * @property {number | null} chance_promotion
 */

/**
 * @typedef {{texts: string[], continued: number[], called: [number, string][], values: (number | null)[], peak: number,
 *   kind: string, top: boolean}} Example
 */

const numberOr = (/** @type {number | null} */ value) => (value === null ? "no number" : decimal(value, 3));

/** @type {(title: string, unit: string, ...parts: Node[]) => HTMLElement} */
function section(title, unit, ...parts) {
  const element = make("section");
  const head = make("h3", "", title);
  if (unit) head.append(" ", make("span", "lk-muted", unit));
  element.append(head, ...parts);
  return element;
}

/** Rows with bars; mark: what the line across them stands for, or nothing. @type {(title: string, unit: string, items: Node[], mark: string) => HTMLElement} */
function barList(title, unit, items, mark) {
  if (items.length === 0) return section(title, unit, make("p", "lk-muted", "None are listed."));
  const list = make("ul", "lk-bars");
  list.append(...items);
  return section(title, unit, list, ...(mark ? [legend([{ sample: "lk-track-mark", text: mark }], { quiet: true })] : []));
}

/** What is said of the part that is pointed at. */
const readingLine = () => make("p", "lk-fv-reading lk-muted lk-small");

/** @type {(bins: ReturnType<typeof occupied>, id: string) => HTMLElement} */
function histogram(bins, id) {
  const most = Math.max(...bins.map(({ count }) => count));
  const reading = readingLine();
  const rest = "Heights: the number of tokens, on a logarithmic scale.";
  const say = (/** @type {number} */ i) => `${axisNumber(bins[i].low)} to ${axisNumber(bins[i].high)}: ${counted(bins[i].count, "token")}`;
  const show = (/** @type {number | null} */ i) => {
    reading.textContent = i === null ? rest : say(i);
    chart.mark((each) => each === i);
  };
  const actions = { point: show, leave: () => chart.list.blur() };
  const chart = columnChart({ label: "Tokens by activation, left and right move", id: `${id}-bin`, below: "activation", actions });
  chart.draw({
    order: bins.map((_, i) => i),
    share: (i) => logHeight(bins[i].count, most),
    tick: (top) => thousands(top * most),
    ends: [axisNumber(bins[0].low), axisNumber(bins[bins.length - 1].high)],
    say,
  });
  show(null);
  return section("How strong it is where it is active", "", chart.element, reading);
}

/** @param {Dashboard["kinds"]} rows */
function kinds(rows) {
  const most = Math.max(...rows.flatMap(([, share, corpus]) => [share ?? 0, corpus ?? 0]), 1e-9);
  const items = rows.map(([kind, share, corpus]) => {
    const note = `of the corpus ${percent(corpus ?? NaN)}`;
    const [filled, mark] = [share, corpus].map((each) => (each ?? 0) / most);
    return barRow({ name: make("bdi", "", kind), share: filled, mark, number: percent(share ?? NaN), note, className: "lk-fv-kind" }).element;
  });
  return barList("In which kinds of text", "share of its activity", items, "the share that this kind of text has of the corpus");
}

/** @type {(title: string, rows: [string, number | null][], most: number, chance: number | null) => HTMLElement} */
function changes(title, rows, most, chance) {
  const items = rows.map(([token, change]) => {
    const [share, mark] = [Math.abs(change ?? 0) / most, chance === null ? null : chance / most];
    const down = (change ?? 0) < 0 ? " lk-fv-down" : "";
    return barRow({ name: quoted(token), share, mark, number: numberOr(change), className: `lk-fv-change${down}` }).element;
  });
  const line = chance === null ? "" : `chance: the strongest token of a random direction reaches ${decimal(chance, 3)}`;
  return barList(title, "change of the logit, standard deviations over the vocabulary", items, line);
}

/** @type {(found: Dashboard, opener: Opener) => HTMLElement} */
function neighbours({ nearest, chance }, opener) {
  const items = nearest.map(([feature, cosine]) => {
    const below = chance !== null && !((cosine ?? NaN) > chance);
    const note = below ? "below chance" : "";
    const row = featureRow(feature, opener, { share: cosine ?? 0, mark: chance, number: numberOr(cosine), note });
    row.classList.toggle("lk-fv-below", below);
    return row;
  });
  const reach = chance === null ? "an unknown cosine" : decimal(chance, 3);
  return barList("Features of nearly the same direction", "cosine", items, `chance: the closest of as many random directions reaches ${reach}`);
}

/** @type {(title: string, rows: Example[], largest: number, id: string) => HTMLElement} */
function examples(title, rows, largest, id) {
  if (rows.length === 0) return section(title, "", make("p", "lk-muted", "No example is listed."));
  const passages = rows.map((row) => {
    const value = activation(row.values[row.peak]);
    const head = box("lk-tl-passage-head lk-muted lk-small", make("strong", "", value), " ", make("bdi", "", row.kind));
    return { ...passageOf(row), peak: row.peak, head, title: `${spokenLabel(row.kind)}, ${value} at its peak` };
  });
  const places = passages.flatMap((passage) => passage.texts.map((_, token) => nameOf(passage, token)));
  const values = rows.flatMap((row) => row.values);
  const reading = readingLine();
  const rest = "Point at a token, or move to it with the arrow keys, for its activation.";
  reading.textContent = rest;
  const share = (/** @type {number} */ at) =>
    `${activation(values[at])}${largest > 0 ? `, ${percent((values[at] ?? 0) / largest)} of its highest` : ""}`;
  const text = shadedText({
    label: `${title}: arrow keys move by token and line`,
    id,
    className: "lk-fv-passages",
    actions: {
      point(at, byKey) {
        if (at === null) return;
        text.focus(at, { follow: byKey });
        const value = values[at];
        reading.replaceChildren(quoted(places[at]), `: ${value === null ? "no number" : decimal(value, 4)} (${share(at)})`);
      },
      choose: () => text.list.focus(),
      leave() {
        text.focus(null);
        reading.textContent = rest;
        return false;
      },
      say: (at) => `${spokenLabel(places[at], 40)}, ${share(at)}`,
    },
  });
  text.fill(passages);
  text.shade(values, largest);
  return section(title, "", text.element, reading);
}

/**
 * The dashboard of one feature, to be put where the one before stood.
 * @type {(found: Dashboard, id: string, opener: Opener) => HTMLElement[]}
 */
export function drawDashboard(found, id, opener) {
  const dead = !(found.density > 0);
  const facts = make("p", "lk-fv-density");
  if (dead) facts.append(make("strong", "", "dead"), `: active on none of ${counted(found.tokens, "token")}`);
  else {
    facts.append(
      "active on ",
      make("strong", "", percent(found.density)),
      ` of ${counted(found.tokens, "token")} of the corpus, its highest activation there `,
      make("strong", "", activation(found.largest)),
    );
  }
  const side = box("lk-fv-side");
  const bins = occupied(found.edges, found.counts);
  if (bins.length > 0) side.append(histogram(bins, id));
  if (found.kinds.length > 0 && !dead) side.append(kinds(found.kinds));
  const chance = found.chance_promotion;
  const most = Math.max(...[...found.promoted, ...found.suppressed].map(([, change]) => Math.abs(change ?? 0)), chance ?? 0, 1e-9);
  const both = box(
    "lk-fv-both",
    changes("Tokens it promotes", found.promoted, most, chance),
    changes("Tokens it suppresses", found.suppressed, most, chance),
  );
  side.append(both, neighbours(found, opener));
  const body = box("lk-fv-body", side);
  if (!dead || found.examples.length > 0) {
    const [top, rest] = [true, false].map((which) => found.examples.filter((each) => each.top === which));
    const column = box("lk-fv-examples", examples("Where it is strongest in the corpus", top, found.largest, `${id}-0`));
    if (rest.length > 0) column.append(examples("Drawn over the rest of its range", rest, found.largest, `${id}-1`));
    body.prepend(column);
    body.classList.add("lk-split");
  }
  return [make("h2", "lk-fv-headline", `feature ${found.feature}`), facts, body];
}
