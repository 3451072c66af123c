// The tree at the side, what can be done with a branch, and two of them side by side: used by every view whose texts branch.

import { unlessDropped } from "../kit/ask.js";
import { box, counted, make, outsideText, sayOrHide, section, setText, spokenLabel, ownKey, visibleLabel } from "../kit/common.js";
import { button, picker, setOptions } from "../kit/controls.js";
import { isBusy, statusLine, stopwatch } from "../kit/field.js";
import { partedText, textPane } from "../kit/paired_texts.js";
import { saveText } from "../kit/save.js";
import { partedAt, rowTarget, treeRows } from "./logic.js";

/** @typedef {import("../kit/mount.js").Mounted} Mounted */
/** @typedef {import("./logic.js").Node} Node */

const FIRST = "The first text";
const LABEL = 24; // characters of a token in the tree

/** What a text is called. @type {(node: Node) => string} */
export function nodeName(node) {
  if (node.name) return node.name;
  return node.parent < 0 ? FIRST : `“${visibleLabel(node.token, LABEL) || " "}”`;
}

/** What it is, beside its name. @type {(node: Node) => string} */
function nodeNote(node) {
  const from = node.parent < 0 ? "" : `at token ${node.at}, not “${visibleLabel(node.instead, LABEL)}” · `;
  return `${from}${counted(node.pieces.length, "token")}${node.ended ? "" : ", stopped"}`;
}

/**
 * A view whose traits are those of the text on show: in a file all texts are there, and no kernel is asked.
 * @type {(view: Mounted) => Mounted}
 */
export function shownText(view) {
  if (!view.exported) return view;
  const get = (/** @type {string} */ name) => {
    const texts = view.get("texts") ?? [];
    const shown = view.get("shown");
    if (["block", "forbidden", "allowed"].includes(name)) return view.get(`${name}:${shown}`) ?? new DataView(new ArrayBuffer(0));
    if (texts[shown] && Object.hasOwn(texts[shown], name)) return texts[shown][name];
    return view.get(name);
  };
  return { ...view, get };
}

/**
 * The tree and what can be done with the text on show, and that text beside another. Returns {tree, compare, draw(), hear(asked)}:
 * draw is to be called when the traits changed; hear is told of what the kernel was asked for a branch.
 * @param {Mounted} view
 */
