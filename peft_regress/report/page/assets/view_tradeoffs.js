// Accuracy against cost, by architecture, with the pairings that no other beats.

const FRONT_WORDS =
  "Ringed and joined: where no other pairing in colour is as cheap and as accurate. A thin line spans the seeds. ";
const SHOWN = [
  { value: "standard", label: "standard" },
  { value: "grey", label: "others in grey" },
  { value: "all", label: "all" },
];

function tradeoffFields() {
  return {
    cost: { label: "Cost", options: COSTS, initial: "memory" },
    batch: batchField(),
    task: taskField(),
    architecture: architectureField(),
    show: { label: "Show", options: SHOWN, initial: hasStandard() ? "standard" : "all" },
    methods: methodsField(),
  };
}

function hasStandard() {
  return METHODS.some((method) => FIRST_METHODS.includes(method));
}

function showTradeoffs(main, route) {
  const fields = tradeoffFields();
  const settings = readSettings(route, fields);
  const output = h("div");
  const update = () => replaceContent(output, tradeoffs(settings));
  main.append(
    h("h1", {}, `${gainOf(DATA.cases).title} against cost`),
    note(FRONT_WORDS, "Up and to the left is better."),
    controlRow(route, fields, settings, update),
    output,
  );
  update();
}

function tradeoffs(
  { cost: costName, batch, task, architecture, methods, show },
  { compact = false } = {},
) {
  const cost = costNamed(costName);
  const all = DATA.cases.filter((item) => item.task === task && isAsked(item.method, methods));
  const gain = gainOf(all);
  const measured = all
    .map((item) => ({
      item,
      cost: cost.of(item, batchSuffix(batch)),
      gain: currentValue(item, gain.name),
      seeds: lineOf(item, gain.name)?.seeds ?? null,
      margin: lineOf(item, gain.name)?.bound ?? null,
    }))
    .filter((point) => point.cost !== null && point.gain !== null);
  // A pattern says by itself which methods are meant.
  const isInColour = ({ item }) => show === "all" || methods.trim() !== "" || isStandard(item);
  const points = measured.filter(isInColour);
  const grey = show === "grey" ? measured.filter((point) => !isInColour(point)) : [];
  if (points.length === 0)
    return [note(`No case of these choices has both ${gain.article} and this cost.`)];
  const shown = architecture === "" ? ARCHITECTURES : [architecture];
  const lost = all.length - measured.length;
  const others = measured.length - points.length - grey.length;
  const margin = d3.max(points, (point) => point.margin);
  const title = cost.batch ? `${cost.label} ${batchWords(batch)}` : cost.label;
  return [
    methodLegend(distinct(points.map((point) => point.item.method))),
    margin === undefined
      ? null
      : note(
          `A difference in ${gain.name} within the gate's margin of ${tieText(margin, gain)} is a tie.`,
        ),
    h(
      "div",
      { class: shown.length === 1 ? "" : compact ? "facets compact" : "facets" },
      shown.map((name) => architecturePlot(name, { points, grey }, { cost, gain }, title, shown.length > 1)),
    ),
    others > 0
      ? note(`Not shown: ${plural(others, "case")} of other methods. `, h("a", { href: "#/tradeoffs?show=grey" }, "Show them in grey"), ".")
      : null,
    lost > 0
      ? note(`Left out for want of ${gain.article} or of this cost: ${plural(lost, "case")}.`)
      : null,
  ];
}

function tieText(margin, { unit }) {
  return unit === "fraction" ? formatChange(margin, unit).slice(1) : plainDigits(margin, 3);
}

function architecturePlot(name, { points, grey }, axes, title, small) {
  const [own, behind] = [points, grey].map((some) =>
    some.filter((point) => point.item.architecture === name),
  );
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
      `${axes.gain.title} against ${title} on ${shorten(name)}: ${plural(own.length, "pairing")}, ${front.length} on the Pareto front, ` +
      `from ${pointText(cheapest, axes)} to ${pointText(best, axes)}.`,
    draw: (width) => drawTradeoffs(width, { own, behind, front, points }, axes, title, small),
    open: openCase,
    below: [
      frontInWords(front, axes),
      fold("All of its numbers", () => tradeoffTable(name, own, front, axes)),
    ],
  });
}

function numbersText(point, { cost, gain }) {
  return `${formatValue(point.gain, gain.unit)}, ${formatValue(point.cost, cost.unit)}`;
}

function pointText(point, { cost, gain }) {
  return `${shorten(methodName(point.item), 40)} (${formatValue(point.cost, cost.unit)}, ${formatValue(point.gain, gain.unit)})`;
}

function seedsWords({ seeds }, { unit }) {
  return seeds === null
    ? ""
    : `, seeds ${seeds.map((seed) => formatValue(seed, unit)).join(" to ")}`;
}

function tipText(point, { cost, gain }) {
  return `${shorten(point.item.id, 60)}\n${formatValue(point.gain, gain.unit)} ${gain.name}${seedsWords(point, gain)}\n${formatValue(point.cost, cost.unit)}`;
}

function frontInWords(front, axes) {
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
            h("span", { class: "numbers" }, numbersText(point, axes)),
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

function tradeoffTable(name, own, front, { cost, gain }) {
  const onFront = new Set(front);
  return dataTable({
    caption: `${gain.title} and ${cost.label} on ${shorten(name)}`,
    rows: d3.sort(own, (point) => point.cost),
    columns: [
      { label: "case", cell: (point) => caseLink(point.item) },
      valueColumn(cost.label, (point) => point.cost, cost.unit),
      { label: gain.name, number: true, cell: (point) => formatValue(point.gain, gain.unit) },
      {
        label: "seeds, lowest to highest",
        number: true,
        cell: ({ seeds }) =>
          seeds === null ? ABSENT : seeds.map((seed) => formatValue(seed, gain.unit)).join(" to "),
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
