// What is said of tokens, experts and traces, in sentences.

import { counted, make, percent, spokenLabel, thousands } from "../kit/common.js";
import { nameOf, quoted } from "../kit/token_list.js";
import { about, against, choices, number } from "./logic.js";

/** @typedef {import("./state.js").Focus} Focus */
/** @typedef {import("./logic.js").Facts} Facts */

const AGAINST = { above: ", more than random choice gives", below: ", less than random choice gives", within: ", as random choice may give", "": "" };

/** @param {number[]} numbers */
const listed = (numbers) => (numbers.length < 2 ? numbers.join("") : `${numbers.slice(0, -1).join(", ")} and ${numbers.at(-1)}`);

/** An expert's load in the layer on show. @type {(focus: Focus, expert: number) => string} */
export function loadWords(focus, expert) {
  const share = focus.share(expert);
  const count = focus.route.load(focus.shared.layer)[expert];
  return `expert ${expert}: ${percent(share)} of the choices, ${counted(count, "token")}${AGAINST[against(share, focus.route.band)]}`;
}

/** The same of the expert whose tokens are lit, with how many of them choose it first.
 * @type {(focus: Focus, expert: number, lit: Uint8Array) => (string | Node)[]} */
export function expertSentence(focus, expert, lit) {
  const { route, shared } = focus;
  const share = focus.share(expert);
  const firsts = lit.reduce((sum, mark) => sum + Number(mark === 2), 0);
  return [
    make("strong", "", `Expert ${expert}`),
    ` takes ${thousands(route.load(shared.layer)[expert])} of ${thousands(route.counted)} tokens in layer ${shared.name}, ${thousands(firsts)} of them ` +
      `first: ${percent(share)} of the choices${AGAINST[against(share, route.band)]}.`,
  ];
}

/** Where the token in focus goes, in the layer that is pointed at. @param {Focus} focus */
export function tokenSentence({ route, shared, token, pointed, question }) {
  const layer = pointed?.layer ?? shared.layer;
  const [first, ...others] = choices(route, layer, token);
  const exact = layer === shared.layer ? shared.source.get(question, () => {}, false)?.weights : null;
  const weight = exact ? number(exact[0], true) : about(first.weight, false);
  return [
    quoted(nameOf(route, token)),
    ` (token ${thousands(token)}) goes in layer ${shared.facts.layers[layer]} to `,
    make("strong", "", `expert ${first.expert}`),
    ` (weight ${weight})${others.length > 0 ? ` and to ${listed(others.map(({ expert }) => expert))}` : ""}.`,
  ];
}

/** The same to be read out. @param {Focus} focus */
export function spokenToken({ route, shared, token, held }) {
  const all = choices(route, shared.layer, token).map(({ expert, weight }) => `expert ${expert}, weight ${about(weight, false)}`);
  return `${spokenLabel(nameOf(route, token), 40)}, token ${token}, layer ${shared.name}: ${all.join("; ")}${held === token ? "; held" : ""}`;
}

/** What is not drawn of a trace, or not counted. @param {import("./logic.js").Route} route */
export function cutNote({ n, tokens, counted: all }) {
  const said = n < tokens ? [`The first ${thousands(n)} of ${thousands(tokens)} tokens are drawn; the loads count all of them.`] : [];
  const aside = tokens - all;
  if (aside > 0) said.push(`${counted(aside, "special token")} ${aside === 1 ? "is" : "are"} not counted in the loads (dotted frame).`);
  return said.join(" ");
}

/** What the routers choose among. @param {Facts} facts */
export function routersLine({ layers, experts, k, names }) {
  const each = k.every((one) => one === k[0]) ? k[0] : k.map((one, i) => `${names[i]} ${one}`).join(", ");
  return ` · ${counted(layers.length, "routed layer")}, each with ${experts} experts: ${each} for every token`;
}

/** How a layer of the second trace chooses otherwise. @type {(facts: Facts, layer: number) => (string | Node)[]} */
export function differenceSentence({ changed, changed_first, tokens, k, layers, names }, layer) {
  const [sets, firsts, fewer, more] = [changed[layer], changed_first[layer], Math.min(...k), Math.max(...k)];
  const here = `In layer ${layers[layer]}, `;
  if (sets === 0 && fewer < more) return [`${here}every token's ${counted(fewer, "expert")} ${fewer === 1 ? "is" : "are"} among its ${more}.`];
  if (sets === 0) return [`${here}every token chooses the same experts ${names.join(" and ")}.`];
  const others = fewer < more ? `with ${fewer} what is not among the ${more}` : "other experts";
  return [
    make("strong", "", `${here}${thousands(sets)} of ${thousands(tokens[0])} tokens choose${sets === 1 ? "s" : ""} ${others}`),
    " (",
    make("span", "lk-rt-changed1", "underlined twice"),
    `), ${firsts > 0 ? thousands(firsts) : "none"} of them another first one.`,
  ];
}

/** What is to be known of all layers, and of a file. @type {(facts: Facts, exported: boolean) => string} */
export function notes({ layers, with_probabilities: held, drawn }, exported) {
  const said = [];
  if (layers.length > 1) said.push("Experts of different layers have nothing in common: the same number or colour in two rows is not the same expert.");
  if (exported) said.push("Without the notebook, weights and probabilities are known to about two digits.");
  if (exported && held.some((n, i) => n < drawn[i])) {
    const counts = [...new Set(held.map(thousands))].join(" and ");
    said.push(`This file holds the router probabilities of the first ${counts} tokens.`);
  }
  return said.join(" ");
}
