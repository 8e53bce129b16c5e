// Accuracy against cost, by architecture, with the pairings that no other beats.

function compareFields() {
  return {
    cost: { label: "Cost", options: COSTS, initial: "memory" },
    batch: batchField(),
    task: taskField(),
    architecture: architectureField(),
    methods: methodsField(),
  };
}

function showCompare(main, route) {
  const fields = compareFields();
  const settings = readSettings(route, fields);
  const output = h("div");
  const update = () => replaceContent(output, comparison(settings));
  main.append(
    h("h1", {}, "Accuracy against cost"),
    note(
      "A pairing is on the front if no other is as cheap and as accurate. Up and to the left is better.",
    ),
    controlRow(route, fields, settings, update),
    output,
  );
  update();
}

function comparison(
  { cost: costName, batch, task, architecture, methods },
  { compact = false } = {},
) {
  const cost = costNamed(costName);
  const all = DATA.cases.filter((item) => item.task === task && isAsked(item.method, methods));
  const points = all
    .map((item) => ({
      item,
      cost: cost.of(item, batchSuffix(batch)),
      gain: currentValue(item, "accuracy"),
    }))
    .filter((point) => point.cost !== null && point.gain !== null);
  if (points.length === 0)
    return [note("No case of these choices has both an accuracy and this cost.")];
  const shown = architecture === "" ? ARCHITECTURES : [architecture];
  const lost = all.length - points.length;
  const title = cost.batch ? `${cost.label} at batch ${batch}` : cost.label;
  return [
    methodLegend(distinct(points.map((point) => point.item.method))),
    h(
      "div",
      { class: shown.length === 1 ? "" : compact ? "facets compact" : "facets" },
      shown.map((name) => architecturePlot(name, points, cost, title, shown.length > 1)),
    ),
    lost > 0
      ? note(`Left out for want of an accuracy or of this cost: ${plural(lost, "case")}.`)
      : null,
  ];
}

function architecturePlot(name, points, cost, title, small) {
  const own = points.filter((point) => point.item.architecture === name);
  if (own.length === 0)
    return h(
      "figure",
      {},
      h("figcaption", {}, h("h2", {}, shorten(name))),
      note("No case with both."),
    );
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
    below: [
      frontInWords(front, cost),
      fold("All of its numbers", () => compareTable(name, own, front, cost)),
    ],
  });
}

function drawCompare(width, own, front, everyPoint, cost, title, small) {
  const unit = axisUnit(
    own.map((point) => point.cost),
    cost.unit,
  );
  const x = (point) => point.cost / unit.size;
  const y = (point) => 100 * point.gain;
  const height = small ? Math.max(230, width * 0.55) : Math.min(460, Math.max(320, width * 0.5));
  const margins = { marginLeft: 42, marginRight: 24, marginTop: 26, marginBottom: 38 };
  const xScale = scaleOf(own.map(x));
  const yScale = scaleOf(everyPoint.map(y), { from: 0, to: 100 });
  const label = `${title}${unit.name ? ` (${unit.name})` : ""} →`;
  return plot(width, {
    height,
    ...margins,
    x: axisOptions(xScale, { label, room: width }),
    y: axisOptions(yScale, { label: "↑ accuracy (%)", room: 1.6 * height }),
    symbol: { type: "identity" },
    color: { type: "identity" },
    marks: [
      Plot.line(front, {
        x,
        y,
        curve: "step-after",
        stroke: "var(--front)",
        strokeWidth: 2,
        strokeOpacity: 0.75,
      }),
      Plot.dot(own, {
        x,
        y,
        ...methodChannels(),
        r: small ? 4.5 : 5.5,
        stroke: "var(--surface)",
        strokeWidth: 1,
      }),
      Plot.dot(front, { x, y, r: small ? 8 : 9, stroke: "var(--front)", strokeWidth: 1.5 }),
      ...(small
        ? []
        : frontLabels(front, x, y, pixels(xScale, width - 66), pixels(yScale, height - 64))),
      Plot.tip(own, Plot.pointer({ x, y, title: (point) => tipText(point, cost) })),
    ],
  });
}

function pixels({ type, domain }, length) {
  return (type === "log" ? d3.scaleLog : d3.scaleLinear)(domain, [0, length]);
}

// Names above the points, or below if there is no room; a name without room is only in the list.
function frontLabels(front, x, y, xPixels, yPixels) {
  const placed = { above: [], below: [] };
  const free = (side, point) =>
    placed[side].every(
      (other) =>
        Math.abs(xPixels(x(point)) - xPixels(x(other))) > 85 ||
        Math.abs(yPixels(y(point)) - yPixels(y(other))) > 16,
    );
  for (const point of front) {
    const side = ["above", "below"].find((candidate) => free(candidate, point));
    if (side) placed[side].push(point);
  }
  return [
    ["above", -16],
    ["below", 17],
  ].map(([side, dy]) =>
    Plot.text(placed[side], {
      x,
      y,
      dy,
      text: (point) => shorten(methodName(point.item), 20),
      fill: "currentColor",
      stroke: "var(--surface)",
      strokeWidth: 4,
    }),
  );
}

function numbersText(point, cost) {
  return `${formatValue(point.gain, "fraction")}, ${formatValue(point.cost, cost.unit)}`;
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
          h(
            "span",
            {},
            caseLink(point.item, methodName(point.item)),
            " ",
            h("span", { class: "numbers" }, numbersText(point, cost)),
          ),
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
      valueColumn(cost.label, (point) => point.cost, cost.unit),
      { label: "accuracy", number: true, cell: (point) => formatValue(point.gain, "fraction") },
      { label: "on the front", cell: (point) => (onFront.has(point) ? "yes" : "no") },
    ],
  });
}
