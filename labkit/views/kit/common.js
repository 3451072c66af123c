// What all views share: text made visible, numbers written out, elements that only ever hold text.

// Control, format, private, unassigned and separator characters, and whatever a renderer may leave out.
const UNSEEN = /^[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}\p{Zs}\p{Default_Ignorable_Code_Point}]$/u;
// Joiners belong to the spelling inside an emoji sequence and in scripts whose letters join.
const JOINER = /^[\u200c\u200d]$/u;
const JOINING =
  /^[\p{Extended_Pictographic}\p{Emoji_Modifier}\ufe0f\p{Script=Arabic}\p{Script=Devanagari}\p{Script=Bengali}\p{Script=Gurmukhi}\p{Script=Gujarati}\p{Script=Oriya}\p{Script=Tamil}\p{Script=Telugu}\p{Script=Kannada}\p{Script=Malayalam}\p{Script=Sinhala}\p{Script=Mongolian}]$/u;
const MARKS_PER_TEXT = 400;

/** The name of a code point as Unicode writes it: U+202E. @param {string} character */
export function codeName(character) {
  return `U+${/** @type {number} */ (character.codePointAt(0)).toString(16).toUpperCase().padStart(4, "0")}`;
}

/** @typedef {{kind: "text" | "space" | "break" | "tab" | "code" | "rest", text: string, mark: string}} Run */

/** @type {(characters: string[], i: number) => Exclude<Run["kind"], "rest">} */
function kindOf(characters, i) {
  const character = characters[i];
  if (character === " " || character === "\u3000") return "space";
  if (character === "\n") return "break";
  if (character === "\t") return "tab";
  if (!UNSEEN.test(character)) return "text";
  if (character === "\ufe0f" && i > 0 && !/\s/u.test(characters[i - 1])) return "text"; // shows the last one as emoji
  if (JOINER.test(character) && JOINING.test(characters[i - 1] ?? "") && JOINING.test(characters[i + 1] ?? "")) {
    return "text";
  }
  return "code";
}

/**
 * Split text into runs that are drawn alike: [{kind: "text" | "space" | "break" | "tab" | "code", text, mark}].
 * The runs' texts joined give the text. A repeated invisible character is one run. After `limit` marked runs the rest
 * is one run of kind "rest", to be drawn isolated: nobody reads further, and the page stays quick.
 * spaces: false leaves plain spaces unmarked, as part of the text.
 * @type {(text: string, how?: {limit?: number, spaces?: boolean}) => Run[]}
 */
export function visibleRuns(text, { limit = MARKS_PER_TEXT, spaces = true } = {}) {
  const kindAt = (/** @type {number} */ i) => (!spaces && characters[i] === " " ? "text" : kindOf(characters, i));
  const characters = [...text];
  /** @type {Run[]} */
  const runs = [];
  let marked = 0;
  for (let i = 0; i < characters.length; ) {
    const kind = kindAt(i);
    if (kind !== "text" && marked >= limit) {
      runs.push({ kind: "rest", text: characters.slice(i).join(""), mark: "" });
      break;
    }
    let end = i + 1;
    if (kind === "text") while (end < characters.length && kindAt(end) === "text") end += 1;
    if (kind === "code") while (end < characters.length && characters[end] === characters[i]) end += 1;
    const count = end - i;
    const mark = {
      text: () => "",
      space: () => "·",
      break: () => "↵",
      tab: () => "→",
      code: () => codeName(characters[i]) + (count > 1 ? ` ×${count}` : ""),
    }[kind]();
    runs.push({ kind, text: characters.slice(i, end).join(""), mark });
    marked += kind === "text" ? 0 : 1;
    i = end;
  }
  return runs;
}

/**
 * Text on one line with every mark written in, for labels. how: as `visibleRuns` takes it.
 * @type {(text: string, limit?: number, how?: {spaces?: boolean}) => string}
 */
