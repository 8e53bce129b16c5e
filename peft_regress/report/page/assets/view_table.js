// Every case in one table, to be sorted and filtered.

const ROWS_AT_ONCE = 250;
const VERDICTS = distinct(DATA.cases.flatMap((item) => item.verdict ?? []));

function tableFields() {
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
        ...VERDICTS.map((verdict) => ({ value: verdict, label: verdictWords(verdict) })),
      ],
      initial: "",
    },
  };
}

function sortFields() {
  return {
    sort: {
      hidden: true,
      options: CASE_COLUMNS.map((column) => ({ value: column.name })),
      initial: "id",
    },
    down: { hidden: true, options: [{ value: "yes" }, { value: "no" }], initial: "no" },
  };
}

function showTable(main, route) {
  const fields = tableFields();
  const every = { ...fields, ...sortFields() };
  const settings = readSettings(route, every);
  const count = h("p", { class: "count", role: "status" });
  const found = () =>
    sortedCases(
      DATA.cases.filter((item) => matches(item, settings)),
      settings,
    );
  const csv = h(
    "button",
    {
      type: "button",
      id: "csv",
      onclick: () => download("cases.csv", casesAsCsv(found()), "text/csv;charset=utf-8"),
    },
    "Download as CSV",
  );
  const output = h("div");
  let most = ROWS_AT_ONCE;
  const sort = (name) => {
    settings.down = settings.sort === name && settings.down === "no" ? "yes" : "no";
    settings.sort = name;
    writeSettings(route, every, settings);
    update();
    output.querySelector(`[data-column="${name}"]`).focus();
  };
  const update = () => {
    const cases = found();
    const failing = failuresText(cases);
    count.textContent = `${cases.length} of ${plural(DATA.cases.length, "case")}${failing ? `: ${failing}` : ""}`;
    csv.disabled = cases.length === 0;
    const sorted = { name: settings.sort, descending: settings.down === "yes" };
    replaceContent(
      output,
      cases.length > 0
        ? caseTable("Cases", cases.slice(0, most), { sorted, sort })
        : note("No case fits these choices."),
      cases.length > most ? moreButton(cases.length - most) : null,
    );
  };
  const moreButton = (left) =>
    h(
      "button",
      { type: "button", onclick: () => ((most = Infinity), update()) },
      `Show ${left} more`,
    );
  main.append(
    h("h1", {}, "All cases"),
    controlRow(route, every, settings, update),
    h("div", { class: "above-table" }, count, csv),
    output,
  );
  update();
}

function sortedCases(cases, { sort, down }) {
  const column = CASE_COLUMNS.find((item) => item.name === sort);
  return sortCases(cases, column, down === "yes");
}

function matches(item, { text, task, method, architecture, rank, status }) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const where = `${item.id} ${statusOf(item)} ${stateOfCase(item).text}`.toLowerCase();
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
  if (wanted === "ok" || wanted === "other") return isMeasured(item) === (wanted === "ok");
  return item.verdict === wanted;
}
