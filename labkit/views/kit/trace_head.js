// The first line of a view of one trace or two: the model, and how many tokens each has.

import { counted, make, visibleLabel } from "./common.js";

/** @type {(facts: {model: string, names: string[], tokens: number[]}, more?: string) => HTMLElement} */
export function traceHead({ model, names, tokens }, more = "") {
  const line = make("p", "lk-trace-head lk-muted");
  const counts = tokens.map((n, i) => `${tokens.length > 1 ? `${names[i]}: ` : ""}${counted(n, "token")}`);
  line.append(make("strong", "", visibleLabel(model, 80)), ` · ${counts.join(" · ")}${more}`);
  return line;
}
