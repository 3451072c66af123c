// The attention view as a widget: the bar, the map, one head or two, the text, and what ablation does.

import { make, makeRoot, thousands, visibleLabel } from "../kit/common.js";
import { SCALES, colour, exactWeight, onScale, palette } from "./logic.js";
import { ablationStrip } from "./ablation.js";
import { button, followTheme, picker, setOptions } from "../kit/controls.js";
import { axisLabel, headNotes, headPane } from "./head.js";
import { headMap } from "./map.js";
import { headSvg, pngOf, saveAs } from "./picture.js";
import { fileSource, kernelSource } from "./source.js";
import { textPane } from "./text.js";

const SLOW = 250; // ms; what is there sooner needs no word
const WIDE = 720; // CSS pixels from where the map stands beside the head
const WIDEST = 1180; // and from where the text does
const TEXT_WIDTH = 300;

function render({ model, el }) {
  const exported = Boolean(model.get("exported"));
  const prefix = `lk-${Math.random().toString(36).slice(2, 10)}`;
  const facts = model.get("facts");
  const texts = model.get("texts");
  const source = exported ? fileSource(model, facts) : kernelSource(model);
  const root = makeRoot("lk-attention");

  // ------------------------------------------------------------------------------------------- colours and context

  let dark = false;
  let colours = palette(false, "sqrt");
  const context = {
    dark: () => dark,
    aside: () => model.get("aside"),
    mapAside: () => (exported ? false : model.get("aside")),
    palette: () => colours,
    stamp: () => colours,
    width: () => root.clientWidth,
    /** A colour of the theme for a canvas, which does not understand light-dark(). */
    tone(value) {
      const pair = /light-dark\(\s*([^,]+(?:\([^)]*\))?)\s*,\s*(.+)\)\s*$/.exec(value.trim());
      return pair ? (dark ? pair[2] : pair[1]).trim() : value.trim();
    },
  };

  /** Whether the paper or the scale is another than before. */
  function readTheme() {
    if (!root.isConnected) return false;
    const brush = make("canvas").getContext("2d");
    brush.fillStyle = getComputedStyle(root).backgroundColor;
    brush.fillRect(0, 0, 1, 1);
    const [red, green, blue] = brush.getImageData(0, 0, 1, 1).data;
    const now = 0.2126 * red + 0.7152 * green + 0.0722 * blue < 110;
    const scale = model.get("scale");
    const key = `${now} ${scale}`;
    if (root.dataset.colours === key) return false;
    root.dataset.colours = key;
    dark = now;
    colours = palette(dark, scale);
    drawLegend(scale);
    return true;
  }

  // -------------------------------------------------------------------------------------------------------- the bar

  const first = make("p", "lk-att-head");
  const counts = facts.tokens.map((n, i) => `${facts.tokens.length > 1 ? `${facts.names[i]}: ` : ""}${thousands(n)} token${n === 1 ? "" : "s"}`);
  first.append(make("strong", "", visibleLabel(facts.model, 80)), ` · ${counts.join(" · ")}`);

  const bar = make("div", "lk-att-bar");
  const layerPicker = picker("Layer", `${prefix}-layer`);
  const headPicker = picker("Head", `${prefix}-head`);
  const comparePicker = picker("Beside it", `${prefix}-compare`);
  const besideLayer = picker("Layer beside", `${prefix}-beside-layer`);
  const besideHead = picker("Head beside", `${prefix}-beside-head`);
  const scales = Object.entries(SCALES).map(([value, { title }]) => ({ value, title }));
  const scalePicker = picker("Colours", `${prefix}-scale`, scales);
  const asideBox = make("input");
  asideBox.type = "checkbox";
  asideBox.id = `${prefix}-aside`;
  const asideLabel = make("label", "lk-att-check", "Set the first token aside");
  asideLabel.htmlFor = asideBox.id;
  const asidePair = make("span", "lk-pair");
  asidePair.append(asideBox, asideLabel);
  asidePair.title = "Leave out what goes to the first token, and scale the rest of each row to 100 %";
  const status = make("span", "lk-att-status");
  status.setAttribute("role", "status");
  const save = make("span", "lk-pair");
  save.append(
    make("span", "lk-att-muted", "Save"),
    button("SVG", "Save this head as an SVG picture", () => keep("svg")),
    button("PNG", "Save this head as a PNG picture", () => keep("png")),
  );
  const legend = make("div", "lk-att-legend");
  const strip = make("canvas", "lk-att-strip");
  strip.width = 256;
  strip.height = 1;
  strip.setAttribute("role", "img");
  const marks = make("div", "lk-att-marks");
  const scaleBox = make("div", "lk-att-scale");
  scaleBox.append(strip, marks);
  const legendTitle = make("span", "");
  legend.append(legendTitle, scaleBox);
  bar.append(layerPicker.pair, headPicker.pair, comparePicker.pair, besideLayer.pair, besideHead.pair, scalePicker.pair, asidePair, save, status);

  function drawLegend(scale) {
    const brush = strip.getContext("2d");
    for (let i = 0; i < 256; i += 1) {
      brush.fillStyle = `rgb(${colour(i / 255, dark).join(" ")})`;
      brush.fillRect(i, 0, 1, 1);
    }
    const { title, marks: wanted } = SCALES[scale];
    strip.setAttribute("aria-label", `Colour scale of the weights, ${title}, from ${wanted[0]} to 1`);
    legendTitle.textContent = `Weight, ${title} scale`;
    marks.replaceChildren(
      ...wanted.map((weight) => {
        const mark = make("span", "", weight === wanted[0] && scale === "log" ? `≤ ${weight}` : String(weight));
        mark.style.insetInlineStart = `${100 * onScale(weight, scale)}%`;
        return mark;
      }),
    );
  }

  // ------------------------------------------------------------------------------------------------------ the panes

  const set = (name, value) => {
    model.set(name, value);
    model.save_changes();
  };
  const holds = exported
    ? (layer, head) => source.held.some((each) => each.trace === 0 && each.layer === layer && each.head === head)
    : null;

  function mark(layer, head) {
    const now = model.get("marked");
    const rest = now.filter(([l, h]) => l !== layer || h !== head);
    set("marked", rest.length === now.length ? [...now, [layer, head]] : rest);
  }

  const map = headMap({
    model,
    facts,
    context,
    prefix,
    held: holds,
    actions: {
      set,
      mark,
      open(layer, head, beside, byKey = false) {
        if (holds && !holds(layer, head)) {
          status.textContent = `Layer ${layer} · head ${head} is not in this file.`;
          return;
        }
        if (beside) set("beside", [model.get("beside")[0] ?? facts.tokens.length - 1, layer, head]);
        else choose(layer, head);
        if (byKey) panes[beside ? 1 : 0].grid.focus();
      },
    },
  });

  let text = null;
  const panes = [0, 1].map((which) =>
    headPane({
      which,
      facts,
      texts,
      source,
      context,
      prefix,
      actions: {
        mark,
        leave: () => /** @type {HTMLElement} */ (map.element.querySelector(".lk-att-mapgrid")).focus(),
        point(from, cell) {
          if (from === 0 || panes[0].trace() === panes[1].trace()) text.link(cell?.row ?? null);
          if (facts.same_text || panes[0].trace() === panes[1].trace()) panes[1 - from].link(cell);
        },
      },
    }),
  );
  text = textPane({
    texts,
    source,
    context,
    prefix,
    actions: {
      trace: () => panes[0].trace(),
      point(token) {
        const place = token === null ? null : { row: token };
        panes[0].link(place);
        if (facts.same_text || panes[0].trace() === panes[1].trace()) panes[1].link(place);
      },
      scopes() {
        const [layer, head] = [model.get("layer"), model.get("head")];
        const all = Array.from({ length: facts.heads }, (_, i) => [layer, i]);
        const marked = model.get("marked");
        const found = [{ name: "head", title: `layer ${layer} · head ${head}`, heads: [[layer, head]] }];
        if (facts.heads > 1) found.push({ name: "layer", title: `layer ${layer}, mean of its ${facts.heads} heads`, heads: all });
        if (marked.length > 0) found.push({ name: "marked", title: `the marked heads, mean of ${marked.length}`, heads: marked });
        return found;
      },
    },
  });
  const ablation = ablationStrip({
    model,
    facts,
    actions: {
      live: !exported,
      ablate: (heads) => source.ablate(heads),
      chosen: () => ({ shown: [model.get("layer"), model.get("head")], marked: model.get("marked") }),
    },
  });

  const links = make("div", "lk-att-links");
  const notes = make("div", "lk-att-notes");
  const words = make("div", "lk-att-words");
  words.append(links, notes);
  const heads = make("div", "lk-att-heads");
  heads.append(...panes.map((pane) => pane.element));
  const middle = make("div", "lk-att-middle");
  middle.append(heads, ablation.element);
  const body = make("div", "lk-att-body");
  const top = make("div", "lk-att-top");
  top.append(bar, legend);
  const side = make("div", "lk-att-side");
  side.append(text.element, words);
  body.append(map.element, middle, side);
  root.append(first, top, body);
  el.append(root);
  panes[1].element.hidden = true;

  // ---------------------------------------------------------------------------------------------------- which head

  const layersHere = exported ? [...new Set(source.held.filter((h) => h.trace === 0).map((h) => h.layer))] : facts.layers;
  const headsHere = (layer) =>
    exported
      ? source.held.filter((h) => h.trace === 0 && h.layer === layer).map((h) => h.head)
      : Array.from({ length: facts.heads }, (_, i) => i);
  let choosing = false;
  let slow = null;

  function choose(layer, wanted) {
    const there = headsHere(layer);
    choosing = true;
    model.set("layer", layer);
    model.set("head", there.includes(wanted) ? wanted : there[0]);
    choosing = false;
    model.save_changes();
    headChanged();
  }

  /** The chosen head is another: say so at once, draw it when its numbers are here. */
  function headChanged() {
    if (choosing) return;
    const layer = model.get("layer");
    const head = model.get("head");
    setOptions(layerPicker.select, layersHere, layer);
    setOptions(headPicker.select, headsHere(layer), head);
    map.paintOver();
    if (exported) {
      receive();
      return;
    }
    clearTimeout(slow);
    const { layer: shownLayer, head: shownHead } = panes[0].summary();
    if (layer === shownLayer && head === shownHead) status.textContent = "";
    else {
      slow = setTimeout(() => {
        status.textContent = `computing layer ${layer} · head ${head} …`;
      }, SLOW);
    }
  }

  const bytes = (name) => {
    const data = model.get(name);
    return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  };

  function receive() {
    const place = { trace: 0, layer: model.get("layer"), head: model.get("head"), aside: model.get("aside") };
    const found = exported ? source.head(place) : { summary: model.get("summary"), codes: bytes("cells") };
    if (found === null || (!exported && found.codes.length === 0)) return;
    clearTimeout(slow);
    status.textContent = "";
    panes[0].receive(0, found.codes, found.summary);
    panes[0].setMarked(model.get("marked"));
    drawWords();
    text.update();
    ablation.update();
  }

  function receiveBeside() {
    const beside = model.get("beside");
    const on = beside.length === 3;
    const was = panes[1].element.hidden;
    panes[1].element.hidden = !on;
    drawCompare();
    map.paintOver();
    if (on) {
      const [trace, layer, head] = beside;
      const place = { trace, layer, head, aside: model.get("aside") };
      const found = exported ? source.head(place) : { summary: model.get("beside_summary"), codes: bytes("beside_cells") };
      if (found && found.codes.length > 0) {
        panes[1].receive(found.summary.trace ?? trace, found.codes, found.summary);
        panes[1].setMarked(model.get("marked"));
      }
    }
    if (was === on) resize(true);
  }

  function drawCompare() {
    const names = facts.tokens.length > 1 ? facts.names : ["another head"];
    const options = [{ value: "", title: "nothing" }, ...names.map((title, value) => ({ value, title }))];
    const beside = model.get("beside");
    setOptions(comparePicker.select, options, beside.length === 3 ? beside[0] : "");
    besideLayer.pair.hidden = besideHead.pair.hidden = beside.length !== 3;
    if (beside.length !== 3) return;
    const held = (layer) => (exported ? source.held.filter((h) => h.trace === beside[0] && (layer === undefined || h.layer === layer)) : null);
    setOptions(besideLayer.select, exported ? [...new Set(held().map((h) => h.layer))] : facts.layers, beside[1]);
    setOptions(besideHead.select, exported ? held(beside[1]).map((h) => h.head) : headsHere(beside[1]), beside[2]);
  }

  function drawWords() {
    const { summary, tokens, pool } = panes[0].noteParts();
    links.replaceChildren();
    if (summary.links.length > 0) {
      const table = make("table");
      const aside = tokens > 2 ? ", those to the first token and to itself aside" : "";
      const caption = make("caption", "", "Strongest links");
      caption.append(make("span", "", aside));
      const header = make("tr");
      for (const name of ["Token", "looks at", "Weight"]) {
        const cell = make("th", "", name);
        cell.scope = "col";
        header.append(cell);
      }
      table.append(caption, header);
      for (const link of summary.links) {
        const row = make("tr");
        for (const [token, i] of [[link.query_text, link.query], [link.key_text, link.key]]) {
          const cell = make("td");
          cell.append(axisLabel(token, 24), make("span", "lk-att-number", ` ${i}`));
          row.append(cell);
        }
        row.append(make("td", "lk-att-weight", exactWeight(link.weight)));
        row.addEventListener("pointerenter", () => panes[0].link({ row: Math.floor(link.query / pool) * pool, column: Math.floor(link.key / pool) * pool }));
        row.addEventListener("pointerleave", () => panes[0].link(null));
        table.append(row);
      }
      links.append(table);
    }
    const said = headNotes(summary, { tokens, pool, chosen: facts.chosen });
    if (exported && model.get("left_out")) {
      said.push(`Not in this file: ${model.get("left_out")}. They can be seen where the notebook runs.`);
    }
    if (exported) said.push("Without the notebook, weights are known to about two digits.");
    if (exported && pool > 1) said.push("In this file the text shows the highest weight of the cells that a token is in.");
    if (exported && model.get("aside") && pool > 1) said.push("In this file the first token of so long a text can't be set aside.");
    notes.replaceChildren(...said.map((each) => make("p", "", each)));
  }

  async function keep(kind) {
    const parts = panes[0].picture();
    const svg = headSvg({ ...parts, colours, scale: model.get("scale"), dark });
    const name = `attention-layer-${model.get("layer")}-head-${model.get("head")}.${kind}`;
    saveAs(name, kind === "svg" ? new Blob([svg], { type: "image/svg+xml" }) : await pngOf(svg));
  }

  // ------------------------------------------------------------------------------------------------------ listening

  const pick = () => choose(Number(layerPicker.select.value), Number(headPicker.select.value));
  layerPicker.select.addEventListener("change", pick);
  headPicker.select.addEventListener("change", pick);
  const pickBeside = () => {
    const which = comparePicker.select.value;
    if (which === "") set("beside", []);
    else {
      const now = model.get("beside");
      const wanted = [now[1] ?? model.get("layer"), now[2] ?? model.get("head")];
      const there = exported ? source.held.filter((h) => h.trace === Number(which)).map((h) => [h.layer, h.head]) : [wanted];
      const held = there.find(([layer, head]) => layer === wanted[0] && head === wanted[1]) ?? there[0];
      if (held === undefined) {
        drawCompare();
        status.textContent = "No head of it is in this file.";
      } else set("beside", [Number(which), ...held]);
    }
  };
  comparePicker.select.addEventListener("change", pickBeside);
  for (const select of [besideLayer.select, besideHead.select]) {
    select.addEventListener("change", () => {
      const layer = Number(besideLayer.select.value);
      const there = exported ? source.held.filter((h) => h.trace === model.get("beside")[0] && h.layer === layer).map((h) => h.head) : headsHere(layer);
      const head = Number(besideHead.select.value);
      set("beside", [model.get("beside")[0], layer, there.includes(head) ? head : there[0]]);
    });
  }
  scalePicker.select.addEventListener("change", () => set("scale", scalePicker.select.value));
  asideBox.addEventListener("change", () => set("aside", asideBox.checked));

  const recolour = () => {
    if (!readTheme()) return;
    map.recolour();
    for (const pane of panes) if (!pane.element.hidden) pane.recolour();
    text.recolour();
  };
  const controlsChanged = () => {
    scalePicker.select.value = model.get("scale");
    asideBox.checked = model.get("aside");
  };
  function asideChanged() {
    controlsChanged();
    if (exported) {
      receive();
      receiveBeside();
    }
    map.update();
  }
  function markedChanged() {
    for (const pane of panes) if (!pane.element.hidden) pane.setMarked(model.get("marked"));
    map.paintOver();
    text.update();
    ablation.update();
  }
  function scaleChanged() {
    controlsChanged();
    recolour();
  }

  const leaveTheme = followTheme(recolour);

  let width = 0;
  function resize(force = false) {
    recolour();
    const now = root.clientWidth - 28;
    if ((now === width && !force) || now <= 0) return;
    width = now;
    const manyHeads = facts.heads > 16;
    const wide = width >= WIDE;
    root.classList.toggle("lk-att-wide", wide && !manyHeads);
    const two = !panes[1].element.hidden;
    const textBeside = width >= WIDEST && !two && !manyHeads;
    root.classList.toggle("lk-att-widest", textBeside);
    const mapRoom = wide && !manyHeads ? Math.min(330, Math.round(width * 0.34)) : width;
    const mapWidth = Math.min(mapRoom, Math.max(210, 30 + facts.heads * 24 + 40));
    map.element.style.width = wide && !manyHeads ? `${mapWidth}px` : "";
    map.resize(wide && !manyHeads ? mapWidth : width);
    let room = wide && !manyHeads ? width - mapWidth - 22 : width;
    if (textBeside) room -= TEXT_WIDTH + 22;
    root.classList.toggle("lk-att-two", two && room >= 640);
    const each = two && room >= 640 ? Math.floor((room - 22) / 2) : room; // a hair less: the width is a rounded one
    for (const pane of panes) {
      pane.element.style.width = two ? `${each}px` : "";
      if (!pane.element.hidden) pane.resize(each);
    }
  }
  const watcher = new ResizeObserver(() => resize());

  const events = [
    ["change:layer", headChanged],
    ["change:head", headChanged],
    ["change:version", receive],
    ["change:beside", () => (exported || model.get("beside").length === 0 ? receiveBeside() : drawCompare())],
    ["change:beside_version", receiveBeside],
    ["change:marked", markedChanged],
    ["change:measure", () => map.update()],
    ["change:order", () => map.update()],
    ["change:scale", scaleChanged],
    ["change:aside", asideChanged],
    ["change:effect", () => ablation.update()],
    ["change:trouble", () => map.update()],
    ...Array.from({ length: 8 }, (_, i) => [`change:map_${i}`, () => mapSoon()]),
  ];
  let mapFrame = 0;
  function mapSoon() {
    if (mapFrame) return;
    mapFrame = requestAnimationFrame(() => {
      mapFrame = 0;
      map.update();
    });
  }
  readTheme();
  controlsChanged();
  headChanged();
  if (!exported) receive();
  map.update();
  receiveBeside();
  ablation.update();
  resize();
  watcher.observe(root);
  for (const [event, callback] of events) model.on(event, callback);
  source.start();
  return () => {
    clearTimeout(slow);
    cancelAnimationFrame(mapFrame);
    leaveTheme();
    watcher.disconnect();
    for (const pane of panes) pane.close();
    map.close();
    text.close();
    source.close();
    for (const [event, callback] of events) model.off(event, callback);
  };
}

export default { render };
