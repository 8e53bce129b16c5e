// Which view is shown: the address decides, and it may say anything.

const VIEWS = [
  { name: "overview", label: "Overview", show: showOverview },
  { name: "changes", label: "Changes", show: showChanges },
  { name: "tradeoffs", label: "Trade-offs", show: showTradeoffs },
  { name: "history", label: "History", show: showHistory },
  { name: "memory", label: "Memory", show: showMemory },
  { name: "ranks", label: "Ranks", show: showRanks },
  { name: "table", label: "Table", show: showTable },
  { name: "fit", label: "Fits my device", show: showFit },
  { name: "case", label: null, show: showCase },
];

function parseRoute(hash) {
  const [path, query = ""] = splitOnce(hash.replace(/^#?\/?/, ""), "?");
  const [name, rest = ""] = splitOnce(path, "/");
  return { name: name || "overview", rest, params: new URLSearchParams(query) };
}

function splitOnce(text, separator) {
  const at = text.indexOf(separator);
  return at < 0 ? [text] : [text.slice(0, at), text.slice(at + 1)];
}

function showRoute({ moveFocus = true } = {}) {
  const route = parseRoute(location.hash);
  const view = VIEWS.find((item) => item.name === route.name) ?? { show: showUnknown };
  const main = document.getElementById("main");
  main.replaceChildren();
  markCurrent(route.name);
  (DATA.cases.length === 0 ? showNothing : view.show)(main, route);
  document.title = `${main.querySelector("h1").textContent} · peft_regress`;
  if (!moveFocus) return;
  window.scrollTo(0, 0);
  main.focus({ preventScroll: true });
}

function showUnknown(main, route) {
  main.append(
    h("h1", {}, "No such view"),
    note(
      `The address asks for "${shorten(route.name)}", which this page has not. `,
      h("a", { href: "#/" }, "Go to the overview"),
      ".",
    ),
  );
}

function showNothing(main) {
  main.append(
    h("h1", {}, "Nothing to show yet"),
    note(
      DATA.entries.length === 0
        ? "No entry is stored and no run file was named. "
        : `The ${plural(DATA.entries.length, "entry", "entries")} hold no case. `,
      h("code", {}, `pytest ${DATA.suite} --regress-save run.json`),
      " makes a run, and ",
      h("code", {}, `peft-regress accept run.json --reason "..."${DATA.storage}`),
      " stores it.",
    ),
  );
}

function markCurrent(name) {
  for (const link of document.querySelectorAll("#nav a")) {
    if (link.dataset.view === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

function start() {
  startTheme();
  addMemoryPatterns();
  document.getElementById("about").append(
    `Made by peft_regress ${shorten(DATA.peft_regress, 40)}. `,
    written(PAGE.html.about),
  );
  document
    .getElementById("nav")
    .append(
      ...VIEWS.filter((view) => view.label).map((view) =>
        h("a", { href: `#/${view.name}`, "data-view": view.name }, view.label),
      ),
    );
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault();
    document.getElementById("main").focus();
  });
  window.addEventListener("hashchange", () => showRoute());
  showRoute({ moveFocus: false });
  // For those who drive the page.
  globalThis.page = { views: VIEWS.filter((view) => view.label).map((view) => view.name), DATA };
}

start();
