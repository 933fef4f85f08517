// Elements from values. Text becomes text, never markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** Makes an element; children that are no elements become text. */
export function make(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** Makes an element of a drawing. */
export function draw(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** Sets an element's text; leaves it alone when it is that already, so that a selection in it stays. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Sets or takes away an attribute, only where that changes something. */
export function setAttribute(element, name, value) {
  if (value === null || value === undefined) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

/** A section with a heading. */
export function section(title, ...children) {
  const id = `section-${title.toLowerCase().replaceAll(/[^a-z]+/g, "-")}`;
  return make("section", { "aria-labelledby": id }, make("h2", { id }, title), ...children);
}

/**
 * Keeps the rows of a table's body as they are told, in their order.
 *
 * `rows` are `{ key, cells }`; a cell is a text, or `{ text, class }`, or an element. A row that stays keeps its
 * elements, and with them the focus and the selection.
 */
export class Rows {
  constructor(labels) {
    this.labels = labels;
    this.body = make("tbody");
    this.known = new Map();
  }

  /** The whole table, with headings and a caption for who cannot see it. */
  table(caption) {
    const head = make("tr", {}, ...this.labels.map((label) => make("th", { scope: "col" }, label)));
    return make("table", {}, make("caption", {}, caption), make("thead", {}, head), this.body);
  }

  update(rows) {
    const keys = new Set(rows.map(({ key }) => key));
    for (const [key, row] of this.known) {
      if (!keys.has(key)) {
        row.remove();
        this.known.delete(key);
      }
    }
    rows.forEach(({ key, cells }, index) => {
      const row = this.known.get(key) ?? this.add(key);
      if (this.body.children[index] !== row) this.body.insertBefore(row, this.body.children[index] ?? null);
      cells.forEach((cell, column) => setCell(row.children[column], cell));
    });
  }

  add(key) {
    const row = make("tr", {}, ...this.labels.map((label) => make("td", { "data-label": label })));
    this.known.set(key, row);
    return row;
  }
}

function setCell(place, cell) {
  if (cell instanceof Element) {
    if (place.firstChild !== cell) place.replaceChildren(cell);
    return;
  }
  const { text, class: name } = typeof cell === "string" ? { text: cell } : cell;
  setText(place, text);
  setAttribute(place, "class", name);
}
