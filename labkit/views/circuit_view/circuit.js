// The circuit view: the picture with its slider, the part in focus, groups, and what is knocked out.

import { aloud } from "../kit/aloud.js";
import { box, counted, decimal, make, pixels, sayOrHide, setText, unread, visibleLabel } from "../kit/common.js";
import { button, sliderFor } from "../kit/controls.js";
import { statusLine } from "../kit/field.js";
import { pictureGrid } from "../kit/grid.js";
import { legend } from "../kit/legend.js";
import { lineChart, linesOf, plain } from "../kit/line_chart.js";
import { mount } from "../kit/mount.js";
import { shape } from "../kit/plot.js";
import { sheet } from "../kit/sheet.js";
import { fold, foldShown, GROUP, groupLetter, layOut, lineNames, meanings, measuredAt, membersOf, nearestStop, partAt, partTarget, placeWords, readGraph, shownAt, signed, stops } from "./logic.js";
import { kindSample, paint, paintFocus } from "./paint.js";
import { partPanel } from "./panel.js";

/** @typedef {import("../kit/mount.js").Mounted} Mounted */
/** @typedef {import("./logic.js").Facts} Facts */
/** @typedef {import("./logic.js").Layout} Layout */
/** @typedef {import("./logic.js").Shown} Shown */
/** @typedef {import("./logic.js").Measured} Measured */

const CURVE_HEIGHT = 130;
const LABEL_KEYS = "Arrow keys go from part to part, Enter pins it, Delete knocks it out, F folds its group or takes it apart, Escape lets go.";

/**
 * How much is kept: the slider, what that carries, and the curve. Returns {element, draw(shown), chart(width)}.
 * @param {Mounted} view
 * @param {number} total
 * @param {(size: number) => void} moved
 */
function sizeBar(view, total, moved) {
  const facts = /** @type {Facts} */ (view.get("facts"));
  const curve = /** @type {Measured[]} */ (view.get("curve"));
  const measured = lineNames(curve);
  const found = stops(total, curve.map((row) => row.size));
  const { label, slider, output, say } = sliderFor("Size", view.id("size"), { min: 0, max: Math.max(0, found.length - 1), step: 1 }, (step) => moved(found[step]));
  slider.disabled = found.length < 2;
  const words = make("p", "lk-circuit-measured");
  const meaning = make("p", "lk-muted lk-small lk-circuit-meaning", meanings(measured, curve.some((row) => typeof row.random_low === "number")));
  meaning.hidden = !meaning.textContent;
  const picture = make("div", "lk-circuit-curve");
  picture.setAttribute("role", "img");
  const element = box("lk-circuit-size", box("lk-circuit-bar", label, slider, output), words, meaning, picture);
  picture.hidden = measured.length === 0;
  return {
    element,
    draw() {
      const size = view.get("size");
      const step = nearestStop(found, size);
      if (found[Number(slider.value)] !== size) slider.value = String(step);
      say(`${size} of ${total} ${facts.by}`);
      const exact = curve.some((row) => row.size === size);
      const said = [...measured, ...(exact ? ["p"] : [])].map((name) => measuredAt(curve, size, name));
      setText(words, measured.length > 0 ? said.filter(Boolean).join(" · ") : "How much of the answer they carry was not measured.");
      words.classList.toggle("lk-muted", measured.length === 0);
    },
    chart() {
      const width = Math.floor(picture.clientWidth);
      if (measured.length === 0 || width < 120) return;
      const size = view.get("size");
      const lines = measured.map((name) => ({ name: name.replaceAll("_", " "), points: curve.map((row) => /** @type {[number, number]} */ ([row.size, row[name] ?? NaN])) }));
      picture.setAttribute("aria-label", `Curves of ${measured.join(", ").replaceAll("_", " ")}. ${words.textContent}`);
      const here = (/** @type {import("../kit/line_chart.js").Scales} */ { x, plot, across }) => {
        if (size < across.low || size > across.high) return shape("g", {}); // it was not measured there
        const at = x(size);
        return shape("line", { x1: at, x2: at, y1: plot.top, y2: plot.bottom, class: "lk-circuit-here" });
      };
      const band = (/** @type {import("../kit/line_chart.js").Scales} */ { x, y, plot }, /** @type {string} */ name, /** @type {number} */ i) => {
        const there = curve.filter((row) => typeof row[`${name}_low`] === "number" && typeof row[`${name}_high`] === "number");
        const within = (/** @type {number} */ value) => Math.min(plot.bottom, Math.max(plot.top, y(value)));
        const edge = (/** @type {Measured} */ row, /** @type {string} */ end) => `${x(row.size).toFixed(1)} ${within(/** @type {number} */ (row[`${name}_${end}`])).toFixed(1)}`;
        if (there.length < 2) return [];
        const d = `M${there.map((row) => edge(row, "low")).join("L")}L${there.toReversed().map((row) => edge(row, "high")).join("L")}Z`;
        return [shape("path", { d, class: "lk-circuit-band", style: `--lk-colour: var(--lk-series-${i % 6})` })];
      };
      const given = { lines, width, height: CURVE_HEIGHT, x: facts.by, y: "share", zero: true, named: true };
      picture.replaceChildren(lineChart(given, "Not measured", (at, all) => [...measured.flatMap((name, i) => band(at, name, i)), ...linesOf(at, all), here(at)]));
    },
  };
}

