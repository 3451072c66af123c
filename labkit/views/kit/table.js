// One table for all views.

import { make } from "./common.js";

/**
 * A table of texts, or of nodes where a cell is more than that. columns: their titles; numbers stand at the end of the cells
 * of those that are named in `numbers`.
 * @param {{columns: string[], rows: (string | Node)[][], caption?: string, numbers?: string[], className?: string}} given
 */
export function table({ columns, rows, caption = "", numbers = [], className = "" }) {
  const element = make("table", `lk-table ${className}`.trim());
  if (caption) element.append(make("caption", "", caption));
  const cell = (/** @type {string} */ tag, /** @type {string | Node} */ content, /** @type {string} */ column) => {
    const made = make(tag, numbers.includes(column) ? "lk-number" : "");
    made.append(content);
    return made;
  };
  const head = make("tr");
  for (const column of columns) {
    const made = cell("th", column, column);
    made.setAttribute("scope", "col");
    head.append(made);
  }
  element.append(head);
  for (const row of rows) {
    const line = make("tr");
    line.append(...row.map((content, i) => cell("td", content, columns[i])));
    element.append(line);
  }
  return element;
}
