// How a metric changed over the stored entries and runs.

const MOST_CASES = 8;

function historyFields() {
  const order = DATA.orders[0];
  const moves = lastMoves(order)?.moves ?? [];
  const last =
    moves.find((move) => move.what !== "break") ?? (moves.length > 0 ? telling(moves) : null);
  const measured = DATA.metrics.filter((_, index) =>
    DATA.cases.some((item) => item.lines.some((line) => line.metric === index)),
  );
  const metrics = measured.map((metric) => ({
    value: metric.name,
    label: metricLabel(metric.name),
  }));
  return {
    case: {
      label: "Cases: an id, or a pattern such as */lora-*/resnet18",
      initial: last?.item.id ?? DATA.cases[0].id,
      suggestions: DATA.cases.map((item) => item.id),
      wide: true,
    },
    metric: { label: "Metric", options: metrics, initial: last?.metric.name ?? metrics[0]?.value },
    by: orderField(),
  };
}

function orderField() {
  return {
    label: "In the order of",
    options: DATA.orders.map(({ by }) => ({ value: by, label: orderLabel(shorten(by, 30)) })),
    initial: DATA.orders[0].by,
  };
}

function showHistory(main, route) {
  const fields = historyFields();
  const settings = readSettings(route, fields);
  const output = h("div");
  const update = () => replaceContent(output, historyOf(settings));
  main.append(
    h("h1", {}, "History"),
    note(
      "Marked points changed by more than the metric's bound from the point before, in the chosen order.",
    ),
    controlRow(route, fields, settings, update),
    output,
    fold(`The ${plural(DATA.entries.length, "entry", "entries")}`, entryTable),
  );
  update();
}

function historyOf({ case: pattern, metric, by }) {
  if (metric === undefined) return [note("No case has a metric.")];
  const found = casesLike(pattern);
  if (found.length === 0) {
    return [
      note(
        `No case is like "${shorten(pattern)}". Ids are <task>/<method>-r<rank>/<architecture>; * stands for anything.`,
      ),
    ];
  }
  const shown = found.slice(0, MOST_CASES);
  return [
    found.length > shown.length
      ? note(`${plural(found.length, "case")} are like this; the first ${MOST_CASES} are shown.`)
      : null,
    ...historySection(shown, metric, orderBy(by)),
  ];
}

function entryTable() {
  const rows = d3.range(DATA.entries.length).reverse().slice(0, MOST_ROWS);
  const entry = (index) => DATA.entries[index];
  return dataTable({
    caption: "Entries, the newest first",
    rows,
    columns: [
      { label: "entry", cell: entryName },
      { label: "date", cell: (index) => formatDate(entry(index).date) },
      { label: "role", cell: (index) => shorten(entry(index).role, 20) },
      {
        label: "against the one before",
        words: true,
        cell: (index) => (index > 0 ? packagesText(index - 1, index) : ABSENT),
      },
      { label: "machine", words: true, cell: (index) => shorten(entry(index).machine, 60) },
      {
        label: "what ran",
        cell: (index) =>
          entry(index).complete
            ? "all"
            : `part: ${shorten(entry(index).narrowed_by.join(" "), 60)}`,
      },
      {
        label: "why it was accepted",
        words: true,
        cell: (index) => shorten(entry(index).reason, 160),
      },
    ],
  });
}