/** @param {{model: import("../kit/ask.js").Model, el: HTMLElement}} widget */
function render(widget) {
  const view = mount(widget, "lk-circuit");
  const { root, exported } = view;
  root.classList.add("lk-panes");
  const facts = /** @type {Facts} */ (view.get("facts"));
  const read = () => readGraph(facts, view.get("places"), view.get("effects"), view.get("links"), view.get("weights"), view.get("direct"));
  let whole = read(); // with all parts by themselves
  const at = new Map(facts.ids.map((id, i) => [id, i]));
  const foldNow = () => {
    const folds = new Set(/** @type {string[]} */ (view.get("folded")));
    const groups = membersOf(view.get("groups")).filter(([name]) => folds.has(name));
    return fold(whole, groups.map(([name, ids]) => [name, ids.flatMap((id) => at.get(id) ?? [])]));
  };
  let folding = foldNow();
  let graph = folding.graph; // with groups folded
  const placesOf = (/** @type {string[]} */ ids) => new Set(ids.flatMap((id) => at.get(id) ?? []));
  /** @type {Shown} */
  let shown = { parts: new Set(), links: [] };
  /** @type {Layout} */
  let layout = { width: 0, height: 0, rows: [], columns: [], spots: [], place: new Map() };
  /** @type {number | null} */
  let pointed = null;
  /** @type {number[]} */
  let framed = []; // the parts of a group that is pointed at

  const head = make("p", "lk-muted");
  const parts = whole.parts.filter(({ rank }) => rank > 0).length;
  head.append(make("strong", "", plain(facts.model, 80)), ` · ${plain(facts.metric, 120)} · ${counted(parts, "part")}${whole.links.length > 0 ? `, ${counted(whole.links.length, "edge")}` : ""}`);
  const bar = sizeBar(view, whole.ranked.length, (size) => {
    view.set("size", size);
  });
  const key = make("div", "lk-small");
  const spoken = aloud(view);
  const status = statusLine();
  const removing = statusLine();

  const [under, over] = [make("canvas", "lk-circuit-canvas"), make("canvas", "lk-circuit-canvas lk-circuit-over")];
  unread(under, over);
  const picture = pictureGrid("lk-circuit-picture", {
    label: `The circuit: layers downward, tokens across. ${LABEL_KEYS}`,
    at: (x, y) => partAt(layout, x, y),
    point,
    choose: (i) => choose(i),
    key: press,
  });
  picture.append(under, over);
  const scroller = sheet(picture);
  const foot = make("p", "lk-foot");
  const panel = partPanel(view, () => graph, { go: choose, pin, knock, name: (i, text) => entitle("names", i, text), group: (i, text) => entitle("groups", i, text), fold: foldOf, members: (i) => folding.members.get(i) ?? [] });
  const groups = make("section", "lk-circuit-groups");
  const removal = box("lk-circuit-removal");
  const side = box("lk-circuit-side", panel.element, removal, removing.element, groups);
  const left = box("lk-circuit-left", scroller.element, foot, key);
  root.append(head, bar.element, status.element, box("lk-split lk-circuit-panes", left, side), spoken.element);
  status.element.hidden = exported;
  removing.element.hidden = exported;

  /** The part in focus; one in a folded group is that group. */
  const focus = () => {
    const id = view.get("focus");
    const i = at.get(id);
    if (i !== undefined) return folding.home(i);
    return [...folding.members.keys()].find((i) => graph.parts[i].id === id) ?? null;
  };

  // what somebody does ---------------------------------------------------------------------------------------------

  /** @param {number | null} i */
  function point(i) {
    if (pointed === i) return;
    pointed = i;
    drawFocus();
  }
  /** @param {number | null} i */
  function choose(i) {
    if (i !== null && !shown.parts.has(folding.home(i))) pin(i); // an edge of the panel leads to it: it is to be seen
    view.set("focus", i === null ? "" : graph.parts[folding.home(i)].id);
  }
  /** @param {number} i */
  function pin(i) {
    toggle("pins", i);
  }
  /** The ids that a part stands for: its own, or those in the group. @param {number} i */
  const idsOf = (i) => (folding.members.get(i) ?? [i]).map((each) => facts.ids[each]);
  /** @type {(trait: "pins" | "knocked", i: number) => string[]} */
  function toggled(trait, i) {
    const now = /** @type {string[]} */ (view.get(trait));
    const own = idsOf(i);
    const others = now.filter((id) => !own.includes(id));
    return own.every((id) => now.includes(id)) ? others : [...others, ...own];
  }
  /** Fold the group of a part, or take a folded one apart. @param {number} i */
  function foldOf(i) {
    const apart = folding.members.get(i);
    const name = apart ? graph.parts[i].id.slice(GROUP.length) : view.get("groups")[facts.ids[i]];
    if (name === undefined) return;
    foldGroup(name);
  }
  /** @param {string} name */
  function foldGroup(name) {
    const now = /** @type {string[]} */ (view.get("folded"));
    const apart = now.includes(name);
    const stands = apart ? folding.members.get([...folding.members.keys()].find((i) => graph.parts[i].id === GROUP + name) ?? -1)?.[0] : undefined;
    const inside = view.get("groups")[view.get("focus")] === name || view.get("focus") === GROUP + name;
    view.set("folded", apart ? now.filter((each) => each !== name) : [...now, name]);
    if (inside) view.set("focus", apart ? facts.ids[stands ?? 0] : GROUP + name);
  }
  /** @type {(trait: "pins" | "knocked", i: number) => void} */
  const toggle = (trait, i) => view.set(trait, toggled(trait, i));
  /** @param {number} i */
  function knock(i) {
    if (exported || !view.get("can_remove") || (graph.parts[i].rank === 0 && !folding.members.has(i))) return;
    removing.hear(view.wire.tell({ knocked: toggled("knocked", i) }));
  }
  /** @type {(trait: "names" | "groups", i: number, text: string) => void} */
  function entitle(trait, i, text) {
    if (i >= facts.ids.length) return;
    const { [facts.ids[i]]: _, ...others } = view.get(trait);
    view.set(trait, text.trim() ? { ...others, [facts.ids[i]]: text.trim() } : others);
  }
  /** @param {KeyboardEvent} event */
  function press({ key }) {
    const now = focus();
    if (key === "Escape") {
      choose(null);
      return now !== null;
    }
    if (now !== null && key === "Enter") pin(now);
    else if (now !== null && (key === "f" || key === "F")) foldOf(now);
    else if (now !== null && (key === "Delete" || key === "Backspace")) knock(now);
    else {
      const target = partTarget(layout, key, now);
      if (target === null) return false;
      choose(target);
      reveal(target);
    }
    return true;
  }
  /** @param {number} i */
  function reveal(i) {
    const spot = layout.place.get(i);
    if (spot === undefined) return;
    scroller.reveal(spot.x, spot.y);
  }

  // what is drawn --------------------------------------------------------------------------------------------------

  /** Of a folded group: all that is in it. @type {(ids: string[]) => Set<number>} */
  const marked = (ids) => {
    const own = placesOf(ids);
    for (const [i, members] of folding.members) if (members.every((each) => own.has(each))) own.add(i);
    return own;
  };
  const marks = () => ({
    pins: marked(view.get("pins")),
    knocked: marked(view.get("knocked")),
    letters: new Map(membersOf(view.get("groups")).flatMap(([, ids], k) => ids.map((id) => /** @type {[number, number]} */ ([folding.home(at.get(id) ?? -1), k])))),
  });
  const labels = () => new Map(Object.entries(view.get("names")).map(([id, name]) => [at.get(id) ?? -1, plain(/** @type {string} */ (name), 16)]));

  function drawPicture() {
    const width = scroller.element.clientWidth - scroller.gutter;
    if (width < 60) return;
    shown = foldShown(shownAt(whole, view.get("size"), [...placesOf(view.get("pins"))]), folding);
    layout = layOut(graph, shown, facts, width, labels());
    paint(view, under, graph, shown, layout, marks());
    for (const each of [under, over, picture]) pixels(each, { width: layout.width, height: layout.height });
    drawNames();
    drawFocus();
  }
  function drawNames() {
    scroller.drawRows(layout.rows.map(({ empty, ...row }) => ({ ...row, quiet: empty })));
    scroller.drawColumns(
      layout.columns.map(({ left, right, position, empty }) => ({
        left,
        right,
        token: position === null ? null : facts.tokens[position],
        text: "all positions",
        quiet: empty,
        said: position === null ? "" : `${position}: ${visibleLabel(facts.tokens[position], 60)}`,
      })),
    );
    picture.setAttribute("aria-description", `${counted(layout.spots.length, "part")} shown, ${counted(shown.links.length, "edge")}.`);
  }
  function drawFocus() {
    const now = pointed ?? focus();
    under.classList.toggle("lk-circuit-faded", now !== null || framed.length > 0);
    paintFocus(view, over, graph, shown, layout, marks(), now, framed);
    setText(foot, now === null ? "Point at a part for its effect." : sentence(now));
  }
  /** @param {number} i */
  function sentence(i) {
    const part = graph.parts[i];
    const name = view.get("names")[part.id];
    const unit = facts.unit ? ` ${plain(facts.unit, 40)}` : "";
    const within = folding.members.get(i);
    const effect = within ? `: ${counted(within.length, "part")}, together ${signed(part.effect)}${unit}` : part.rank > 0 ? `: ${signed(part.effect)}${unit}, rank ${part.rank}` : "";
    return `${name ? `${name}, ` : ""}${placeWords(part, facts.tokens)}${effect}${whole.links.length > 0 ? `; ${counted(graph.in[i].length, "edge")} in, ${graph.out[i].length} out` : ""}`;
  }
  function drawKey() {
    const kinds = [...new Set(whole.parts.map(({ kind }) => kind))].filter((kind) => kind !== "input" && kind !== "output");
    const title = { head: "head", mlp: "MLP", neuron: "neuron", feature: "feature", error: "error", group: "group, folded" };
    key.replaceChildren(
      legend([
        { sample: kindSample(view, kinds[0] ?? "head", 1), text: facts.signs[0] },
        { sample: kindSample(view, kinds[0] ?? "head", -1), text: `${facts.signs[1]}${whole.links.length > 0 ? "; such edges are dashed" : ""}` },
        ...[...kinds, ...(folding.members.size > 0 ? ["group"] : [])].map((kind) => ({ sample: kindSample(view, kind, 1), text: title[/** @type {keyof typeof title} */ (kind)] ?? kind })),
      ]),
    );
  }
  function drawGroups() {
    const found = membersOf(view.get("groups"));
    groups.hidden = found.length === 0;
    const list = make("ul", "lk-circuit-list");
    for (const [k, [name, ids]] of found.entries()) {
      const members = ids.flatMap((id) => at.get(id) ?? []);
      const sum = members.reduce((total, i) => total + whole.parts[i].effect, 0); // as of the folded group: not known where one is not
      const line = make("li");
      const letter = make("span", "lk-circuit-letter", groupLetter(k));
      letter.style.setProperty("--lk-colour", `var(--lk-series-${k % 6})`);
      const show = button(name, "", () => choose(members[0]));
      show.classList.add("lk-circuit-go");
      for (const event of ["pointerenter", "focus"]) show.addEventListener(event, () => ((framed = [...new Set(members.map(folding.home))]), drawFocus()));
      for (const event of ["pointerleave", "blur"]) show.addEventListener(event, () => ((framed = []), drawFocus()));
      const does = view.get("folded").includes(name) ? "Unfold" : "Fold";
      const folds = button(does, `${does} ${plain(name, 40)}`, () => foldGroup(name));
      line.append(letter, " ", show, ` ${counted(members.length, "part")}, effects together ${signed(sum)} `, folds);
      list.append(line);
    }
    groups.replaceChildren(make("h2", "", "Groups"), list);
  }
  function drawRemoval() {
    const knocked = /** @type {string[]} */ (view.get("knocked"));
    removal.hidden = knocked.length === 0;
    if (knocked.length === 0) return removal.replaceChildren();
    const { ids, what, unit, how, before, after } = view.get("removed");
    const fresh = JSON.stringify(ids) === JSON.stringify(knocked);
    const number = (/** @type {number | null} */ value) => (value === null ? "no number" : decimal(value, 4));
    const change = fresh && before !== null && after !== null ? ` (${signed(after - before)}${unit ? ` ${plain(unit, 40)}` : ""})` : "";
    const words = fresh ? `${what[0].toUpperCase()}${what.slice(1)}: ${number(before)} → ${number(after)}${change}` : "Reading the text without them …";
    const back = button("Put all back", "", () => removing.hear(view.wire.tell({ knocked: [] })));
    back.hidden = exported;
    const said = make("p", "lk-circuit-outcome", words);
    const which = make("p", "lk-muted", knocked.map((id) => placeWords(whole.parts[at.get(id) ?? 0], facts.tokens)).join(", "));
    removal.replaceChildren(make("h2", "", `Knocked out: ${counted(knocked.length, "part")}${fresh && how ? `, ${how}` : ""}`), which, said, back);
  }

  function drawAll() {
    bar.draw();
    bar.chart();
    drawPicture();
    panel.draw(focus());
    drawGroups();
    drawRemoval();
  }
  drawKey();
  drawAll();
  const refold = () => {
    folding = foldNow();
    graph = folding.graph;
    pointed = null;
    framed = [];
    drawKey();
    drawAll();
  };
  view.on(["size", "pins", "names"], drawAll);
  view.on(["groups", "folded"], refold);
  view.on("focus", () => {
    drawFocus();
    panel.draw(focus());
    spoken.say(() => (focus() === null ? null : sentence(/** @type {number} */ (focus()))));
  });
  view.on(["direct", "looked"], () => {
    whole = read();
    folding = foldNow();
    graph = folding.graph;
    panel.draw(focus());
  });
  view.on(["knocked", "removed"], () => {
    drawPicture();
    panel.draw(focus());
    drawRemoval();
  });
  view.on("sampling", () => {
    if (view.get("sampling").state === "done") panel.draw(focus());
  });
  const follow = () => {
    status.draw(view.get("status"), "reading the text …");
    sayOrHide(status.element, status.element.textContent ?? "");
    removing.draw(view.get("removing"), "reading the text without them …");
  };
  follow();
  view.on(["status", "removing"], follow);
  view.themed(() => {
    drawKey();
    drawAll();
  });
  view.resized(() => {
    view.theme.read();
    drawKey();
    drawAll();
  });
  view.atEnd(status.clear);
  view.atEnd(removing.clear);
  return view.unmount;
}

export default { render };
