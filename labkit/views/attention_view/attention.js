// The attention view as a widget: the bar, the map, one head or two, the text, and what ablation does.

import { make, thousands, visibleLabel } from "../kit/common.js";
import { mount } from "../kit/mount.js";
import { ablationStrip } from "./ablation.js";
import { controlBar } from "./bar.js";
import { headPane } from "./head.js";
import { palette } from "./logic.js";
import { headMap } from "./map.js";
import { headSvg, pngOf, saveAs } from "./picture.js";
import { fileSource, kernelSource } from "./source.js";
import { textPane } from "./text.js";
import { fileNotes, headNotes, linkTable } from "./words.js";

const SLOW = 250; // ms; what is there sooner needs no word
const WIDE = 720; // CSS pixels from where the map stands beside the head
const WIDEST = 1180; // and from where the text does
const TEXT_WIDTH = 300;
const MANY_HEADS = 16; // from where the map needs the whole width
const MAP_PARTS = Array.from({ length: 8 }, (_, i) => `map_${i}`);

function render(widget) {
  const view = mount(widget, "lk-attention");
  const { root, exported, get, set } = view;
  const [facts, texts] = [get("facts"), get("texts")];
  const source = exported ? fileSource(view.model, facts) : kernelSource(view.wire);
  const context = colours(view);
  const heads = headsThere(source, facts);

  // ------------------------------------------------------------------------------------------------------ the panes

  const bar = controlBar({
    view,
    facts,
    context,
    heads,
    actions: { choose, beside: (place) => set("beside", place), keep },
  });
  const map = headMap({
    view,
    facts,
    context,
    held: exported ? (layer, head) => heads.heads(0, layer).includes(head) : null,
    actions: { open, mark },
  });
  const panes = [0, 1].map((which) =>
    headPane({ view, which, facts, texts, source, context, actions: { mark, point: pointFrom, leave: () => map.grid.focus() } }),
  );
  const text = textPane({
    view,
    texts,
    source,
    context,
    actions: {
      trace: () => panes[0].shown.trace,
      scopes,
      point(token) {
        const place = token === null ? null : { row: token };
        panes[0].link(place);
        if (facts.same_text || sameTrace()) panes[1].link(place);
      },
    },
  });
  const ablation = ablationStrip({ view, facts, ablate: source.ablate });
  const links = make("div", "lk-att-links");
  const notes = make("div", "lk-att-notes");
  arrange();

  function arrange() {
    const first = make("p", "lk-att-head lk-muted");
    const counts = facts.tokens.map((n, i) => `${facts.tokens.length > 1 ? `${facts.names[i]}: ` : ""}${thousands(n)} token${n === 1 ? "" : "s"}`);
    first.append(make("strong", "", visibleLabel(facts.model, 80)), ` · ${counts.join(" · ")}`);
    const box = (name, ...parts) => {
      const element = make("div", name);
      element.append(...parts);
      return element;
    };
    const middle = box("lk-att-middle", box("lk-att-heads", ...panes.map((pane) => pane.element)), ablation.element);
    const side = box("lk-att-side", text.element, box("lk-att-words", links, notes));
    root.append(first, bar.element, box("lk-att-body", map.element, middle, side));
    panes[1].element.hidden = true;
  }

  const sameTrace = () => panes[0].shown.trace === panes[1].shown.trace;

  /** A cell of one pane, or null, is pointed at: show it in the text and in the other pane where it is the same text. */
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
    return found;
  }

  // ---------------------------------------------------------------------------------------------------- which head

  let slow = 0;

  function choose(layer, head) {
    view.model.set("layer", layer);
    view.model.set("head", head);
    view.model.save_changes();
  }

  function open(layer, head, beside, byKey) {
    if (!heads.heads(0, layer).includes(head)) {
      bar.status.textContent = `Layer ${layer} · head ${head} is not in this file.`;
      return;
    }
    if (beside) set("beside", [get("beside")[0] ?? facts.tokens.length - 1, layer, head]);
    else choose(layer, head);
    if (byKey) panes[beside ? 1 : 0].grid.focus();
  }

  function mark(layer, head) {
    const now = get("marked");
    const rest = now.filter(([l, h]) => l !== layer || h !== head);
    set("marked", rest.length === now.length ? [...now, [layer, head]] : rest);
  }

  /** The chosen head is another: say so at once, draw it when its numbers are here. */
  function headChanged() {
    const [layer, head] = [get("layer"), get("head")];
    bar.draw();
    map.paintOver();
    if (exported) {
      receive();
      return;
    }
    clearTimeout(slow);
    const { summary } = panes[0].shown;
    if (layer === summary.layer && head === summary.head) bar.status.textContent = "";
    else {
      slow = setTimeout(() => {
        bar.status.textContent = `computing layer ${layer} · head ${head} …`;
      }, SLOW);
    }
  }

  /** A head's codes and what is said of it, as a file holds them or as the kernel last sent them; null: not here. */
  function numbersOf(place, prefix) {
    if (exported) return source.head({ ...place, aside: get("aside") });
    const data = get(`${prefix}cells`);
    const codes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    return codes.length === 0 ? null : { codes, summary: get(`${prefix}summary`) };
  }

  function receive() {
    const found = numbersOf({ trace: 0, layer: get("layer"), head: get("head") }, "");
    if (found === null) return;
    clearTimeout(slow);
    bar.status.textContent = "";
    panes[0].receive(0, found.codes, found.summary);
    panes[0].setMarked(get("marked"));
    drawWords();
    text.update();
    ablation.update();
  }

  function receiveBeside() {
    const [trace, layer, head] = get("beside");
    const on = trace !== undefined;
    const changed = panes[1].element.hidden === on;
    panes[1].element.hidden = !on;
    bar.draw();
    map.paintOver();
    const found = on ? numbersOf({ trace, layer, head }, "beside_") : null;
    if (found !== null) {
      panes[1].receive(found.summary.trace ?? trace, found.codes, found.summary);
      panes[1].setMarked(get("marked"));
    }
    if (changed) resize();
  }

  function drawWords() {
    const { summary, tokens, pool } = panes[0].shown;
    links.replaceChildren(...(summary.links.length > 0 ? [linkTable(panes[0].shown, panes[0].link)] : []));
    const said = headNotes(summary, { tokens, pool, chosen: facts.chosen });
    if (exported) said.push(...fileNotes({ leftOut: get("left_out"), pool, aside: get("aside") }));
    notes.replaceChildren(...said.map((each) => make("p", "", each)));
  }

  async function keep(kind) {
    const svg = headSvg({ ...panes[0].picture(), colours: context.palette(), scale: get("scale"), dark: context.dark() });
    const name = `attention-layer-${get("layer")}-head-${get("head")}.${kind}`;
    saveAs(name, kind === "svg" ? new Blob([svg], { type: "image/svg+xml" }) : await pngOf(svg));
  }

  // ------------------------------------------------------------------------------------------------------ listening

  function recolour() {
    if (!context.read()) return;
    bar.drawLegend();
    map.recolour();
    for (const pane of panes) if (!pane.element.hidden) pane.recolour();
    text.recolour();
  }

  function asideChanged() {
    bar.draw();
    if (exported) {
      receive();
      receiveBeside();
    }
    map.update();
  }

  function markedChanged() {
    for (const pane of panes) if (!pane.element.hidden) pane.setMarked(get("marked"));
    map.paintOver();
    text.update();
    ablation.update();
  }

  /** Give each part its room. A map of very many heads has the whole width to itself. */
  function resize() {
    recolour();
    const width = root.clientWidth - 28;
    if (width <= 0) return;
    const wide = width >= WIDE && facts.heads <= MANY_HEADS;
    const two = !panes[1].element.hidden;
    const textBeside = wide && width >= WIDEST && !two;
    const mapWidth = Math.min(wide ? Math.min(330, Math.round(width * 0.34)) : width, Math.max(210, 30 + facts.heads * 24 + 40));
    map.element.style.width = wide ? `${mapWidth}px` : "";
    map.resize(wide ? mapWidth : width);
    const room = width - (wide ? mapWidth + 22 : 0) - (textBeside ? TEXT_WIDTH + 22 : 0);
    const sideBySide = two && room >= 640;
    for (const [name, on] of Object.entries({ wide, widest: textBeside, two: sideBySide })) root.classList.toggle(`lk-att-${name}`, on);
    const each = sideBySide ? Math.floor((room - 22) / 2) : room; // a hair less: the width is a rounded one
    for (const pane of panes) {
      pane.element.style.width = two ? `${each}px` : "";
      if (!pane.element.hidden) pane.resize(each);
    }
  }

  view.on(["layer", "head"], headChanged);
  view.on("version", receive);
  view.on("beside", () => (exported || get("beside").length === 0 ? receiveBeside() : bar.draw()));
  view.on("beside_version", receiveBeside);
  view.on("marked", markedChanged);
  view.on([...MAP_PARTS, "measure", "order", "map_status"], map.update);
  view.on("scale", () => {
    bar.draw();
    recolour();
  });
  view.on("aside", asideChanged);
  view.on(["effect", "effect_status"], ablation.update);
  view.themed(recolour);
  view.resized(resize);
  view.atEnd(() => clearTimeout(slow));
  context.read();
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

/** The colours of weights in the theme of now, and what else all panes look up. read(): whether they are others than before. */
function colours(view) {
  let key = "";
  let now = palette(false, "sqrt");
  const dark = () => view.theme.dark();
  const scale = () => view.get("scale");
  return {
    dark,
    scale,
    colour: view.theme.colour,
    palette: () => now,
    aside: () => view.get("aside"),
    mapAside: () => !view.exported && view.get("aside"),
    width: () => view.root.clientWidth,
    read() {
      view.theme.read();
      if (!view.root.isConnected || key === `${dark()} ${scale()}`) return false;
      key = `${dark()} ${scale()}`;
      now = palette(dark(), scale());
      return true;
    },
  };
}

/** Which heads can be shown: all, or those that a file holds. */
function headsThere(source, facts) {
  if (source.live) {
    const all = Array.from({ length: facts.heads }, (_, i) => i);
    return { layers: () => facts.layers, heads: () => all };
  }
  const held = (trace) => source.held.filter((each) => each.trace === trace);
  return {
    layers: (trace) => [...new Set(held(trace).map(({ layer }) => layer))],
    heads: (trace, layer) => held(trace).filter((each) => each.layer === layer).map(({ head }) => head),
  };
}

export default { render };
