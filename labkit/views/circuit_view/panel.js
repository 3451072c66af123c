// The part in focus: its numbers, what can be done with it, its edges, and where a head looks.

import { answerStore } from "../kit/ask.js";
import { barRow } from "../kit/bars.js";
import { stamp, brushOf } from "../kit/canvas.js";
import { bytesOf, Codes } from "../kit/codes.js";
import { ramp } from "../kit/colour.js";
import { box, counted, make, percent, setText, visibleLabel } from "../kit/common.js";
import { button } from "../kit/controls.js";
import { plain } from "../kit/line_chart.js";
import { examplesPane } from "./examples.js";
import { cellOf, partWords, placeWords, quotedToken, signed } from "./logic.js";

/** @typedef {import("../kit/mount.js").Mounted} Mounted */
/** @typedef {import("./logic.js").Graph} Graph */
/** @typedef {import("./logic.js").Facts} Facts */

const EDGES = 8; // of each direction
const LOOKS = 5; // tokens that a head looks at
const LEVELS = 254; // of a pattern's codes
const SIDE = 200; // of a pattern, CSS pixels

/**
 * What a panel does, of the buttons and fields; members: the parts in a folded group, none of a part.
 * @typedef {{go: (i: number) => void, pin: (i: number) => void, knock: (i: number) => void, name: (i: number, text: string) => void,
 *   group: (i: number, text: string) => void, fold: (i: number) => void, members: (i: number) => number[]}} Actions
 */

/**
 * Returns {element, draw(i)}: null, and it says what to do.
 * @param {Mounted} view
 * @param {() => Graph} graphNow
 * @param {Actions} act
 */
