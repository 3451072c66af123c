// What the card says, apart from any drawing.

/** @typedef {{tried: number, solved: boolean, unaided: boolean, solution_seen: boolean}} State */

/**
 * Text with `code` between backticks, as paragraphs of [{code, text}].
 * @type {(text: string) => {code: boolean, text: string}[][]}
 */
export function paragraphs(text) {
  return text.split("\n\n").map((part) =>
    part
      .split(/`([^`]+)`/)
      .map((piece, i) => ({ code: i % 2 === 1, text: piece }))
      .filter((piece) => piece.text !== ""),
  );
}

/** An exercise's state in words; the Python side says the same. @param {State} state */
export function sayState(state) {
  if (state.solved) return state.unaided ? "solved" : "solved, with the solution seen";
  if (state.solution_seen) return "solution seen";
  return state.tried ? "tried, not solved yet" : "not tried yet";
}

/** The word the state's sign is drawn by: "solved", "open" or "new". @param {State} state */
export function stateKind(state) {
  if (state.solved) return "solved";
  return state.tried || state.solution_seen ? "open" : "new";
}

/**
 * What the one button offers next, or null: the next hint, then the solution.
 * @type {(opened: number, hints: number, shown: boolean) => {kind: "hint" | "solution", label: string} | null}
 */
export function nextStep(opened, hints, shown) {
  if (opened < hints) return { kind: "hint", label: opened === 0 ? "Show a hint" : "Show the next hint" };
  return shown ? null : { kind: "solution", label: "Show the solution" };
}
