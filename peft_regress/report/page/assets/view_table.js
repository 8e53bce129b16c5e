// Every case in one table, to be sorted and filtered. Its rows are written.

function tableFields() {
  const verdicts = distinct(DATA.cases.flatMap((item) => item.verdict ?? []));
  return {
    text: { label: "Text in the id or state", initial: "", type: "search", wide: true },
    task: { label: "Task", options: optionsOf(TASKS, "any"), initial: "" },
    method: { label: "Method", options: optionsOf(METHODS, "any"), initial: "" },
    architecture: architectureField("any"),
    rank: {
      label: "Rank",
      options: [...optionsOf(RANKS, "any"), { value: "none", label: "without rank" }],
      initial: "",
    },
    status: {
      label: "State",
      options: [
        { value: "", label: "any" },
        { value: "ok", label: "ok" },
        { value: "other", label: "not ok" },
        ...verdicts.map((verdict) => ({ value: verdict, label: verdict.replaceAll("_", " ") })),
      ],
      initial: "",
    },
    sort: { hidden: true, initial: "case" },
    down: { hidden: true, options: [{ value: "yes" }, { value: "no" }], initial: "no" },
  };
}

function showTable(main, route) {
  const fields = tableFields();
  const settings = readSettings(route, fields);
  const table = written(PAGE.html.table).firstElementChild;
  table.classList.add("tall");
  const body = table.querySelector("tbody");
  const rows = [...body.rows].map((row) => ({ row, item: caseOfRow(row) }));
  const headers = [...table.querySelectorAll("thead th")];
  const names = headers.map((header) => header.textContent);
  const count = h("p", { class: "count", role: "status" });
  const none = note("No case fits these choices.");
  let shown = [];
  const update = () => {
    const column = Math.max(0, names.indexOf(settings.sort));
    shown = sortedRows(
      rows.filter(({ item }) => matches(item, settings)),
      column,
      settings.down === "yes",
    );
    body.replaceChildren(...shown.map(({ row }) => row));
    headers.forEach((header, index) => markSorted(header, index === column, settings.down === "yes"));
    count.textContent = `${shown.length} of ${plural(rows.length, "case")}${failedWords(shown)}`;
    none.hidden = shown.length > 0;
  };
  headers.forEach((header, index) => {
    const sort = () => {
      settings.down = settings.sort === names[index] && settings.down === "no" ? "yes" : "no";
      settings.sort = names[index];
      writeSettings(route, fields, settings);
      update();
    };
    const arrow = h("span", { class: "arrow", "aria-hidden": "true" });
    replaceContent(
      header,
      h(
        "button",
        { type: "button", class: "sort", "data-column": names[index], onclick: sort },
        names[index],
        arrow,
      ),
    );
  });
  main.append(
    h("h1", {}, "All cases"),
    controlRow(route, fields, settings, update),
    h("div", { class: "above-table" }, count),
    none,
    table,
  );
  update();
}

function caseOfRow(row) {
  return CASES.get(decodeURIComponent(row.querySelector("a.case").hash.slice("#/case/".length)));
}

// Absent values stand last, whichever way the others are sorted.
function sortedRows(rows, column, descending) {
  const sign = descending ? -1 : 1;
  const keyed = rows.map((one) => ({ ...one, key: keyOf(one.row.cells[column]) }));
  return keyed.sort((a, b) => {
    if (a.key === null || b.key === null)
      return (a.key === null) - (b.key === null) || compareText(a.item.id, b.item.id);
    const order = typeof a.key === "number" ? a.key - b.key : compareText(a.key, b.key);
    return sign * order || compareText(a.item.id, b.item.id);
  });
}

function keyOf(cell) {
  if (!cell.classList.contains("number")) return cell.textContent;
  return cell.dataset.value === undefined ? null : Number(cell.dataset.value);
}

function markSorted(header, isSorted, descending) {
  header.querySelector(".arrow").textContent = isSorted ? (descending ? "▼" : "▲") : "↕";
  if (isSorted) header.setAttribute("aria-sort", descending ? "descending" : "ascending");
  else header.removeAttribute("aria-sort");
}

function failedWords(rows) {
  const counts = d3.rollup(
    rows.filter(({ item }) => item.failure),
    (failed) => failed.length,
    ({ item }) => item.failure,
  );
  const words = [...counts].map(([failure, count]) => `${count} ${failure}`);
  return words.length > 0 ? `: ${words.join(", ")}` : "";
}

function matches(item, { text, task, method, architecture, rank, status }) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const where = `${item.id} ${item.state}`.toLowerCase();
  return (
    (task === "" || item.task === task) &&
    (method === "" || item.method === method) &&
    (architecture === "" || item.architecture === architecture) &&
    (rank === "" || (rank === "none" ? item.rank === null : String(item.rank) === rank)) &&
    hasState(item, status) &&
    words.every((word) => where.includes(word))
  );
}

function hasState(item, wanted) {
  if (wanted === "") return true;
  if (wanted === "ok" || wanted === "other") return item.ok === (wanted === "ok");
  return item.verdict === wanted;
}
