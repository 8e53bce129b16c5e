// All that is known of one case: written, but for its plots.

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
  const [head, body, modules] = PAGE.html.cases[DATA.cases.indexOf(item)];
  const fields = {
    metric: caseMetricField(item),
    scale: { label: "Scale", options: SCALES, initial: "auto" },
  };
  const settings = readSettings(route, fields);
  const address = { ...route, name: caseAddress(item).slice(2) };
  const history = h("div");
  const update = () => replaceContent(history, caseHistory(item, settings));
  main.append(
    h("h1", { class: "id" }, breakable(shorten(item.id, 400))),
    written(head),
    h("h2", {}, "History"),
    controlRow(address, fields, settings, update),
    history,
    ...memoryOfCase(item),
    written(body),
    written(PAGE.html.modules[modules]),
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
  const metrics = item.lines.map((line) => DATA.metrics[line.metric]);
  const newest = d3.greatest(item.marks, (mark) => mark.entry);
  const moved = newest && DATA.metrics[newest.metric].name;
  const usual = metrics.find(({ name }) => name === "peak_bytes") ?? metrics[0];
  return {
    label: "Metric",
    options: metrics.map(({ name, label }) => ({ value: name, label })),
    initial: moved ?? usual?.name,
  };
}

function caseHistory(item, { metric, scale }) {
  if (item.lines.length === 0) return [note("No entry has a metric of this case.")];
  return historySection([item], metric, scale);
}

function memoryOfCase(item) {
  const rows = BATCHES.map(({ words, suffix }) => ({ ...memoryOf(item, suffix), words })).filter(
    (row) => row.parts.length > 0,
  );
  if (rows.length === 0) return [];
  return [
    h("h2", {}, "Memory of one training step"),
    memoryLegend(),
    ...rows.map((row) =>
      memoryFigure([row], `Memory ${row.words}: peak ${row.text}.`, () => row.words),
    ),
  ];
}
