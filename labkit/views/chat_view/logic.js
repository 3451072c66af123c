// What of a conversation is on show: arithmetic apart from any drawing.

import { isBusy } from "../kit/field.js";

/** @typedef {{role: string, text: string, note: string, texts: number, writing: boolean}} Turn */

/**
 * The turns as they stand, the reply under way among them: a new one after the last, or in place of the one that is drawn anew.
 * @type {(turns: Omit<Turn, "writing">[], talk: {state?: string, draft?: string, turn?: number | null}) => Turn[]}
 */
export function shownTurns(turns, talk) {
  const now = turns.map((turn) => ({ ...turn, writing: false }));
  if (!isBusy(talk)) return now;
  const draft = { role: "assistant", text: talk.draft ?? "", note: "", texts: 0, writing: true };
  if (typeof talk.turn === "number" && talk.turn < now.length) now[talk.turn] = draft;
  else now.push(draft);
  return now;
}

/** How a temperature is said. @param {number} temperature */
export function temperatureWords(temperature) {
  return `${temperature.toFixed(2)}${temperature === 0 ? " (greedy)" : ""}`;
}
