// Which view is shown: the address decides, and it may say anything.

const VIEWS = [
  { name: "", label: "Overview", show: showOverview },
  { name: "compare", label: "Compare", show: showCompare },
  { name: "table", label: "Table", show: showTable },
];

function parseRoute(hash) {
  const [path, query = ""] = splitOnce(hash.replace(/^#?\/?/, ""), "?");
  const [name, rest = ""] = splitOnce(path, "/");
  return { name, rest, params: new URLSearchParams(query) };
}

function splitOnce(text, separator) {
  const at = text.indexOf(separator);
  return at < 0 ? [text] : [text.slice(0, at), text.slice(at + 1)];
}

function showRoute({ moveFocus = true } = {}) {
  const route = parseRoute(location.hash);
  const view = VIEWS.find((item) => item.name === route.name) ?? { label: "Not found", show: showUnknown };
  const main = document.getElementById("main");
  main.replaceChildren();
  markCurrent(route.name);
  view.show(main, route);
  document.title = `${main.querySelector("h1").textContent} · peft_regress`;
  if (!moveFocus) return;
  window.scrollTo(0, 0);
  main.focus({ preventScroll: true });
}

function showUnknown(main, route) {
  main.append(
    h("h1", {}, "No such view"),
    note(`The address asks for "${shorten(route.name)}", which this page has not. `, h("a", { href: "#/" }, "Go to the overview"), "."),
  );
}

function markCurrent(name) {
  for (const link of document.querySelectorAll("#nav a")) {
    if (link.dataset.view === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

function start() {
  document
    .getElementById("nav")
    .append(
      ...VIEWS.filter((view) => view.label).map((view) => h("a", { href: `#/${view.name}`, "data-view": view.name }, view.label)),
    );
  window.addEventListener("hashchange", () => showRoute());
  showRoute({ moveFocus: false });
}

start();
