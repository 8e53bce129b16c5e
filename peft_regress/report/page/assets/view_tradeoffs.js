// Accuracy against cost, by architecture, with the pairings that no other beats.

const FRONT_WORDS =
  "Ringed and joined: where no other pairing is as cheap and as accurate. A thin line spans the seeds. ";

function tradeoffFields() {
  return {
    cost: { label: "Cost", options: COSTS, initial: "memory" },
    batch: batchField(),
    task: taskField(),
    architecture: architectureField(),
    methods: methodsField(),
  };
}

function showTradeoffs(main, route) {
  const fields = tradeoffFields();
  const settings = readSettings(route, fields);
  const output = h("div");
  const update = () => replaceContent(output, tradeoffs(settings));
  main.append(
    h("h1", {}, "Accuracy against cost"),
    note(FRONT_WORDS, "Up and to the left is better."),
    controlRow(route, fields, settings, update),
    output,
  );
  update();
}

function tradeoffs(
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
      seeds: lineOf(item, "accuracy")?.seeds ?? null,
      margin: lineOf(item, "accuracy")?.bound ?? null,
    }))
    .filter((point) => point.cost !== null && point.gain !== null);
  if (points.length === 0)
    return [note("No case of these choices has both an accuracy and this cost.")];
  const shown = architecture === "" ? ARCHITECTURES : [architecture];
  const lost = all.length - points.length;
  const margin = d3.max(points, (point) => point.margin);
  const title = cost.batch ? `${cost.label} at batch ${batch}` : cost.label;
  return [
    methodLegend(distinct(points.map((point) => point.item.method))),
    margin === undefined
      ? null
      : note(
          `Accuracies closer than the gate's margin, ${formatChange(margin, "fraction").slice(1)}, are ties: ` +
            "a longer training may turn them around.",
        ),
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
    draw: (width) => drawTradeoffs(width, own, front, points, cost, title, small),
    open: openCase,
    below: [
      frontInWords(front, cost),
      fold("All of its numbers", () => tradeoffTable(name, own, front, cost)),
    ],
  });
}

function drawTradeoffs(width, own, front, everyPoint, cost, title, small) {
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
    marks: tradeoffMarks({ own, front, x, y, cost, small, scales: { xScale, yScale, width, height } }),
  });
}

// What is on the front is drawn last, so that no other point hides it; its names come last of all.
function tradeoffMarks({ own, front, x, y, cost, small, scales }) {
  const { xScale, yScale, width, height } = scales;
  const onFront = new Set(front);
  const others = own.filter((point) => !onFront.has(point));
  const seeds = (points, options) =>
    Plot.ruleX(
      points.filter((point) => point.seeds !== null),
      { x, y1: (point) => 100 * point.seeds[0], y2: (point) => 100 * point.seeds[1], ...options },
    );
  const dots = (points, options) =>
    Plot.dot(points, { x, y, ...methodChannels(), r: small ? 4.5 : 5.5, strokeWidth: 1, ...options });
  return [
    seeds(others, { stroke: "var(--edge)", strokeOpacity: 0.45 }),
    dots(others, { stroke: "var(--surface)", fillOpacity: 0.8 }),
    Plot.line(front, {
      x,
      y,
      curve: "step-after",
      stroke: "var(--front)",
      strokeWidth: 2,
      strokeOpacity: 0.75,
    }),
    seeds(front, { stroke: "var(--front)", strokeWidth: 1.25 }),
    Plot.dot(front, {
      x,
      y,
      r: small ? 8 : 9,
      stroke: "var(--front)",
      strokeWidth: 1.5,
      fill: "var(--surface)",
      fillOpacity: 0.85,
      className: "front-ring",
    }),
    dots(front, { stroke: "none", className: "front-dot" }),
    ...frontLabels(front, x, y, pixels(xScale, width - 66), pixels(yScale, height - 64), small),
    Plot.tip(own, Plot.pointer({ x, y, title: (point) => tipText(point, cost) })),
  ];
}

function pixels({ type, domain }, length) {
  return (type === "log" ? d3.scaleLog : d3.scaleLinear)(domain, [0, length]);
}

// Names above the points, or below if there is no room; a name without room is only in the list.
function frontLabels(front, x, y, xPixels, yPixels, small) {
  const placed = { above: [], below: [] };
  const free = (side, point) =>
    placed[side].every(
      (other) =>
        Math.abs(xPixels(x(point)) - xPixels(x(other))) > (small ? 70 : 85) ||
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
      className: "front-name",
    }),
  );
}

function numbersText(point, cost) {
  return `${formatValue(point.gain, "fraction")}, ${formatValue(point.cost, cost.unit)}`;
}

function pointText(point, cost) {
  return `${shorten(methodName(point.item), 40)} (${formatValue(point.cost, cost.unit)}, ${formatValue(point.gain, "fraction")})`;
}

function seedsWords({ seeds }) {
  return seeds === null
    ? ""
    : `, seeds ${seeds.map((seed) => formatValue(seed, "fraction")).join(" to ")}`;
}

function tipText(point, cost) {
  return `${shorten(point.item.id, 60)}\n${formatValue(point.gain, "fraction")} accuracy${seedsWords(point)}\n${formatValue(point.cost, cost.unit)}`;
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
            tieWords(point, front),
          ),
        ),
      ),
    ),
  );
}

// The cheapest pairing of the front that is as accurate within the margin; null without one.
function tieOf(point, front) {
  if (point.margin === null) return null;
  return (
    front.find((other) => other.cost < point.cost && point.gain - other.gain <= point.margin) ??
    null
  );
}

function tieWords(point, front) {
  const tie = tieOf(point, front);
  return tie === null
    ? null
    : h("span", { class: "tie" }, ` ties with ${shorten(methodName(tie.item), 40)}`);
}

function tradeoffTable(name, own, front, cost) {
  const onFront = new Set(front);
  return dataTable({
    caption: `Accuracy and ${cost.label} on ${shorten(name)}`,
    rows: d3.sort(own, (point) => point.cost),
    columns: [
      { label: "case", cell: (point) => caseLink(point.item) },
      valueColumn(cost.label, (point) => point.cost, cost.unit),
      { label: "accuracy", number: true, cell: (point) => formatValue(point.gain, "fraction") },
      {
        label: "seeds, lowest to highest",
        number: true,
        cell: ({ seeds }) =>
          seeds === null ? ABSENT : seeds.map((seed) => formatValue(seed, "fraction")).join(" to "),
      },
      { label: "on the front", cell: (point) => (onFront.has(point) ? "yes" : "no") },
      {
        label: "ties with",
        cell: (point) => {
          const tie = tieOf(point, front);
          return tie === null ? ABSENT : shorten(methodName(tie.item), 40);
        },
      },
    ],
  });
}
