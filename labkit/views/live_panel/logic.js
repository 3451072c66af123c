// What the live panel says of its chart, apart from any drawing.

/**
 * What Python says of the work, in `_facts`.
 * @typedef {import("../kit/progress.js").Status & {more: number, undrawn: number, pooled?: boolean, gaps: string[]}} Status
 */

/** @typedef {{title: string, unit: string, x: string, y: string, chart: "line" | "bars" | ""}} Labels */

/** @typedef {import("../kit/plot.js").Line} Line */

/**
 * What a chart shows, in words.
 * @type {(lines: Line[], labels: Labels, status: Pick<Status, "values" | "pooled">) => string}
 */
export function chartWords(lines, { chart, x, y, unit }, { values, pooled }) {
  const kind = chart === "bars" ? "Bar chart" : "Line chart";
  const of = `${y || "values"}${unit ? ` in ${unit}` : ""}${x ? ` against ${x}` : ""}`;
  const latest = values.slice(0, lines.length).map(([name, value]) => `${name} ${value}`);
  return `${kind} of ${of}: ${latest.length ? `latest ${latest.join(", ")}` : "nothing yet"}${pooled ? "; drawn in stretches" : ""}`;
}
