// Where a part is most active: a few texts around their peaks, shaded, with the exact number at the token that is pointed at.

import { answerStore } from "../kit/ask.js";
import { box, make, setText, significant, spokenLabel, thousands } from "../kit/common.js";
import { nameOf, passageOf, quoted, tokenList } from "../kit/token_list.js";

/** @typedef {import("../kit/mount.js").Mounted} Mounted */
/** @typedef {import("./logic.js").Graph} Graph */
/**
 * As `sampled` in looking.py makes it. peak: the place of the strongest token among those that are sent; position: in its text.
 * @typedef {{texts: string[], continued: number[], called: [number, string][], values: number[], peak: number, position: number,
 *   from: string}} Example
 */
/** median: of the sizes over all tokens. @typedef {{measure: string, median: number, tokens: number, examples: Example[]}} Sample */

const SAMPLED = new Set(["head", "mlp", "neuron"]);
const DEEPEST = 62; // per cent of colour behind the strongest token

/**
 * Returns {element, draw(i)}.
 * @param {Mounted} view
 * @param {() => Graph} graphNow
 */
export function examplesPane(view, graphNow) {
  const title = make("h3", "", "Where it is most active");
  const note = make("p", "lk-muted lk-small");
  const foot = make("p", "lk-muted lk-small");
  const store = answerStore(view.wire, "examples", ({ value }) => value, { most: 60 });
  /** @type {number[]} */
  let values = [];
  /** @type {string[]} */
  let names = [];
  const list = tokenList({
    label: "Examples: arrow keys move by token and line",
    id: view.id("example"),
    className: "lk-circuit-passages",
    actions: {
      point(at, byKey) {
        if (at === null) return;
        list.focus(at, { follow: byKey });
        foot.replaceChildren(quoted(names[at]), `: ${significant(values[at])}`);
      },
      choose: () => list.list.focus(),
      leave() {
        list.focus(null);
        return false;
      },
      say: (at) => `${spokenLabel(names[at], 40)}: ${significant(values[at])}`,
    },
  });
  const element = box("lk-circuit-examples", title, note, list.element, foot);
  let wanted = -1;

  /** @type {(kind: string, layer: number, index: number | null, then: () => void) => Sample | null} */
  function find(kind, layer, index, then) {
    const stored = view.get("examples")[`${kind} ${layer}.${index ?? ""}`];
    if (stored) return stored;
    return !view.exported && view.get("sampling").state === "done" ? store.get({ kind, layer, index }, then) : null;
  }

  /** @param {number} i */
  function draw(i) {
    wanted = i;
    const { kind, layer, index } = graphNow().parts[i];
    const there = SAMPLED.has(kind) && layer !== null ? find(kind, layer, index, () => wanted === i && draw(i)) : null;
    const { state, message } = view.get("sampling");
    const busy = SAMPLED.has(kind) && !view.exported && (state === "running" || state === "waiting" || state === "failed");
    element.hidden = there === null && !busy;
    list.element.hidden = there === null;
    if (there === null) {
      if (busy) setText(note, state === "failed" ? message : `Reading texts for examples … ${message ?? ""}`);
      foot.textContent = "";
      return;
    }
    setText(note, `Shade: ${there.measure}. Half of ${thousands(there.tokens)} tokens stay below ${significant(there.median)}; first tokens are left out.`);
    const passages = there.examples.map((each) => {
      const value = significant(each.values[each.peak]);
      const head = box("lk-tl-passage-head lk-muted lk-small", make("strong", "", value), " ", make("bdi", "", `${each.from}, token ${each.position}`));
      return { ...passageOf(each), peak: each.peak, head, title: `${each.from}, ${value} at its peak` };
    });
    values = there.examples.flatMap((each) => each.values);
    names = passages.flatMap((passage) => passage.texts.map((_, token) => nameOf(passage, token)));
    const largest = Math.max(1e-12, ...values.map(Math.abs));
    list.fill(passages);
    list.paint(
      (at) => `${Math.round((DEEPEST * Math.abs(values[at])) / largest)}% ${values[at] < 0 ? "below" : ""}`,
      (word, look) => {
        const [deep, sign] = look.split(" ");
        word.style.setProperty("--lk-deep", deep);
        word.classList.toggle("lk-circuit-below", sign === "below");
      },
    );
    setText(foot, "Point at a token for its number.");
  }
  return { element, draw };
}
