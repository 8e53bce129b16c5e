// How a metric changed over the stored entries and runs.

const MOST_CASES = 8;
const MOVED = "moved (in how many cases)";
const SCALES = [
  { value: "auto", label: "automatic" },
  { value: "linear", label: "linear" },
  { value: "log", label: "logarithmic" },
];

function historyFields() {
  const order = DATA.orders[0];
  const largest = largestMove(order) ?? telling(lastMoves(order)?.moves ?? []);
  const moved = movedCases(order);
  const options = metricOptions(order);
  return {
    case: {
      label: "Cases: an id, or a pattern like */lora-*/resnet18",
      initial: largest?.item.id ?? DATA.cases[0].id,
      suggestions: [...moved, ...DATA.cases.filter((item) => !moved.has(item))].map(
        (item) => item.id,
      ),
      wide: true,
    },
    metric: {
      label: "Metric",
      options,
      initial: largest?.metric.name ?? options[0]?.value,
    },
    by: orderField(),
    only: {
      label: "Show",
      options: [
        { value: "moved", label: "what moved" },
        { value: "all", label: "all" },
      ],
      initial: "moved",
    },
    scale: { label: "Scale", options: SCALES, initial: "auto" },
  };
}

function movedCases(order) {
  return new Set(DATA.cases.filter((item) => (item.marks[order.by] ?? []).length > 0));
}

// Those that moved stand first.
function metricOptions(order) {
  const moves = d3.rollup(
    DATA.cases.flatMap((item) => marksOf(item, order)),
    (marks) => new Set(marks.map((mark) => mark.item)).size,
    (mark) => mark.metric.name,
  );
  const measured = DATA.metrics.filter((_, index) =>
    DATA.cases.some((item) => item.lines.some((line) => line.metric === index)),
  );
  const options = measured.map(({ name }) => ({
    value: name,
    label: moves.has(name)
      ? `${metricLabel(name)} (${grouped.format(moves.get(name))})`
      : metricLabel(name),
    group: moves.has(name) ? MOVED : "did not move",
  }));
  return d3.sort(options, (option) => option.group !== MOVED);
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
      "Marked: a change beyond the metric's bound from the point before, or a new level of a noisy metric.",
    ),
    controlRow(route, fields, settings, update),
    output,
    fold(`The ${plural(DATA.entries.length, "entry", "entries")}`, entryTable),
  );
  update();
}

function historyOf({ case: pattern, metric, by, only, scale }) {
  if (metric === undefined) return [note("No case has a metric.")];
  const found = casesLike(pattern);
  if (found.length === 0) {
    return [
      note(
        `No case is like "${shorten(pattern)}". Ids are <task>/<method>-r<rank>/<architecture>; * stands for anything.`,
      ),
    ];
  }
  const order = orderBy(by);
  const moved = found.filter((item) => hasMoved(item, metric, order));
  const chosen = only === "all" || moved.length === 0 ? found : moved;
  const shown = chosen.slice(0, MOST_CASES);
  return [
    found.length > shown.length
      ? note(chosenWords({ found, moved, shown, isNarrowed: chosen === moved }))
      : null,
    ...historySection(shown, metric, order, scale),
  ];
}

function hasMoved(item, metric, order) {
  return marksOf(item, order).some((mark) => mark.metric.name === metric);
}

function chosenWords({ found, moved, shown, isNarrowed }) {
  const all = `${plural(found.length, "case")} are like this`;
  if (!isNarrowed) return `${all}; the first ${shown.length} are shown.`;
  const first = shown.length < moved.length ? `, of which the first ${shown.length} are shown` : "";
  return `${all}; ${grouped.format(moved.length)} moved${first}. "Show: all" has the others.`;
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