export function visibleLabel(text, limit = 60, how = {}) {
  let label = "";
  for (const run of visibleRuns(text, how)) {
    label += run.kind === "text" ? run.text : run.kind === "rest" ? "…" : run.mark;
    if (label.length > limit) break;
  }
  const characters = [...label];
  return characters.length > limit ? `${characters.slice(0, limit - 1).join("")}…` : label;
}

/** @type {Record<string, string>} */
const SPOKEN = { space: " ", break: " line break ", tab: " tab ", rest: " … " };

/**
 * Text as a screen reader should say it: signs for what can't be seen become words.
 * @type {(text: string, limit?: number) => string}
 */
export function spokenLabel(text, limit = 60) {
  let label = "";
  for (const run of visibleRuns(text)) {
    label += run.kind === "text" ? run.text : run.kind === "code" ? ` ${run.mark} ` : SPOKEN[run.kind];
    if (label.length > limit) break;
  }
  const said = [...label.trim().replace(/ +/g, " ")];
  if (said.length === 0) return text === "" ? "empty" : "space";
  return said.length > limit ? `${said.slice(0, limit - 1).join("")}…` : said.join("");
}

/**
 * An element with a class and a text. Text is set as text: nothing here, or anywhere, parses HTML.
 * @template {string} Tag
 * @param {Tag} tag
 * @param {string} className
 * @param {string | null} text
 * @returns {Tag extends keyof HTMLElementTagNameMap ? HTMLElementTagNameMap[Tag] : HTMLElement}
 */
export function make(tag, className = "", text = null) {
  const element = /** @type {any} */ (document.createElement(tag));
  if (className) element.className = className;
  if (text !== null) element.textContent = text;
  return element;
}

/** A box with parts in it. @type {(className: string, ...parts: (string | Node)[]) => HTMLDivElement} */
export function box(className, ...parts) {
  const element = make("div", className);
  element.append(...parts);
  return element;
}

/**
 * Put an element at a place, or give it a size: CSS pixels by the name of the property. Returns the element.
 * @template {HTMLElement} Kind
 * @param {Kind} element
 * @param {Record<string, number>} sizes
 */
export function pixels(element, sizes) {
  for (const [name, size] of Object.entries(sizes)) /** @type {any} */ (element.style)[name] = `${size}px`;
  return element;
}

/** Leave parts out of what is read aloud: what they show is said elsewhere in words. @type {(...parts: Element[]) => void} */
export function unread(...parts) {
  for (const part of parts) part.setAttribute("aria-hidden", "true");
}

/**
 * Set an element's text; one that says it already is left alone, so that what is selected in it stays so.
 * @type {(element: Node, text: string) => void}
 */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Say something in a line of its own, which is away while there is nothing to say. @type {(line: HTMLElement, text: string) => void} */
export function sayOrHide(line, text) {
  setText(line, text);
  line.hidden = text === "";
}

/**
 * A part of a view that its heading names. id: of the heading.
 * @type {(id: string, heading: string, className?: string) => {element: HTMLElement, title: HTMLElement}}
 */
export function section(id, heading, className = "") {
  const element = make("section", className);
  const title = make("h2", "", heading);
  title.id = id;
  element.setAttribute("aria-labelledby", id);
  element.append(title);
  return { element, title };
}

/**
 * Whether text within an element is selected: the end of a drag that selected it is no click on what is there.
 * @param {Element} element
 */
export function hasSelection(element) {
  const selection = element.ownerDocument.getSelection();
  return selection !== null && !selection.isCollapsed && element.contains(selection.anchorNode);
}

/** @type {Record<string, string>} */
const RUN_CLASS = { space: "lk-space", break: "lk-break", tab: "lk-tab", code: "lk-code", rest: "lk-rest" };

/**
 * Append runs to an element: the characters themselves, with their marks beside them as generated content.
 * @type {(parent: Element, runs: Run[]) => void}
 */
export function appendRuns(parent, runs) {
  for (const run of runs) {
    if (run.kind === "text") {
      parent.append(run.text);
    } else {
      const span = make("span", RUN_CLASS[run.kind], run.text);
      if (run.mark) span.dataset.mark = run.mark;
      parent.append(span);
    }
  }
}

