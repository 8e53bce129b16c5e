// At a glance: a small line for each case and metric over the entries, with what moved.

const GLANCE_METRICS = [
  "forward_flops",
  "backward_flops",
  "peak_bytes",
  "adapter_bytes",
  "accuracy",
  "score",
];
const SPARK = { width: 104, height: 26, pad: 5 };
// What is less than this share of a value, or within its bound, is drawn small.
const LEAST_SPAN = 0.02;

function glanceSection(route) {
  const fields = {
    task: taskField(),
    architecture: { ...architectureField(null), initial: mostMoved() },
  };
  const settings = readSettings(route, fields);
  const output = h("div");
  const update = () => replaceContent(output, glanceTables(settings));
  update();
  return h(
    "section",
    { class: "glance" },
    h("h2", {}, "At a glance"),
    note(
      "Each line runs over the entries; a mark is where the metric moved by more than its bound. " +
        "A line leads to its history.",
    ),
    controlRow(route, fields, settings, update),
    output,
  );
}

// Of the first task the architecture in which most moved.
function mostMoved() {
  const moves = (name) =>
    d3.sum(
      DATA.cases.filter((item) => item.architecture === name && item.task === TASKS[0]),
      (item) => 1 + 1000 * item.marks.length * isStandard(item),
    );
  return d3.greatest(ARCHITECTURES, moves);
}

function glanceTables({ task, architecture }) {
  const items = d3.sort(
    DATA.cases.filter((item) => item.task === task && item.architecture === architecture),
    (a, b) => compareText(a.name, b.name),
  );
  const [standard, others] = [items.filter(isStandard), items.filter((item) => !isStandard(item))];
  const first = standard.length > 0 ? standard : others;
  if (first.length === 0) return [note("No case of these choices.")];
  return [
    glanceTable(first),
    standard.length > 0 && others.length > 0
      ? fold(`${plural(others.length, "case")} of other methods`, () =>
          h("div", { class: "greyed" }, glanceTable(others)),
        )
      : null,
  ];
}

function glanceTable(items) {
  const known = GLANCE_METRICS.filter((name) => items.some((item) => lineOf(item, name)));
  return dataTable(
    "Each metric of each case over the entries",
    [
      { label: "method", cell: (item) => caseLink(item, item.name) },
      ...known.map((name) => ({
        label: DATA.metrics[METRIC_INDEX.get(name)].label,
        cell: (item) => sparkCell(item, name),
      })),
    ],
    items,
  );
}

function sparkCell(item, name) {
  const points = seriesOf(item, name);
  if (points.length === 0) return ABSENT;
  const metric = DATA.metrics[METRIC_INDEX.get(name)];
  const params = new URLSearchParams({
    case: item.id.toWellFormed(),
    metric: name,
  });
  const moves = points.filter((point) => point.mark !== null);
  const value = lineOf(item, name).text;
  const moved = movesWords(moves);
  return h(
    "a",
    {
      href: `#/history?${params}`,
      class: moves.length > 0 ? "spark moved-line" : "spark",
      "aria-label": `${metric.label} of ${shorten(item.id, 60)}: ${value}; ${moved ?? "moved nowhere"}`,
      title: moved,
    },
    sparkLine(points, moves, leastSpan(item, metric, points)),
    h("span", { class: "spark-value" }, value),
  );
}

function movesWords(moves) {
  if (moves.length === 0) return null;
  return moves
    .slice(-4)
    .map(({ entry, mark }) =>
      `${MARK_KINDS[mark.what].label} ${mark.text} at ${DATA.entries[entry].label}`,
    )
    .join(", ");
}

function leastSpan(item, metric, points) {
  const scale = isDifference(metric) ? 1 : d3.max(points, (point) => Math.abs(point.value)) || 1;
  return scale * Math.max(LEAST_SPAN, 2 * (lineOf(item, metric.name)?.bound ?? 0));
}

function sparkLine(points, moves, least) {
  const { width, height, pad } = SPARK;
  const x = d3.scaleLinear([0, Math.max(1, DATA.entries.length - 1)], [pad, width - pad]);
  const [low, high] = d3.extent(points, (point) => point.value);
  const middle = (low + high) / 2;
  const span = Math.max(high - low, least);
  const y = d3.scaleLinear([middle - span / 2, middle + span / 2], [height - pad, pad]);
  const svg = d3
    .create("svg")
    .attr("class", "spark-line")
    .attr("viewBox", `0 0 ${width} ${height}`)
    .attr("aria-hidden", "true");
  const line = d3
    .line((point) => x(point.entry), (point) => y(point.value))
    .curve(d3.curveStepAfter);
  for (const [, segment] of d3.groups(points, (point) => point.segment))
    svg.append("path").attr("class", "spark-path").attr("d", line(segment));
  for (const { entry, value, mark } of moves) {
    const { shape, colour } = MARK_KINDS[mark.what];
    const path = svg
      .append("path")
      .attr("class", "spark-mark")
      .attr("d", d3.symbol(shape, 34)())
      .attr("transform", `translate(${x(entry)},${y(value)})`);
    if (shape === d3.symbolTimes) path.style("fill", "none").style("stroke", colour);
    else path.style("fill", colour);
  }
  return svg.node();
}
