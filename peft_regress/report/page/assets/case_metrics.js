// The measured metrics of a case: values, changes, and what each is.

function metricSection(item, order) {
  const changes = new Map(
    marksOf(item, order).map((mark) => [`${mark.metric.name} ${mark.entry}`, mark.what]),
  );
  const measured = item.lines.filter((line) => line.now !== null);
  if (measured.length === 0) return null;
  const rows = measured.map((line) => metricRow(item, line, order, changes));
  const left = item.lines.length - measured.length;
  return h(
    "section",
    {},
    h("h2", {}, "Metrics"),
    note(
      `Change: from the entry before it, by ${orderLabel(order.by)}.`,
      left > 0 ? ` ${unmeasuredWords(item, left)}` : null,
    ),
    dataTable({
      caption: "Metrics",
      rows,
      columns: [
        {
          label: "metric",
          cell: (row) => h("span", { class: "mono" }, shorten(row.metric.name, 60)),
        },
        { label: "value", number: true, cell: (row) => formatValue(row.value, row.metric.unit) },
        {
          label: "exactly",
          number: true,
          cell: (row) => (row.value === null ? ABSENT : formatExact(row.value, row.metric.unit)),
        },
        {
          label: "change",
          number: true,
          cell: (row) =>
            row.change === undefined ? ABSENT : formatChange(row.change, row.metric.unit),
        },
        ...(rows.some((row) => row.what)
          ? [{ label: "verdict", cell: (row) => (row.what ? whatBadge(row.what) : "") }]
          : []),
        { label: "better is", cell: (row) => DIRECTION_WORDS[row.metric.direction] ?? "" },
        { label: "what it is", words: true, cell: (row) => aboutMetric(row.metric) },
      ],
    }),
  );
}

function aboutMetric({ name, about }) {
  const twin = name.endsWith("_b32") && METRIC_INDEX.has(name.slice(0, -4));
  return twin ? "The same at batch 32." : about;
}

function unmeasuredWords(item, count) {
  const names = item.lines
    .filter((line) => line.now === null)
    .map((line) => metricLabel(DATA.metrics[line.metric].name));
  const shown = names.slice(0, 4).join(", ");
  return `Not measured this time: ${shown}${count > 4 ? `, and ${count - 4} more` : ""}.`;
}

const DIRECTION_WORDS = { lower: "lower", higher: "higher", same: "the same", none: "not judged" };

function metricRow(item, line, order, changes) {
  const metric = DATA.metrics[line.metric];
  const point = seriesOf(item, metric.name, order).find(({ entry }) => entry === item.current);
  return {
    metric,
    value: line.now,
    change: point === undefined ? undefined : changeOf(point, metric),
    what: changes.get(`${metric.name} ${item.current}`),
  };
}
