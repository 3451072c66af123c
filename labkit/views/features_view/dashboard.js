// What is known of one feature: examples, how its activations are spread, what it promotes, its neighbours.

import { decimal, make, ownKey, percent, spokenLabel, thousands } from "../kit/common.js";
import { nameOf, quoted } from "../kit/running_text.js";
import { keyTarget } from "../kit/keys.js";
import { activation, axisNumber, logHeight, occupied } from "./logic.js";
import { FAMILY, shadedText } from "./text.js";

/** A bar's track, filled to a share of its width. mark: another share, drawn as a line. */
export function track(share, mark = null) {
  const element = make("span", "lk-fv-track");
  const fill = make("span", "lk-fv-fill");
  fill.style.width = `${Math.min(100, Math.max(0, 100 * share)) || 0}%`;
  element.append(fill);
  if (mark !== null) {
    const line = make("span", "lk-fv-mark");
    line.style.insetInlineStart = `${Math.min(100, Math.max(0, 100 * mark))}%`;
    element.append(line);
  }
  element.setAttribute("aria-hidden", "true");
  return element;
}

/** A row that opens a feature: its number, a bar, a number (and on it the exact one); no button where it can't be opened. */
export function featureRow({ feature, share, mark = null, value, exact = "", note = "", context }) {
  const item = make("li", "lk-fv-item");
  const can = context.openable(feature);
  const row = /** @type {any} */ (make(can ? "button" : "div", "lk-fv-row"));
  if (can) {
    row.type = "button";
    row.addEventListener("click", () => context.open(feature));
  }
  row.dataset.feature = String(feature);
  const number = make("span", "lk-fv-row-value", value);
  if (exact) number.title = exact;
  row.append(make("span", "lk-fv-row-name", `feature ${feature}`), " ", track(share, mark), " ", number);
  if (note) row.append(" ", make("span", "lk-fv-row-note", note));
  item.append(row);
  return item;
}

function section(title, unit = "") {
  const element = make("section", "lk-fv-section");
  const head = make("h3", "", title);
  if (unit) head.append(" ", make("span", "lk-fv-muted", unit));
  element.append(head);
  return element;
}