/**
 * Outside text in place of what an element holds, with marks for what can't be seen. how: as `visibleRuns` takes it.
 * @type {(element: Element, text: string, how?: {limit?: number, spaces?: boolean}) => void}
 */
export function showText(element, text, how = { spaces: false }) {
  element.replaceChildren();
  appendRuns(element, visibleRuns(text, how));
}

/**
 * An element for outside text, which runs in its own direction.
 * @template {string} Tag
 * @param {Tag} tag
 * @param {string} className
 * @param {string} text
 */
export function outsideText(tag, className = "", text = "") {
  const element = make(tag, className);
  element.dir = "auto";
  showText(element, text);
  return element;
}

/**
 * A probability as a percentage with about three digits that matter, also close to 0 and to 1.
 * @param {number} probability
 */
export function percent(probability) {
  if (!Number.isFinite(probability)) return "unknown";
  const value = probability * 100;
  if (value <= 0) return "0 %";
  if (value >= 100) return "100 %";
  if (value < 0.001) return `${value.toExponential(1).replace("-", "−")} %`;
  if (value > 99.9) return `${value > 99.9995 ? "> 99.999" : value.toFixed(3)} %`;
  return `${value.toFixed(value >= 0.995 ? 1 : value >= 0.0995 ? 2 : 3)} %`;
}

/** A number with a true minus sign; infinities as ∞, what isn't a number as "unknown".
 * @type {(value: number, digits?: number) => string} */
export function decimal(value, digits = 2) {
  if (Number.isNaN(value)) return "unknown";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  const text = Math.abs(value).toFixed(digits);
  return value < 0 && Number(text) !== 0 ? `−${text}` : text;
}

/** A number with so many digits that matter, and a true minus. @type {(value: number, digits?: number) => string} */
export function significant(value, digits = 3) {
  return value === 0 ? "0" : value.toPrecision(digits).replace("e+", "e").replaceAll("-", "−");
}

/** A whole number with thousands separated by a comma, whatever the browser's language. @param {number} value */
export function thousands(value) {
  return String(Math.round(value)).replace(/\B(?=(\d{3})+$)/g, ",");
}

/** "1 token", "1,024 tokens". @type {(count: number, name: string) => string} */
export function counted(count, name) {
  return `${thousands(count)} ${name}${count === 1 ? "" : "s"}`;
}

/** An entropy in nats as the number of equally likely choices it amounts to. @param {number} nats */
export function equalChoices(nats) {
  const count = Math.exp(nats);
  return `${count >= 1000 && Number.isFinite(count) ? thousands(count) : decimal(count, 1)} equal choices`;
}

/**
 * Whether a key is the view's alone: one pressed with Ctrl or the like is the notebook's (save, run, undo).
 * @param {KeyboardEvent} event
 */
export function ownKey(event) {
  return !(event.ctrlKey || event.metaKey || event.altKey || event.shiftKey);
}

const KEYS_WATCHED = Symbol.for("labkit.keys-watched");

/**
 * The root of a view. JupyterLab listens for keys on the document before any element does, and its arrows, Enter and
 * Escape work on cells wherever the focus is. It leaves alone a target that carries data-lm-suppress-shortcuts (on
 * the target itself: its selectors are tried there before anything above is looked at); a listener on the window, the
 * one place that is earlier, sets that for the view's own keys and takes it away for all others.
 * @param {string} className
 */
export function makeRoot(className) {
  const root = make("div", `lk-view ${className}`);
  const watched = /** @type {Record<symbol, boolean>} */ (/** @type {unknown} */ (window));
  if (!watched[KEYS_WATCHED]) {
    watched[KEYS_WATCHED] = true;
    const watch = (/** @type {KeyboardEvent} */ event) => {
      const target = /** @type {Element} */ (event.target);
      if (target.closest?.(".lk-view")) target.toggleAttribute("data-lm-suppress-shortcuts", ownKey(event));
    };
    window.addEventListener("keydown", watch, { capture: true });
  }
  return root;
}
