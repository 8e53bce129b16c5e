// All that is known of one case.

function showCase(main, route) {
  const item = CASES.get(decodeId(route.rest));
  if (!item) {
    main.append(
      h("h1", {}, "No such case"),
      note(
        `This page has no case "${shorten(decodeId(route.rest) ?? route.rest)}". `,
        h("a", { href: "#/table" }, "All cases"),
        ".",
      ),
    );
    return;
  }
  const fields = {
    metric: caseMetricField(item),
    by: orderField(),
    scale: { label: "Scale", options: SCALES, initial: "auto" },
  };
  const settings = readSettings(route, fields);
  const address = { ...route, name: caseAddress(item).slice(2) };
  const changing = h("div");
  const update = () =>
    replaceContent(
      changing,
      caseHistory(item, settings),
      metricSection(item, orderBy(settings.by)),
    );
  main.append(
    h("h1", { class: "id" }, breakable(shorten(item.id, 400))),
    ...caseSummary(item).filter(Boolean),
    ...budgetSection([item]),
    h("h2", {}, "History"),
    controlRow(address, fields, settings, update),
    changing,
    ...memoryOfCase(item),
    ...invariantSection(item),
    ...attributionSection(item),
    ...transitionSection(item),
  );
  update();
}

function decodeId(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return null;
  }
}

function caseMetricField(item) {
  const metrics = item.lines.map((line) => DATA.metrics[line.metric].name);
  const moved = newestMark(item, DATA.orders[0])?.metric.name;
  return {
    label: "Metric",
    options: metrics.map((name) => ({ value: name, label: metricLabel(name) })),
    initial: moved ?? (metrics.includes("peak_bytes") ? "peak_bytes" : metrics[0]),
  };
}

function newestMark(item, order) {
  return d3.greatest(marksOf(item, order), (mark) => order.entries.indexOf(mark.entry));
}

function caseSummary(item) {
  const { status, ...state } = stateOfCase(item);
  const entry = DATA.entries[item.current];
  return [
    h(
      "p",
      { class: "lead" },
      `${shorten(methodName(item), 60)} on ${shorten(item.architecture, 60)}, task ${shorten(item.task, 60)}. Numbers of `,
      entryName(item.current),
      " (",
      h("span", { class: "numbers" }, formatDate(entry.date)),
      "): ",
      h("strong", { class: state.kind }, shorten(state.text, 600)),
      state.text === status || status === "ok" ? null : ` (${shorten(status, 600)})`,
    ),
    ...findingsOfCase(item),
    item.repeats === undefined
      ? null
      : note(
          `The first seed repeats ${shorten(item.repeats, 200)} bit for bit: its ${gainOf([item]).name} is that of there.`,
        ),
  ];
}

function caseHistory(item, { metric, by, scale }) {
  if (item.lines.length === 0) return note("No entry has a metric of this case.");
  return h("div", {}, ...historySection([item], metric, orderBy(by), scale).filter(Boolean));
}

function memoryOfCase(item) {
  const rows = BATCHES.map(({ label, suffix }) => ({
    ...memoryOf(item, suffix),
    batch: suffix === "" ? String(batchOf(item) ?? "of its own") : label,
  })).filter((row) => row.parts.length > 0);
  if (rows.length === 0) return [];
  return [
    h("h2", {}, "Memory of one training step"),
    memoryLegend(),
    ...rows.map((row) =>
      memoryFigure(
        [row],
        `Memory at batch ${row.batch}: sum ${formatValue(row.sum, "byte")}, peak ${formatValue(row.peak, "byte")}.`,
        () => `batch ${row.batch}`,
      ),
    ),
    memoryTable(rows, "Memory by category, MiB", {
      label: "MiB at batch",
      cell: (row) => row.batch,
    }),
  ];
}

const INVARIANT_WORDS = new Map([
  [true, ["good", "holds"]],
  [false, ["bad", "does not hold"]],
  [null, ["plain", "does not apply"]],
]);

function invariantSection(item) {
  const rows = DATA.invariants.map((name, index) => ({
    name,
    holds: item.invariants[index] ?? null,
    where: item.notes?.[name] ?? "",
  }));
  if (rows.length === 0) return [];
  const where = { label: "where, or why not", cell: (row) => visible(row.where) };
  return [
    h("h2", {}, "Invariants"),
    dataTable({
      caption: "Invariants",
      rows,
      columns: [
        { label: "fact", cell: (row) => h("span", { class: "mono" }, shorten(row.name, 60)) },
        {
          label: "state",
          cell: (row) =>
            h(
              "span",
              { class: `badge ${INVARIANT_WORDS.get(row.holds)[0]}` },
              INVARIANT_WORDS.get(row.holds)[1],
            ),
        },
        ...(rows.some((row) => row.where) ? [where] : []),
      ],
    }),
  ];
}

function attributionSection(item) {
  const heading = h("h2", {}, "Where its numbers come from");
  if (item.attribution.length === 0)
    return [heading, note("Its entry keeps no ledger of modules and operators.")];
  return [heading, ...item.attribution.map((part, index) => attributionFold(part, index === 0))];
}

function attributionFold({ metric: index, rows, rest, rest_rows: restRows }, open) {
  const { name, unit } = DATA.metrics[index];
  const total = d3.sum(rows, (row) => row[2]) + rest;
  const every =
    restRows > 0 || rest !== 0 ? [...rows, [`${plural(restRows, "smaller row")}`, "", rest]] : rows;
  return fold(
    `${metricLabel(name)}: ${formatValue(total, unit)}`,
    () =>
      dataTable({
        caption: `${metricLabel(name)} by module and operator`,
        rows: every,
        total: ["in all", "", total],
        columns: [
          moduleColumn(),
          operatorColumn(),
          valueColumn("value", (row) => row[2], unit),
          {
            label: "share",
            number: true,
            cell: (row) => (total === 0 ? ABSENT : formatValue(row[2] / total, "fraction")),
          },
        ],
      }),
    { open },
  );
}

function moduleColumn() {
  return { label: "module", cell: (row) => h("span", { class: "mono" }, shorten(row[0], 90)) };
}

function operatorColumn() {
  return { label: "operator", cell: (row) => h("span", { class: "mono" }, shorten(row[1], 60)) };
}

function transitionSection(item) {
  if (item.transitions.length === 0) return [];
  return [
    h("h2", {}, "Where changes came from"),
    ...item.transitions.map((transition, index) => transitionFold(transition, index === 0)),
  ];
}

function transitionFold(
  { metric: index, from, to, old, new: now, rows, rest_rows: restRows },
  open,
) {
  const { name, unit } = DATA.metrics[index];
  const summary =
    `${metricLabel(name)}: ${formatValue(old, unit)} → ${formatValue(now, unit)}, ` +
    `${formatChange(changeBetween(old, now, unit), unit)} (${shorten(DATA.entries[from].name, 40)} → ${shorten(DATA.entries[to].name, 40)})`;
  const table = () =>
    dataTable({
      caption: summary,
      rows,
      columns: [
        moduleColumn(),
        operatorColumn(),
        valueColumn("old", (row) => row[2], unit),
        valueColumn("new", (row) => row[3], unit),
        {
          label: "change",
          number: true,
          cell: (row) => signed(row[3] - row[2], (size) => formatValue(size, unit)),
        },
      ],
    });
  return fold(
    summary,
    () =>
      h(
        "div",
        {},
        note(packagesText(from, to)),
        rows.length > 0 ? table() : note("No module is known."),
        restRows > 0 ? note(`And ${plural(restRows, "row")} more.`) : null,
      ),
    { open },
  );
}