export function treePane(view) {
  const { exported, wire } = view;
  const nodes = () => /** @type {Node[]} */ (view.get("nodes"));
  const { element: tree, title } = section(view.id("tree"), "Branches", "lk-tree-pane");
  const list = make("ul", "lk-tree");
  list.setAttribute("role", "tree");
  list.setAttribute("aria-labelledby", title.id);
  list.tabIndex = 0;
  const hint = make("p", "lk-muted lk-small");
  const line = statusLine();
  const clock = stopwatch(view);
  const stop = button("Stop", "", () => line.hear(wire.ask("stop", {}, { repeat: true })));
  const saved = make("p", "lk-muted lk-small");

  const label = make("label", "", "Name");
  const name = make("input", "lk-tree-name");
  Object.assign(name, { id: view.id("name"), type: "text", maxLength: 60, autocomplete: "off", dir: "auto" });
  label.htmlFor = name.id;
  name.addEventListener("change", () => line.hear(wire.ask("rename", { number: view.get("shown"), name: name.value })));
  const named = make("span", "lk-pair");
  named.append(label, name);
  const other = picker("Beside it", view.id("beside"), [], (value) => set("compared", Number(value)));
  const save = button("Save", "Save the tree as a JSON file", () => {
    line.hear(wire.ask("saved").then(({ value }) => saveText("tree.json", "application/json", value)));
  });
  const work = box("lk-actions", stop, line.element, clock.element);
  const tools = box("lk-tree-tools", named, other.pair, save);
  tree.append(hint, list, work, saved, tools);
  named.hidden = work.hidden = save.hidden = exported;

  const one = textPane(view.id("one"), "", "lk-tree-one");
  const two = textPane(view.id("two"), "", "lk-tree-two");
  const parts = make("p", "lk-muted");
  const compare = box("lk-tree-compare", parts, box("lk-split", one.element, two.element));

  /** @type {import("./logic.js").Row[]} */
  let rows = [];
  /** @type {HTMLElement[]} */
  let items = [];
  let drawn = "";

  /** @type {(trait: string, value: number) => void} */
  function set(trait, value) {
    if (exported) view.set(trait, value);
    else wire.tell({ [trait]: value }).catch(unlessDropped((error) => line.say(error.message)));
  }

  /** @param {number} row */
  const walk = (row) => set("shown", rows[row].number);
  list.addEventListener("click", (event) => {
    const item = /** @type {HTMLElement | null} */ (/** @type {Element} */ (event.target).closest("[role=treeitem]"));
    if (item) walk(items.indexOf(item));
  });
  list.addEventListener("keydown", (event) => {
    if (!ownKey(event)) return;
    const here = rows.findIndex(({ number }) => number === view.get("shown"));
    const target = rowTarget(event.key, here, rows);
    if (target === null) return;
    if (target !== here) walk(target);
    event.preventDefault();
    event.stopPropagation();
  });

  function drawList() {
    const key = JSON.stringify(nodes().map((node) => [node.parent, node.at, node.name, node.token, node.instead, node.pieces.length, node.ended]));
    if (key === drawn) return;
    drawn = key;
    rows = treeRows(nodes());
    items = rows.map(({ number, level }) => {
      const node = nodes()[number];
      const item = make("li", "lk-tree-item");
      item.setAttribute("role", "treeitem");
      item.setAttribute("aria-level", String(level));
      item.id = view.id(`node-${number}`);
      item.style.setProperty("--lk-level", String(level - 1));
      item.append(outsideText("span", "lk-tree-label", nodeName(node)), " ", make("span", "lk-muted lk-small", nodeNote(node)));
      item.setAttribute("aria-label", `${spokenLabel(nodeName(node))}, ${nodeNote(node)}`);
      return item;
    });
    list.replaceChildren(...items);
  }

  function drawCompared() {
    const [shown, beside] = [view.get("shown"), view.get("compared")];
    const [left, right] = [nodes()[shown], nodes()[beside]];
    compare.hidden = right === undefined || beside === shown;
    if (compare.hidden || left === undefined) return;
    const parted = partedAt(left.pieces, right.pieces);
    const after = (/** @type {number} */ i) => parted !== null && i >= parted;
    setText(parts, partedText(parted, [left.pieces.length, right.pieces.length], left.ended && right.ended));
    for (const [pane, node] of /** @type {const} */ ([[one, left], [two, right]])) {
      setText(pane.title, nodeName(node));
      pane.fill(node.pieces, after);
    }
  }

  function drawStatus() {
    const status = view.get("status");
    const busy = isBusy(status);
    line.draw(status, "writing the branch …");
    clock.run(busy && !exported);
    stop.disabled = !busy;
  }

  function draw() {
    drawList();
    const shown = view.get("shown");
    rows.forEach(({ number }, i) => {
      items[i].setAttribute("aria-selected", String(number === shown));
      items[i].classList.toggle("lk-tree-here", number === shown);
      if (number === shown) list.setAttribute("aria-activedescendant", items[i].id);
    });
    const node = nodes()[shown];
    if (document.activeElement !== name) name.value = node?.name ?? "";
    const can = view.get("can_branch") && !exported;
    const alone = can ? "Click a token to hold it, then one of its alternatives: the text branches there." : "No branch was made.";
    sayOrHide(hint, nodes().length > 1 ? "" : alone);
    sayOrHide(saved, node?.saved ? `This branch: ${node.saved}.` : "");
    const options = nodes().flatMap((each, i) => (i === shown ? [] : [{ value: i, title: `${i}: ${nodeName(each)}` }]));
    other.pair.hidden = options.length === 0;
    const beside = view.get("compared");
    setOptions(other.select, [{ value: -1, title: "none" }, ...options], beside === shown ? -1 : beside);
    drawCompared();
    if (!exported) drawStatus();
  }
  view.atEnd(line.clear);
  return { tree, compare, draw, hear: line.hear };
}