export function partPanel(view, graphNow, act) {
  const facts = /** @type {Facts} */ (view.get("facts"));
  const element = make("section", "lk-focus-panel lk-circuit-panel");
  const title = make("h2", "", "");
  title.id = view.id("part");
  element.setAttribute("aria-labelledby", title.id);
  const hint = make("p", "lk-muted", "Click a part, or go through them with the arrow keys.");
  const numbers = make("dl", "lk-circuit-numbers");
  const pin = button("Pin", "", () => at !== null && act.pin(at));
  const knock = button("Knock out", "", () => at !== null && act.knock(at));
  const folds = button("Fold its group", "", () => at !== null && act.fold(at));
  const why = make("span", "lk-muted lk-small");
  const name = field("Name", "its own name", (text) => at !== null && act.name(at, text));
  const group = field("Group", "none", (text) => at !== null && act.group(at, text));
  const known = make("datalist");
  known.id = view.id("groups");
  group.input.setAttribute("list", known.id);
  const pattern = patternPane(view, graphNow);
  const examples = examplesPane(view, graphNow);
  const within = make("ul", "lk-bars");
  const inside = box("lk-circuit-edges", make("h3", "", "Its parts"), within);
  const [into, out] = [edgeList("From", "in"), edgeList("To", "out")];
  const body = box(
    "lk-circuit-body",
    numbers,
    box("lk-actions", pin, knock, folds, why),
    box("lk-circuit-fields", name.pair, group.pair, known),
    inside,
    pattern.element,
    examples.element,
    into.element,
    out.element,
  );
  element.append(title, hint, body);
  /** @type {number | null} */
  let at = null;

  /** @type {(label: string, placeholder: string, changed: (text: string) => void) => {pair: HTMLElement, input: HTMLInputElement}} */
  function field(label, placeholder, changed) {
    const input = make("input", "lk-circuit-field");
    Object.assign(input, { id: view.id(label), type: "text", dir: "auto", maxLength: 40, placeholder, spellcheck: false });
    input.addEventListener("change", () => changed(input.value));
    const said = make("label", "", label);
    said.htmlFor = input.id;
    return { pair: box("lk-pair", said, input), input };
  }

  /** @type {(heading: string, which: "in" | "out") => {element: HTMLElement, draw: (i: number) => void}} */
  function edgeList(heading, which) {
    const list = make("ul", "lk-bars");
    const title = make("h3", "", heading);
    const part = box("lk-circuit-edges", title, list);
    return {
      element: part,
      draw(i) {
        const graph = graphNow();
        const own = graph[which][i];
        part.hidden = own.length === 0;
        const more = own.length > EDGES ? ` (the ${EDGES} strongest of ${own.length})` : "";
        setText(title, `${which === "in" ? "What it reads" : "What reads it"}${more}`);
        list.replaceChildren(
          ...own.slice(0, EDGES).map((k) => {
            const { from, to, via, effect } = graph.links[k];
            const other = which === "in" ? from : to;
            const words = placeWords(graph.parts[other], facts.tokens);
            const go = button(view.get("names")[graph.parts[other].id] || words, `Go to ${words}`, () => act.go(other));
            go.classList.add("lk-circuit-go");
            const shown = make("span", "lk-circuit-end");
            shown.append(go, ...(via ? [make("span", "lk-muted lk-small", ` by ${{ q: "queries", k: "keys", v: "values" }[via] ?? via}`)] : []));
            const share = Math.abs(effect) / graph.heaviest || 0;
            return barRow({ name: shown, share, number: signed(effect), className: effect < 0 ? "lk-circuit-lowers" : "" }).element;
          }),
        );
      },
    };
  }

  /** @param {number} i */
  function drawNumbers(i) {
    const { parts, by } = graphNow();
    const { kind, effect, direct, position, rank } = parts[i];
    const ends = kind === "input" || kind === "output";
    const unit = facts.unit ? ` ${plain(facts.unit, 40)}` : "";
    /** @type {[string, string][]} */
    const rows = [];
    if (!ends || effect) rows.push(["Effect", `${signed(effect)}${unit}${effect > 0 ? `, ${facts.signs[0]}` : effect < 0 ? `, ${facts.signs[1]}` : ""}`]);
    const own = act.members(i).length;
    if (own > 0) rows.push(["Together", counted(own, "part")]);
    if (rank > 0) rows.push(["Rank", `${rank} of ${parts.filter((each) => each.rank > 0).length}`]);
    if (position !== null && own === 0) rows.push(["Token", `${quotedToken(facts.tokens, position)} at ${position}`]);
    else if (!ends && own === 0) rows.push(["Token", "all of them together"]);
    const { token, position: last, neurons } = view.get("looked");
    if (token !== undefined && kind !== "output") {
      const unknown = own > 0 ? "not known of each of them" : (kind === "neuron" && neurons) || "not known for a part of this kind";
      const known = Number.isNaN(direct) ? unknown : `${signed(direct)} logits on “${visibleLabel(token, 24)}”, the model’s first choice`;
      const elsewhere = own === 0 && position !== null && position !== last && !Number.isNaN(direct);
      rows.push(["Direct", elsewhere ? `none: it writes at ${position}, and ${last} is read` : known]);
    }
    if (by === "edges") rows.splice(1, 1);
    numbers.replaceChildren(...rows.flatMap(([term, words]) => [make("dt", "", term), make("dd", "", words)]));
  }

  return {
    element,
    /** @param {number | null} i */
    draw(i) {
      at = i;
      hint.hidden = i !== null;
      body.hidden = i === null;
      if (i === null) return setText(title, "No part is chosen");
      const part = graphNow().parts[i];
      const own = view.get("names")[part.id];
      const words = partWords(part, facts.tokens);
      setText(title, own ? `${own} (${words})` : words[0].toUpperCase() + words.slice(1));
      drawNumbers(i);
      const ends = part.kind === "input" || part.kind === "output";
      const members = act.members(i);
      const grouped = members.length > 0;
      const off = /** @type {string[]} */ (view.get("knocked"));
      const pinned = /** @type {string[]} */ (view.get("pins"));
      const ids = grouped ? members.map((each) => facts.ids[each]) : [part.id];
      setText(pin, ids.every((id) => pinned.includes(id)) ? "Unpin" : "Pin");
      folds.hidden = !grouped && view.get("groups")[part.id] === undefined;
      setText(folds, grouped ? "Unfold" : "Fold its group");
      inside.hidden = !grouped;
      within.replaceChildren(
        ...members.map((each) => {
          const { effect } = graphNow().parts[each];
          const words = placeWords(graphNow().parts[each], facts.tokens);
          const share = Math.abs(effect) / graphNow().largest || 0;
          return barRow({ name: view.get("names")[facts.ids[each]] || words, share, number: signed(effect), className: effect < 0 ? "lk-circuit-lowers" : "" }).element;
        }),
      );
      for (const each of [name, group]) each.pair.hidden = grouped;
      setText(knock, ids.every((id) => off.includes(id)) ? "Put back" : "Knock out");
      knock.disabled = ends || view.exported || !view.get("can_remove");
      setText(why, ends ? "" : view.exported ? "Knocking out needs the notebook's kernel." : view.get("can_remove") ? "" : "Knocking out needs a lab: views.circuit(found, lab).");
      pin.hidden = ends;
      knock.hidden = ends;
      name.input.value = own ?? "";
      group.input.value = view.get("groups")[part.id] ?? "";
      known.replaceChildren(...[...new Set(/** @type {string[]} */ (Object.values(view.get("groups"))))].map((each) => new Option(each, each)));
      pattern.draw(i);
      examples.draw(i);
      into.draw(i);
      out.draw(i);
    },
  };
}

