// First things first: the verdict, then what changed last, at a glance, and some rows.

const FIRST_ROWS = 8;
const MOST_MOVES = 4;
const MOVE_ORDER = ["worse", "break", "moved", "better"];

function showOverview(main, route) {
  const settings = readSettings({ params: new URLSearchParams() }, tradeoffFields());
  const { title } = gainOf(DATA.cases.filter((item) => item.task === settings.task));
  main.append(
    ...verdictFirst(),
    ...glanceSection(route),
    h("h2", {}, "What is stored"),
    h("p", { class: "lead" }, countsText()),
    note(presentText()),
    ...lastMoveWords(),
    h(
      "section",
      {},
      h("h2", {}, `${title} against peak memory ${batchWords("1")}, task ${shorten(settings.task, 40)}`),
      note(
        FRONT_WORDS,
        h("a", { href: "#/tradeoffs" }, `Other costs${BATCHES.length > 1 ? ", batch 32" : ""}, other tasks`),
        ".",
      ),
      ...tradeoffs({ ...settings, architecture: "" }, { compact: true }).filter(Boolean),
    ),
    ...budgetSection(DATA.cases),
    h(
      "section",
      {},
      h("h2", {}, "Cases"),
      firstCases(),
      h(
        "p",
        {},
        h("a", { href: "#/table" }, `All ${plural(DATA.cases.length, "case")}, to sort and filter`),
      ),
    ),
  );
}

function verdictFirst() {
  if (COMPARED.verdict === null) {
    return [
      h("h1", {}, "What fine-tuning costs, and what it gains"),
      note("No verdict: the newest entry is the first with its cases, so nothing judges it."),
    ];
  }
  return [
    newestVerdict("h1"),
    ...findingSections(COMPARED.verdict),
    h("p", {}, h("a", { href: "#/changes" }, "Compare any two entries or runs")),
  ];
}

function firstCases() {
  const { name, best } = gainOf(DATA.cases);
  const column = CASE_COLUMNS.find((item) => item.name === name);
  return caseTable(
    `The ${best} cases`,
    sortCases(DATA.cases, column, true).slice(0, FIRST_ROWS),
  );
}

function countsText() {
  const failing = failuresText(DATA.cases);
  const count = DATA.cases.filter((item) => isRepeated(item, gainOf([item]).name)).length;
  const repeated = count > 0 ? `, ${count} of them ${REPEATED},` : "";
  const newest = DATA.entries.at(-1);
  const entries = plural(DATA.entries.length, "entry", "entries");
  return (
    `${plural(DATA.cases.length, "case")}${failing ? ` (${failing})` : ""}${repeated} over ${entries}; ` +
    `the newest is ${shorten(newest.name, 60)} of ${formatDate(newest.date)}.`
  );
}

function lastMoveWords() {
  const order = DATA.orders[0];
  const last = lastMoves(order);
  if (last === null) {
    return [
      note(
        DATA.entries.length > 1
          ? "Nothing has changed by more than its bound."
          : "One entry: nothing to compare it with yet.",
      ),
    ];
  }
  const groups = d3
    .groups(last.moves, (move) =>
      move.what === "break" ? "break" : `${move.what} ${move.metric.name}`,
    )
    .map(([, moves]) => moves);
  const ranked = d3.sort(
    groups,
    (moves) => MOVE_ORDER.indexOf(moves[0].what),
    (moves) => -moves.length,
  );
  const more = ranked.length - MOST_MOVES;
  return [
    h(
      "section",
      { class: "moves", "aria-label": "What changed last" },
      h(
        "p",
        {},
        `What changed last, by ${orderLabel(order.by)}: at `,
        entryName(last.entry),
        originText(last),
        ".",
      ),
      DATA.entries[last.entry].reason === ""
        ? null
        : h("p", {}, `Why it was accepted: ${shorten(DATA.entries[last.entry].reason, 240)}`),
      h(
        "ul",
        {},
        ranked.slice(0, MOST_MOVES).map((moves) => moveItem(moves, order)),
        more > 0 ? h("li", {}, `and ${plural(more, "more metric", "more metrics")}`) : null,
      ),
    ),
  ];
}

function originText({ entry, moves }) {
  const before = entryBefore(moves[0].line, DATA.orders[0], entry);
  return before === null ? "" : `, ${packagesText(before, entry)}`;
}

function moveItem(moves, order) {
  const greatest = telling(moves);
  const params = new URLSearchParams({
    case: greatest.item.id.toWellFormed(),
    metric: greatest.metric.name.toWellFormed(),
    by: order.by.toWellFormed(),
  });
  const size =
    greatest.change === null
      ? ""
      : `, by up to ${formatChange(greatest.change, greatest.metric.unit)}`;
  return h(
    "li",
    {},
    whatBadge(greatest.what),
    greatest.what === "break" ? " " : ` ${metricLabel(greatest.metric.name)} of `,
    `${plural(new Set(moves.map((move) => move.item)).size, "case")}${size}: `,
    h("a", { href: `#/history?${params}` }, shorten(greatest.item.id, 60)),
  );
}
