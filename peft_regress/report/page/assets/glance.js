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
  const fields = glanceFields();
  const settings = readSettings(route, fields);
  const output = h("div");
  const update = () => replaceContent(output, glanceTables(settings));
  const section = h(
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
  update();
  return DATA.entries.length > 1 ? [section] : [];
}

function glanceFields() {
  const moved = d3.greatest(
    d3.rollups(
      DATA.cases.filter(isStandard),
      (items) => d3.sum(items, (item) => marksOf(item, DATA.orders[0]).length),
      (item) => item.architecture,
    ),
    ([, count]) => count,
  );
  return {
    task: taskField(),
    architecture: {
      ...architectureField(null),
      initial: moved?.[0] ?? ARCHITECTURES[0],
    },
    by: orderField(),
  };
}

function isStandard(item) {
  return FIRST_METHODS.includes(item.method);
}

function glanceTables({ task, architecture, by }) {
  const order = orderBy(by);
  const items = d3.sort(
    DATA.cases.filter((item) => item.task === task && item.architecture === architecture),
    (a, b) => placeOfMethod(a) - placeOfMethod(b) || compareText(a.id, b.id),
  );
  const [standard, others] = [items.filter(isStandard), items.filter((item) => !isStandard(item))];
  const first = standard.length > 0 ? standard : others;
  const rest = standard.length > 0 ? others : [];
  if (first.length === 0) return [note("No case of these choices.")];
  return [
    glanceTable(first, order),
    rest.length > 0
      ? fold(`${plural(rest.length, "case")} of other methods`, () =>
          h("div", { class: "greyed" }, glanceTable(rest, order)),
        )
      : null,
  ];
}

function placeOfMethod({ method }) {
  const place = FIRST_METHODS.indexOf(method);
  return place < 0 ? FIRST_METHODS.length : place;
}

function glanceTable(items, order) {
  const known = GLANCE_METRICS.filter((name) => METRIC_INDEX.has(name));
  return dataTable({
    caption: "Each metric of each case over the entries",
    rows: items,
    columns: [
      { label: "method", cell: (item) => caseLink(item, methodName(item)) },
      ...known.map((name) => ({
        label: metricLabel(name),
        cell: (item) => sparkCell(item, name, order),
      })),
    ],
  });
}

function sparkCell(item, name, order) {
  const points = seriesOf(item, name, order);
  if (points.length === 0) return ABSENT;
  const metric = DATA.metrics[METRIC_INDEX.get(name)];
  const params = new URLSearchParams({
    case: item.id.toWellFormed(),
    metric: name,
    by: order.by.toWellFormed(),
  });
  const moves = points.filter((point) => point.mark !== null);
  const value = formatValue(currentValue(item, name), metric.unit);
  return h(
    "a",
    {
      href: `#/history?${params}`,
      class: moves.length > 0 ? "spark moved-line" : "spark",
      "aria-label": `${metricLabel(name)} of ${shorten(item.id, 60)}: ${value}${movesWords(moves, metric)}`,
      title: movesTitle(moves, metric),
    },
    sparkLine(points, moves, order, leastSpan(item, metric, points)),
    h("span", { class: "spark-value" }, value),
  );
}

function movesWords(moves, metric) {
  return moves.length === 0 ? ", moved nowhere" : `; ${movesTitle(moves, metric)}`;
}

function movesTitle(moves, metric) {
  if (moves.length === 0) return null;
  return moves
    .slice(-4)
    .map(({ entry, mark }) => {
      const size = mark.change === null ? "" : ` ${formatChange(mark.change, metric.unit)}`;
      return `${markKind(mark.what).label}${size} at ${shorten(DATA.entries[entry].name, 40)}`;
    })
    .join(", ");
}

function leastSpan(item, metric, points) {
  const scale = isDifference(metric) ? 1 : d3.max(points, (point) => Math.abs(point.value)) || 1;
  return scale * Math.max(LEAST_SPAN, 2 * (lineOf(item, metric.name)?.bound ?? 0));
}

function sparkLine(points, moves, order, least) {
  const { width, height, pad } = SPARK;
  const place = new Map(order.entries.map((entry, index) => [entry, index]));
  const x = d3.scaleLinear([0, Math.max(1, order.entries.length - 1)], [pad, width - pad]);
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
    .line((point) => x(place.get(point.entry)), (point) => y(point.value))
    .curve(d3.curveStepAfter);
  for (const [, segment] of d3.groups(points, (point) => point.segment))
    svg.append("path").attr("class", "spark-path").attr("d", line(segment));
  for (const { entry, value, mark } of moves) {
    const { shape, colour } = markKind(mark.what);
    const path = svg
      .append("path")
      .attr("class", "spark-mark")
      .attr("d", d3.symbol(shape, 34)())
      .attr("transform", `translate(${x(place.get(entry))},${y(value)})`);
    if (shape === d3.symbolTimes) path.style("fill", "none").style("stroke", colour);
    else path.style("fill", colour);
  }
  return svg.node();
}
