// Texts as their tokens, side by side, and what is known of the token that is pointed at.

import { bytesOf } from "../kit/codes.js";
import { box, make, section, spokenLabel, visibleLabel } from "../kit/common.js";
import { traitPicker } from "../kit/controls.js";
import { legend } from "../kit/legend.js";
import { mount } from "../kit/mount.js";
import { nameOf, passageOf, tokenLabel, tokenList } from "../kit/token_list.js";
import { bitsPerByte, hex, kindWords, lossWords, rankWords, readNumbers, shade } from "./logic.js";

const BYTES_SHOWN = 24;

/** @param {{model: import("../kit/ask.js").Model, el: HTMLElement}} widget */
function render(widget) {
  const view = mount(widget, "lk-split");
  const { top, flags, colours } = view.get("constants");
  /** @type {any[]} */
  const texts = view.get("texts");
  const numbers = readNumbers(view.get("numbers"), texts.map(({ count }) => count));
  const raw = bytesOf(view.get("raw"));
  const passages = texts.map((text) => ({ ...passageOf(text.pieces), outside: new Set(text.outside) }));
  const head = box("lk-row lk-split-head", traitPicker(view, "Shade", "colour", colours));
  const keys = box("lk-split-keys");
  const title = make("p", "lk-split-title");
  const facts = make("dl", "lk-facts");
  const panel = box("lk-split-panel", title, facts);
  panel.setAttribute("role", "status");

  const lists = texts.map((text, number) => {
    const { element } = section(view.id(`title-${number}`), visibleLabel(text.title, 80, { spaces: false }), "lk-split-text");
    const list = tokenList({
      label: `Tokens of ${spokenLabel(text.title, 80)}: arrow keys move, Escape leaves`,
      id: view.id(`token-${number}`),
      className: "lk-split-list",
      actions: {
        point(token, byKey) {
          if (token === null) return;
          list.focus(token, { follow: byKey });
          lists.forEach((other, i) => i !== number && other.focus(null));
          show(number, token);
        },
        choose(token, byKey) {
          list.focus(token, { follow: byKey });
          show(number, token);
        },
        leave: () => {
          list.focus(null);
          return false;
        },
        say: (token) => spoken(number, token),
      },
    });
    list.fill([passages[number]]);
    const notes = make("ul", "lk-split-notes lk-muted");
    notes.append(...[...text.notes, text.more].filter(Boolean).map((note) => make("li", "", visibleLabel(note, 600, { spaces: false }))));
    notes.hidden = notes.childElementCount === 0;
    element.append(make("p", "lk-muted", text.facts), list.element, notes);
    list.mark("lk-split-special", (i) => Boolean(numbers[number][i].flags & flags.special));
    list.mark("lk-split-lossy", (i) => Boolean(numbers[number][i].flags & (flags.unknown | flags.changed)));
    return { element, focus: list.focus, paint: list.paint };
  });

  /** @type {(number: number, token: number) => string} */
  function spoken(number, token) {
    const own = numbers[number][token];
    return `token ${token}, ${spokenLabel(nameOf(passages[number], token), 40)}, id ${own.id}, ${lossWords(own)}`;
  }

  /** @type {(number: number, token: number) => void} */
  function show(number, token) {
    const own = numbers[number][token];
    const text = texts[number];
    title.replaceChildren(tokenLabel(nameOf(passages[number], token), 40), make("span", "lk-muted", ` token ${token} of ${text.count}, from 0`));
    const bytes = [...raw.slice(own.from, own.from + Math.min(own.size, BYTES_SHOWN))];
    const cells = make("code", "lk-split-bytes", bytes.map(hex).join(" ") + (own.size > BYTES_SHOWN ? " …" : own.size === 0 ? "none of the text" : ""));
    /** @type {[string, string | Node][]} */
    const rows = [
      ["Id", String(own.id)],
      ["In the vocabulary", make("bdi", "lk-split-piece", visibleLabel(text.names[token], 80))],
      ["Bytes", cells],
      ["Made by", rankWords(own.rank, text.merges)],
      ["Kind", kindWords(own.flags, flags)],
      ["Loss", lossWords(own)],
    ];
    facts.replaceChildren(
      ...rows.map(([name, value]) => {
        const said = make("dd");
        said.append(value);
        return box("lk-split-fact", make("dt", "lk-muted", name), said);
      }),
    );
  }

  function paint() {
    const how = view.get("colour");
    lists.forEach((list, number) => {
      list.paint(
        (i) => `${shade(how, numbers[number][i], top, texts[number].merges)}%`,
        (word, deep) => word.style.setProperty("--lk-deep", deep),
      );
    });
    const sample = (/** @type {string} */ deep) => {
      const drawn = make("span", "lk-sample lk-split-sample");
      drawn.style.setProperty("--lk-deep", deep);
      return drawn;
    };
    const items = {
      loss: [{ sample: sample("0%"), text: "0 bits per byte, or not known" }, { sample: sample("50%"), text: `${top} bits per byte or more` }],
      order: [{ sample: sample("5%"), text: "an early merge: a frequent pair" }, { sample: sample("50%"), text: "a late merge" }, { sample: sample("0%"), text: "none" }],
      borders: [],
    }[/** @type {"loss" | "order" | "borders"} */ (how)];
    const special = make("span", "lk-sample lk-split-sample lk-split-sign");
    const lossy = make("span", "lk-sample lk-split-sample lk-split-lost");
    keys.replaceChildren(
      legend([...items, { sample: special, text: "a special token" }, { sample: lossy, text: "spells something else than the text" }]),
    );
  }

  view.root.append(head, keys, box("lk-split-texts", ...lists.map(({ element }) => element)), panel);
  paint();
  view.on("colour", paint);
  const dearest = numbers.map((some) => some.reduce((best, own, i) => (bitsPerByte(own) > (best < 0 ? -1 : bitsPerByte(some[best])) ? i : best), -1));
  const first = dearest.findIndex((token) => token >= 0);
  if (first >= 0) show(first, dearest[first]);
  else if (numbers[0].length > 0) show(0, 0);
  return view.unmount;
}

export default { render };
