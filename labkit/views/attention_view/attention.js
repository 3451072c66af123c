// The attention view as a widget: the bar, the map, one head or two, the text, and what ablation does.

import { box, make } from "../kit/common.js";
import { mount } from "../kit/mount.js";
import { savePicture } from "../kit/save.js";
import { traceHead } from "../kit/trace_head.js";
import { ablationStrip } from "./ablation.js";
import { controlBar } from "./bar.js";
import { headPane } from "./head.js";
import { headMap } from "./map.js";
import { headSvg } from "./picture.js";
import { Shared } from "./shared.js";
import { textPane } from "./text.js";
import { fileNotes, headNotes, linkTable } from "./words.js";

const MANY_HEADS = 16; // from where the map needs the whole width

/** @param {{model: import("../kit/ask.js").Model, el: HTMLElement}} widget */
function render(widget) {
  const view = mount(widget, "lk-attention lk-panes");
  const { root, exported, get, set } = view;
  const shared = new Shared(view);
  const { facts, source } = shared;

  const bar = controlBar(shared, { choose, keep });
  const map = headMap(shared, { open, mark });
  const panes = [0, 1].map((which) => headPane(shared, which, { mark, point: pointFrom, leave: () => map.grid.focus() }));
  const [first, second] = panes;
  const text = textPane(shared, {
    trace: () => first.shown.trace,
    scopes,
    point(token) {
      const place = token === null ? null : { row: token };
      first.link(place);
      if (facts.same_text || sameTrace()) second.link(place);
    },
  });
  const ablation = ablationStrip(shared);
  const [links, notes] = [make("div", "lk-att-links"), make("div", "lk-att-notes lk-muted")];
  const heads = box("lk-att-heads", first.element, second.element);
  const middle = box("lk-att-middle", heads, ablation.element);
  const side = box("lk-att-side", text.element, box("lk-att-words", links, notes));
  root.append(traceHead(facts), bar.element, box("lk-att-body lk-split", map.element, middle, side));
  root.classList.toggle("lk-att-many", facts.heads > MANY_HEADS);
  second.element.hidden = true;

  const sameTrace = () => first.shown.trace === second.shown.trace;
  const drawn = () => panes.filter(({ element }) => !element.hidden);

  /** A cell of one pane, or null, is pointed at: show it in the text and in the other pane where it is the same text.
   * @type {(which: number, cell: import("../kit/keys.js").Cell | null) => void} */
  function pointFrom(which, cell) {
    if (which === 0 || sameTrace()) text.link(cell?.row ?? null);
    if (facts.same_text || sameTrace()) panes[1 - which].link(cell);
  }

  /** What the text can be shaded by. */
  function scopes() {
    const [layer, head, marked] = [get("layer"), get("head"), get("marked")];
    const found = [{ name: "head", title: `layer ${layer} · head ${head}`, heads: [[layer, head]] }];
    const all = Array.from({ length: facts.heads }, (_, i) => [layer, i]);
    if (facts.heads > 1) found.push({ name: "layer", title: `layer ${layer}, mean of its ${facts.heads} heads`, heads: all });
    if (marked.length > 0) found.push({ name: "marked", title: `the marked heads, mean of ${marked.length}`, heads: marked });
    return /** @type {import("./text.js").Scope[]} */ (found);
  }

  // ---------------------------------------------------------------------------------------------------- which head

  /** @type {(layer: number, head: number) => void} */
  function choose(layer, head) {
    view.model.set("layer", layer);
    view.model.set("head", head);
    view.model.save_changes();
  }

  /** @type {(layer: number, head: number, beside: boolean, byKey: boolean) => void} */
  function open(layer, head, beside, byKey) {
    if (!shared.heads(0, layer).includes(head)) {
      bar.status.say(`Layer ${layer} · head ${head} is not in this file.`);
      return;
    }
    if (beside) set("beside", [get("beside")[0] ?? facts.tokens.length - 1, layer, head]);
    else choose(layer, head);
    if (byKey) panes[beside ? 1 : 0].grid.focus();
  }

  /** @type {(layer: number, head: number) => void} */
  function mark(layer, head) {
    const others = get("marked").filter((/** @type {number[]} */ each) => each[0] !== layer || each[1] !== head);
    set("marked", shared.marked(layer, head) ? others : [...others, [layer, head]]);
  }

  /** The chosen head is another: say so soon, draw it when its numbers are here. */
  function headChanged() {
    const [layer, head] = [get("layer"), get("head")];
    bar.draw();
    map.paintOver();
    if (exported) return receive();
    const { summary, codes } = first.shown;
    const here = codes.length > 0 && layer === summary.layer && head === summary.head;
    bar.status.say("");
    return bar.status.draw({ state: here ? "done" : "running" }, `computing layer ${layer} · head ${head} …`);
  }

  function receive() {
    const found = source.head({ trace: 0, layer: get("layer"), head: get("head"), aside: get("aside") }, "");
    if (found === null) return;
    bar.status.say("");
    first.receive(found);
    drawWords();
    text.update();
    ablation.update();
  }

  function receiveBeside() {
    const [trace, layer, head] = get("beside");
    const on = trace !== undefined;
    const changed = second.element.hidden === on;
    second.element.hidden = !on;
    heads.classList.toggle("lk-split", on);
    bar.draw();
    map.paintOver();
    const found = on ? source.head({ trace, layer, head, aside: get("aside") }, "beside_") : null;
    if (found !== null) second.receive(found);
    if (changed) resize();
  }

  function drawWords() {
    const { summary, tokens, pool } = first.shown;
    links.replaceChildren(...(summary.links.length > 0 ? [linkTable(first.shown, first.link)] : []));
    const said = headNotes(summary, { tokens, pool, chosen: facts.chosen });
    if (exported) said.push(...fileNotes({ leftOut: get("left_out"), pool, aside: get("aside") }));
    notes.replaceChildren(...said.map((each) => make("p", "", each)));
  }

  /** @param {"svg" | "png"} kind */
  function keep(kind) {
    savePicture(`attention-layer-${get("layer")}-head-${get("head")}`, kind, headSvg(first.shown));
  }

  // ------------------------------------------------------------------------------------------------------ listening

  function recolour() {
    if (!shared.recolour()) return;
    bar.drawLegend();
    map.recolour();
    for (const pane of drawn()) pane.recolour();
    text.recolour();
  }

  function asideChanged() {
    if (exported) {
      receive();
      receiveBeside();
    }
    map.update();
  }

  function markedChanged() {
    for (const pane of drawn()) pane.drawMark();
    map.paintOver();
    text.update();
    ablation.update();
  }

  /** The style sheet gives each part its room, and what is in it is drawn as wide. */
  function resize() {
    recolour();
    map.resize();
    for (const pane of drawn()) pane.resize();
  }

  view.on(["layer", "head"], headChanged);
  view.on("version", receive);
  view.on("beside", () => (exported || get("beside").length === 0 ? receiveBeside() : bar.draw()));
  view.on("beside_version", receiveBeside);
  view.on("marked", markedChanged);
  view.on([...shared.parts, "measure", "order", "map_status"], map.update);
  view.on("scale", recolour);
  view.on("aside", asideChanged);
  view.on(["effect", "effect_status"], ablation.update);
  view.themed(recolour);
  view.resized(resize);
  shared.recolour();
  bar.drawLegend();
  headChanged();
  if (!exported) receive();
  map.update();
  receiveBeside();
  ablation.update();
  resize();
  source.start();
  return view.unmount;
}

export default { render };
