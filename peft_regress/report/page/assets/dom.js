// Elements, made by hand: text goes in as text nodes, so that nothing in the data is ever markup.

function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

function replaceContent(node, ...children) {
  node.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined));
}

// A table in a box of its own to scroll sideways in.
// One that is `tall` also scrolls downwards, under its header.
// columns: [{label, number, words, cell(row) -> node or text, title(row)}]; the one at `names` names the row; `total` stands below.
function dataTable({
  caption,
  columns,
  rows,
  names = 0,
  total = null,
  header = (column) => column.label,
  tall = false,
}) {
  const head = h(
    "tr",
    {},
    columns.map((column, index) => headerCell(column, header(column, index))),
  );
  const line = (row) =>
    h(
      "tr",
      {},
      columns.map((column, index) => bodyCell(column, row, index === names)),
    );
  return h(
    "div",
    { class: tall ? "scroll tall" : "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h(
      "table",
      {},
      h("caption", { class: "unseen" }, caption),
      h("thead", {}, head),
      h("tbody", {}, rows.map(line)),
      total === null ? null : h("tfoot", {}, line(total)),
    ),
  );
}

function headerCell(column, content) {
  return h("th", { scope: "col", class: cellClass(column), title: column.about }, content);
}

function cellClass({ number, words }) {
  return number ? "number" : words ? "words" : null;
}

function bodyCell(column, row, first) {
  const attributes = { class: cellClass(column), title: column.title?.(row) };
  const content = column.cell(row);
  return first ? h("th", { scope: "row", ...attributes }, content) : h("td", attributes, content);
}

// A column of values of one unit, each with its exact number in its title.
function valueColumn(label, of, unit) {
  return {
    label,
    number: true,
    cell: (row) => formatValue(of(row), unit),
    title: (row) => formatExact(of(row), unit),
  };
}

// Its content is made when it is first opened.
function fold(summary, makeContent, { open = false } = {}) {
  const node = h("details", { open }, h("summary", {}, summary));
  const fill = () => {
    if (node.open && node.childElementCount === 1) node.append(makeContent());
  };
  node.addEventListener("toggle", fill);
  fill();
  return node;
}

function note(...content) {
  return h("p", { class: "note" }, ...content);
}

function caseLink(item, text = item.id) {
  return h(
    "a",
    { href: caseAddress(item), class: "case", title: visible(item.id) },
    breakable(shorten(text, 60)),
  );
}

// A name that a line may break after "/" and "-" alone, and never inside a word.
function breakable(text) {
  return text.split(/(?<=[/-])/).flatMap((part, index) => (index > 0 ? [h("wbr"), part] : [part]));
}

function caseAddress(item) {
  return `#/case/${encodeURIComponent(item.id.toWellFormed())}`;
}

// Announces a change to assistive technology.
function announce(text) {
  document.getElementById("announcer").textContent = text;
}