/** A histogram whose bars can be pointed at, and reached with the arrow keys. */
function histogram(bins, prefix) {
  const element = section("How strong it is where it is at work");
  const most = Math.max(...bins.map(({ count }) => count));
  const said = ({ low, high, count }) => `${axisNumber(low)} to ${axisNumber(high)}: ${thousands(count)} token${count === 1 ? "" : "s"}`;
  const list = make("div", "lk-fv-histogram");
  list.tabIndex = 0;
  list.setAttribute("role", "listbox");
  list.setAttribute("aria-orientation", "horizontal");
  list.setAttribute("aria-label", "Tokens by activation, left and right move");
  const reading = make("p", "lk-fv-reading");
  const rest = "Heights: the number of tokens, on a logarithmic scale.";
  reading.textContent = rest;
  let cursor = -1;
  const nodes = bins.map((bin, i) => {
    const node = make("div", "lk-fv-bin");
    node.id = `${prefix}-bin-${i}`;
    node.dataset.bin = String(i);
    node.setAttribute("role", "option");
    node.setAttribute("aria-label", said(bin));
    const fill = make("div", "lk-fv-bin-fill");
    fill.style.height = `${100 * logHeight(bin.count, most)}%`;
    node.append(fill);
    return node;
  });
  list.append(...nodes);
  const show = (i) => {
    nodes[cursor]?.classList.remove("lk-fv-here");
    cursor = i;
    nodes[cursor]?.classList.add("lk-fv-here");
    reading.textContent = i < 0 ? rest : said(bins[i]);
    if (i < 0) list.removeAttribute("aria-activedescendant");
    else list.setAttribute("aria-activedescendant", nodes[i].id);
  };
  list.addEventListener("pointermove", (event) => {
    const node = /** @type {any} */ (event.target).closest?.(".lk-fv-bin");
    if (node) show(Number(node.dataset.bin));
  });
  list.addEventListener("pointerleave", () => show(-1));
  list.addEventListener("blur", () => show(-1));
  list.addEventListener("keydown", (event) => {
    if (!ownKey(event)) return;
    const target = cursor < 0 ? 0 : keyTarget(event.key, cursor, nodes.length);
    if (/^(Arrow(Left|Right)|Home|End)$/.test(event.key)) show(target);
    else if (event.key === "Escape") list.blur();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  const scale = make("div", "lk-fv-scale");
  scale.append(make("span", "", thousands(most)), make("span", "", "0"));
  const axis = make("div", "lk-fv-axis");
  axis.append(make("span", "", axisNumber(bins[0].low)), make("span", "", "activation"), make("span", "", axisNumber(bins.at(-1).high)));
  for (const part of [scale, axis]) part.setAttribute("aria-hidden", "true");
  const plot = make("div", "lk-fv-plot");
  plot.append(scale, list, make("div"), axis);
  element.append(plot, reading);
  return element;
}

function kinds(rows) {
  const element = section("In which kinds of text", "share of its activity");
  const list = make("ul", "lk-fv-list");
  const most = Math.max(...rows.flatMap(([, share, corpus]) => [share ?? 0, corpus ?? 0]), 1e-9);
  for (const [kind, share, corpus] of rows) {
    const item = make("li", "lk-fv-kind");
    const name = make("bdi", "lk-fv-row-name", kind);
    item.append(name, " ", track(share / most, corpus / most), " ", make("span", "lk-fv-row-value", percent(share ?? NaN)));
    item.append(" ", make("span", "lk-fv-row-note", `of the corpus ${percent(corpus ?? NaN)}`));
    list.append(item);
  }
  const note = make("p", "lk-fv-muted lk-fv-small");
  note.append(make("span", "lk-fv-mark-sample"), " the share that this kind of text has of the corpus");
  element.append(list, note);
  return element;
}

function changes(title, rows, most, none, chance) {
  const element = section(title, "change of the logit, standard deviations over the vocabulary");
  if (rows.length === 0) {
    element.append(make("p", "lk-fv-muted", none));
    return element;
  }
  const list = make("ul", "lk-fv-list");
  for (const [token, change] of rows) {
    const item = make("li", "lk-fv-change");
    const name = make("span", "lk-fv-row-name");
    name.append(quoted(token, FAMILY));
    item.append(name, " ", track(Math.abs(change) / most, chance === null ? null : chance / most), " ", make("span", "lk-fv-row-value", change === null ? "no number" : decimal(change, 3)));
    if (change < 0) item.classList.add("lk-fv-down");
    list.append(item);
  }
  element.append(list);
  if (chance !== null) {
    const note = make("p", "lk-fv-muted lk-fv-small");
    note.append(make("span", "lk-fv-mark-sample"), ` chance: the strongest token of a random direction reaches ${decimal(chance, 3)}`);
    element.append(note);
  }
  return element;
}

function neighbours(found, context) {
  const element = section("Features of nearly the same direction", "cosine");
  if (found.nearest.length === 0) {
    element.append(make("p", "lk-fv-muted", "None are listed."));
    return element;
  }
  const list = make("ul", "lk-fv-list");
  for (const [feature, cosine] of found.nearest) {
    const below = !(cosine > found.chance);
    const note = below ? "below chance" : "";
    const value = cosine === null ? "no number" : decimal(cosine, 3);
    const row = featureRow({ feature, share: cosine, mark: found.chance, value, note, context });
    if (below) row.classList.add("lk-fv-below");
    list.append(row);
  }
  const note = make("p", "lk-fv-muted lk-fv-small");
  const chance = found.chance === null ? "an unknown cosine" : decimal(found.chance, 3);
  note.append(make("span", "lk-fv-mark-sample"), ` chance: the closest of as many random directions reaches ${chance}`);
  element.append(list, note);
  return element;
}

/**
 * The dashboard of one feature. context: open(feature), openable(feature). Returns {element, draw(found), old(whether another
 * is on its way)}.
 */
export function dashboardPane({ prefix, context }) {
  const element = make("div", "lk-fv-dashboard");

  function examples(found) {
    const parts = [
      ["Where it is strongest in the corpus", found.examples.filter((each) => each.top)],
      ["Drawn over the rest of its range", found.examples.filter((each) => !each.top)],
    ];
    const column = make("div", "lk-fv-examples");
    parts.forEach(([title, rows], which) => {
      if (rows.length === 0 && which === 1) return;
      const box = section(title);
      column.append(box);
      if (rows.length === 0) {
        box.append(make("p", "lk-fv-muted", "No example is listed."));
        return;
      }
      const passages = rows.map((row) => {
        const value = activation(row.values[row.peak]);
        const head = make("p", "lk-fv-passage-head");
        head.append(make("strong", "", value), " ", make("bdi", "", row.kind));
        return {
          texts: row.texts,
          kinds: new Map(row.kinds),
          names: new Map(row.called),
          peak: row.peak,
          head,
          title: `${spokenLabel(row.kind)}, ${value} at its peak`,
        };
      });
      const flat = passages.flatMap((passage, row) => passage.texts.map((_, token) => ({ row, token })));
      const values = rows.flatMap((row) => row.values);
      const reading = make("p", "lk-fv-reading");
      const rest = "Point at a token, or move to it with the arrow keys, for its activation.";
      reading.textContent = rest;
      const name = (at) => nameOf(passages[flat[at].row], flat[at].token);
      const share = (at) => `${activation(values[at])}${found.largest > 0 ? `, ${percent(values[at] / found.largest)} of its highest` : ""}`;
      const text = shadedText({
        label: `${title}: arrow keys move by token and line`,
        prefix: `${prefix}-${which}`,
        className: "lk-fv-passages",
        actions: {
          point(at, follow) {
            text.focus(at, false, follow);
            reading.replaceChildren(quoted(name(at), FAMILY), `: ${values[at] === null ? "no number" : decimal(values[at], 4)} (${share(at)})`);
          },
          choose: (at) => text.list.focus() ?? at,
          leave() {
            text.focus(null);
            reading.textContent = rest;
            return false;
          },
          say: (at) => `${spokenLabel(name(at), 40)}, ${share(at)}`,
        },
      });
      text.fill(passages);
      text.paint(values, found.largest);
      box.append(text.list, reading);
    });
    return column;
  }

  function headline(found) {
    const head = make("h2", "lk-fv-headline", `feature ${found.feature}`);
    const facts = make("p", "lk-fv-density");
    if (found.density > 0) {
      facts.append(
        "at work on ",
        make("strong", "", percent(found.density)),
        ` of ${thousands(found.tokens)} tokens of the corpus, its highest activation there `,
        make("strong", "", activation(found.largest)),
      );
    } else {
      facts.append(make("strong", "", "dead"), `: at work on none of ${thousands(found.tokens)} tokens`);
    }
    return [head, facts];
  }

  function draw(found) {
    if (found === null) {
      element.replaceChildren();
      return;
    }
    const dead = !(found.density > 0);
    const side = make("div", "lk-fv-side");
    const bins = occupied(found.edges, found.counts);
    if (bins.length > 0) side.append(histogram(bins, prefix));
    if (found.kinds.length > 0 && !dead) side.append(kinds(found.kinds));
    const most = Math.max(...[...found.promoted, ...found.suppressed].map(([, change]) => Math.abs(change ?? 0)), found.chance_promotion ?? 0, 1e-9);
    const both = make("div", "lk-fv-both");
    both.append(
      changes("Tokens it promotes", found.promoted, most, "None are listed.", found.chance_promotion),
      changes("Tokens it suppresses", found.suppressed, most, "None are listed.", found.chance_promotion),
    );
    side.append(both, neighbours(found, context));
    const body = make("div", "lk-fv-body");
    if (!dead || found.examples.length > 0) body.append(examples(found));
    else body.classList.add("lk-fv-alone");
    body.append(side);
    element.replaceChildren(...headline(found), body);
  }

  return { element, draw, old: (whether) => element.classList.toggle("lk-fv-old", whether) };
}
