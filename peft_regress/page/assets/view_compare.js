// Accuracy against what it costs, by architecture, with the pairings that none other beats.

const COSTS = [
  { value: "memory", label: "peak memory", unit: "byte", batch: true, of: (item, suffix) => currentValue(item, `peak_bytes${suffix}`) },
  { value: "flops", label: "FLOPs of one update", unit: "flop", batch: true, of: updateFlops },
  { value: "trained", label: "trained parameters", unit: "count", of: (item) => currentValue(item, "trainable_params") },
  { value: "ship", label: "size to ship", unit: "byte", of: (item) => currentValue(item, "adapter_bytes") },
];

function compareFields() {
  return {
    cost: { label: "Cost", options: COSTS, initial: "memory" },
    batch: batchField(),
    task: taskField(),
    architecture: architectureField(),
  };
}

function showCompare(main, route) {
  const fields = compareFields();
  const settings = readSettings(route, fields);
  const output = h("div");
  const update = () => replaceContent(output, comparison(settings));
  main.append(
    h("h1", {}, "Accuracy against cost"),
    note("A pairing is on the front where no other is as cheap and as accurate. Up and to the left is better."),
    controlRow(route, fields, settings, update),
    output,
  );
  update();
}

function comparison({ cost: costName, batch, task, architecture }) {
  const cost = COSTS.find((item) => item.value === costName);
  const all = DATA.cases.filter((item) => item.task === task);
  const points = all
    .map((item) => ({ item, cost: cost.of(item, batchSuffix(batch)), gain: currentValue(item, "accuracy") }))
    .filter((point) => point.cost !== null && point.gain !== null);
  if (points.length === 0) return [note("No case of this task has both an accuracy and this cost.")];
  const shown = architecture === "" ? ARCHITECTURES : [architecture];
  const lost = all.length - points.length;
  const title = cost.batch ? `${cost.label} at batch ${batch}` : cost.label;
  return [
    methodLegend(distinct(points.map((point) => point.item.method))),
    h(
      "div",
      { class: shown.length > 1 ? "facets" : "" },
      shown.map((name) => architecturePlot(name, points, cost, title, shown.length > 1)),
    ),
    lost > 0 ? note(`Left out for want of an accuracy or of this cost: ${plural(lost, "case")}.`) : null,
  ];
}

function architecturePlot(name, points, cost, title, small) {
  const own = points.filter((point) => point.item.architecture === name);
  if (own.length === 0) return h("figure", {}, h("figcaption", {}, shorten(name)), note("No case with both."));
  const front = paretoFront(own);
  const cheapest = front[0];
  const best = front.at(-1);
  return figure({
    title: h("h2", {}, shorten(name)),
    label:
      `Accuracy against ${title} on ${shorten(name)}: ${plural(own.length, "pairing")}, ${front.length} on the Pareto front, ` +
      `from ${pointText(cheapest, cost)} to ${pointText(best, cost)}.`,
    draw: (width) => drawCompare(width, own, front, points, cost, title, small),
    open: openCase,
    below: [frontInWords(front, cost), fold("All of its numbers", () => compareTable(name, own, front, cost))],
  });
}

function drawCompare(width, own, front, everyPoint, cost, title, small) {
  const unit = axisUnit(own.map((point) => point.cost), cost.unit);
  const x = (point) => point.cost / unit.size;
  const y = (point) => 100 * point.gain;
  const margins = { marginLeft: 42, marginRight: 24, marginTop: 26, marginBottom: 38 };
  return plot(width, {
    height: small ? 300 : Math.min(460, Math.max(320, width * 0.5)),
    ...margins,
    x: axisOptions(own.map(x), { label: `${title}${unit.name ? ` (${unit.name})` : ""} →`, width, nice: true }),
    y: { label: "↑ accuracy (%)", grid: true, nice: true, domain: paddedExtent(everyPoint.map(y)) },
    symbol: { type: "identity" },
    marks: [
      Plot.line(front, { x, y, curve: "step-after", stroke: "var(--front)", strokeWidth: 2, strokeOpacity: 0.75 }),
      Plot.dot(own, {
        x,
        y,
        r: small ? 4.5 : 5.5,
        symbol: (point) => methodMark(point.item.method).shape,
        fill: (point) => methodMark(point.item.method).colour,
        stroke: "var(--surface)",
        strokeWidth: 1,
      }),
      Plot.dot(front, { x, y, r: small ? 8 : 9, stroke: "var(--front)", strokeWidth: 1.5 }),
      small ? null : Plot.text(front, { x, y, text: (point) => methodName(point.item), dy: -14, fill: "currentColor", stroke: "var(--surface)", strokeWidth: 4 }),
      Plot.tip(own, Plot.pointer({ x, y, title: (point) => tipText(point, cost) })),
    ],
    color: { type: "identity" },
  });
}

function paddedExtent(values) {
  const [least, most] = d3.extent(values);
  const room = Math.max((most - least) * 0.08, 1);
  return [Math.max(0, least - room), Math.min(100, most + room)];
}

function pointText(point, cost) {
  return `${shorten(methodName(point.item), 40)} (${formatValue(point.cost, cost.unit)}, ${formatValue(point.gain, "fraction")})`;
}

function tipText(point, cost) {
  return `${shorten(point.item.id, 60)}\n${formatValue(point.gain, "fraction")} accuracy\n${formatValue(point.cost, cost.unit)}`;
}

function frontInWords(front, cost) {
  return h(
    "div",
    { class: "front" },
    h("h3", {}, "On the Pareto front, from the cheapest"),
    h(
      "ol",
      {},
      front.map((point) =>
        h(
          "li",
          {},
          markIcon(methodMark(point.item.method).shape, methodMark(point.item.method).colour),
          caseLink(point.item, methodName(point.item)),
          ` ${formatValue(point.gain, "fraction")}, ${formatValue(point.cost, cost.unit)}`,
        ),
      ),
    ),
  );
}

function compareTable(name, own, front, cost) {
  const onFront = new Set(front);
  return dataTable({
    caption: `Accuracy and ${cost.label} on ${shorten(name)}`,
    rows: d3.sort(own, (point) => point.cost),
    columns: [
      { label: "case", cell: (point) => caseLink(point.item) },
      { label: cost.label, number: true, cell: (point) => formatValue(point.cost, cost.unit), title: (point) => formatExact(point.cost, cost.unit) },
      { label: "accuracy", number: true, cell: (point) => formatValue(point.gain, "fraction") },
      { label: "on the front", cell: (point) => (onFront.has(point) ? "yes" : "no") },
    ],
  });
}
