// Elements, made by hand: text goes in as text nodes, so that nothing in the data is ever markup.

function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...present(children));
  return node;
}

function present(children) {
  return children.flat().filter((child) => child !== null && child !== undefined);
}

function replaceContent(node, ...children) {
  node.replaceChildren(...present(children));
}

// What Python wrote as HTML.
function written(html) {
  const template = document.createElement("template");
  template.innerHTML = html ?? "";
  return template.content;
}

// A table in a box of its own to scroll sideways in.
// columns: [{label, number, cell(row) -> node or text}]; the first one names the row.
function dataTable(caption, columns, rows) {
  const line = (row) =>
    h(
      "tr",
      {},
      columns.map(({ number, cell }, index) =>
        h(
          index === 0 ? "th" : "td",
          { scope: index === 0 ? "row" : null, class: number ? "number" : null },
          cell(row),
        ),
      ),
    );
  const head = columns.map(({ label, number }) =>
    h("th", { scope: "col", class: number ? "number" : null }, label),
  );
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h(
      "table",
      {},
      h("caption", { class: "unseen" }, caption),
      h("thead", {}, h("tr", {}, head)),
      h("tbody", {}, rows.map(line)),
    ),
  );
}

// Its content is made when it is first opened.
function fold(summary, makeContent) {
  const node = h("details", {}, h("summary", {}, summary));
  node.addEventListener("toggle", () => {
    if (node.open && node.childElementCount === 1) node.append(makeContent());
  });
  return node;
}

function note(...content) {
  return h("p", { class: "note" }, ...content);
}

function lead(...content) {
  return h("p", { class: "lead" }, ...content);
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