/**
 * A head's pattern, and what the tokens it matters at look at. Returns {element, draw(i)}.
 * @param {Mounted} view
 * @param {() => Graph} graphNow
 */
function patternPane(view, graphNow) {
  const facts = /** @type {Facts} */ (view.get("facts"));
  const codes = new Codes(LEVELS);
  const canvas = make("canvas", "lk-circuit-pattern");
  canvas.setAttribute("role", "img");
  const title = make("h3", "", "Where it looks");
  const said = make("ul", "lk-bars");
  const note = make("p", "lk-muted lk-small");
  const element = box("lk-circuit-looks", title, box("lk-circuit-beside", canvas, box("", said, note)));
  const store = answerStore(view.wire, "pattern", ({ buffers }) => bytesOf(buffers[0]), { most: 60 });
  let wanted = -1;

  /** @type {(layer: number, head: number, then: () => void) => Uint8Array | null} */
  function find(layer, head, then) {
    const where = view.get("patterns")[`${layer}.${head}`];
    if (where) return bytesOf(view.get("cells")).subarray(where[0], where[0] + where[1]);
    const ready = !view.exported && view.get("looked").token !== undefined;
    return ready ? store.get({ layer, head }, then) : null;
  }

  function draw(/** @type {number} */ i) {
    wanted = i;
    const { kind, layer, index, position } = graphNow().parts[i];
    const there = kind === "head" && layer !== null && index !== null ? find(layer, index, () => wanted === i && draw(i)) : null;
    element.hidden = there === null;
    if (there === null) return;
    const n = facts.tokens.length;
    const square = Uint8Array.from({ length: n * n }, (_, k) => cellOf(there, n, Math.floor(k / n), k % n));
    const palette = ramp(view.theme.dark(), LEVELS + 1);
    const picture = stamp(square.map((code) => Math.min(code, LEVELS)), n, n, palette);
    Object.assign(canvas, { width: 2 * SIDE, height: 2 * SIDE });
    const brush = brushOf(canvas);
    brush.imageSmoothingEnabled = false;
    brush.drawImage(picture, 0, 0, 2 * SIDE, 2 * SIDE);
    const query = position ?? n - 1;
    const cell = (2 * SIDE) / n;
    brush.strokeStyle = view.theme.colour("--lk-focus");
    brush.lineWidth = 2;
    brush.strokeRect(1, query * cell, 2 * SIDE - 2, Math.max(3, cell));
    const row = [...square.subarray(query * n, (query + 1) * n)].map((code, key) => ({ key, weight: codes.weight(code) }));
    row.sort((a, b) => (b.weight || 0) - (a.weight || 0));
    said.replaceChildren(
      ...row.slice(0, LOOKS).map(({ key, weight }) => barRow({ name: `${key} ${visibleLabel(facts.tokens[key], 20)}`, share: weight, number: percent(weight) }).element),
    );
    setText(title, `Where ${quotedToken(facts.tokens, query)} (${query}) looks`);
    setText(note, "Queries downward, keys across, square-root scale; weights to about half a per cent.");
    canvas.setAttribute("aria-label", `Attention pattern of head ${index} of layer ${layer}. The strongest weights are listed beside it.`);
  }
  return { element, draw };
}
