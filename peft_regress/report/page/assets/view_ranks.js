// A metric over the rank, a line a method; methods without rank are levels to compare with.

function ranksFields() {
  const options = DATA.metrics
    .filter((metric) => metric.kind !== "fingerprint")
    .map((metric) => ({ value: metric.name, label: metric.label }));
  return {
    metric: {
      label: "Metric",
      options,
      initial: GAINS.find((name) => METRIC_INDEX.has(name)) ?? options[0]?.value,
    },
    task: taskField(),
    architecture: architectureField(),
    methods: methodsField(sweptMethods()),
  };
}

const SEED_STEP = 5;
const GAINS = ["accuracy", "score"];

// Methods are compared by what their study says, if there is one.
function comparedLine(item, name) {
  if (!GAINS.includes(name)) return lineOf(item, name);
  return item.gain?.name === name ? item.gain : null;
}

// Methods with several ranks, and what to compare them with; all methods if none has several.
function sweptMethods() {
  const ranks = d3.rollup(
    DATA.cases,
    (items) => new Set(items.map((item) => item.rank)).size,
    (item) => item.method,
  );
  const swept = METHODS.filter((method) => ranks.get(method) > 1);
  const levels = DATA.standard.filter((method) => ranks.get(method) === 1);
  return swept.length === 0 ? "" : [...swept, ...levels].join(" ");
}

function showRanks(main, route) {
  choiceView(main, route, {
    title: "Rank sweeps",
    about: [
      "A line a method over its ranks. Methods without a rank are dashed levels. All plots have one scale; " +
        "a bar reaches from the lowest seed to the highest.",
      GAIN_WORDS,
    ],
    fields: ranksFields(),
    show: rankSections,
  });
}

function rankSections({ metric: name, task, architecture, methods }) {
  if (name === undefined) return [note("No case has a metric.")];
  const metric = DATA.metrics[METRIC_INDEX.get(name)];
  const points = DATA.cases
    .filter((item) => item.task === task && isAsked(item.method, methods))
    .filter((item) => architecture === "" || item.architecture === architecture)
    .map((item) => ({ item, line: comparedLine(item, name) }))
    .filter(({ line }) => line !== null && line.now !== null)
    .map(({ item, line }) => ({ item, value: line.now, ...line, seeds: line.seeds ?? null }));
  if (points.length === 0) return [note(`No case of these choices has ${metric.label}.`)];
  const places = ARCHITECTURES.map((name) => [
    name,
    points.filter(({ item }) => item.architecture === name),
  ]).filter(([, found]) => found.length > 0);
  const axis = rankAxis(points, metric);
  return [
    methodLegend(distinct(points.map((point) => point.item.method))),
    h(
      "div",
      { class: places.length > 1 ? "facets" : "" },
      places.map(([name, found]) => rankFigure(name, found, metric.label, axis)),
    ),
  ];
}

// One unit and one scale for plots side by side, or they could not be compared.
function rankAxis(points, metric) {
  const values = points.flatMap((point) => [point.value, ...(point.seeds ?? [])]);
  const unit = axisUnit(values, metric.steps);
  return { unit, scale: scaleOf(values.map((value) => value / unit.size)) };
}

function rankFigure(where, points, metric, axis) {
  const label = distinct(points.map(({ words }) => words ?? metric)).join(", ");
  const swept = points.filter((point) => point.item.rank !== null);
  return figure({
    title: h("h2", {}, shorten(where)),
    label:
      `${label} over rank on ${shorten(where)}: ${plural(swept.length, "point")} of ` +
      `${plural(new Set(swept.map((point) => point.item.method)).size, "method")} with ranks, ` +
      `${points.length - swept.length} without.`,
    draw: (width) => drawRanks(width, points, label, axis),
    open: openCase,
    below: [fold("Its numbers", () => rankTable(where, points, label))],
  });
}

function drawRanks(width, points, name, { unit, scale }) {
  const y = (point) => point.value / unit.size;
  const [swept, levels] = [
    points.filter((p) => p.item.rank !== null),
    points.filter((p) => p.item.rank === null),
  ];
  const ranks = RANKS.filter((rank) => swept.some((point) => point.item.rank === rank));
  const x = (point) => String(point.item.rank);
  const methods = distinct(swept.map((point) => point.item.method));
  // Side by side, so that no method hides another.
  const aside = (method) => (methods.indexOf(method) - (methods.length - 1) / 2) * SEED_STEP;
  const height = Math.min(420, Math.max(280, width * 0.5));
  const label = `↑ ${name}${inUnit(unit)}`;
  return plot(width, {
    height,
    marginLeft: 58,
    marginRight: levels.length > 0 ? 74 : 24,
    marginTop: 28,
    marginBottom: 38,
    x: { type: "point", domain: ranks.map(String), label: "rank →", padding: 0.25 },
    y: axisOptions(scale, { label, room: 1.6 * height }),
    symbol: { type: "identity" },
    color: { type: "identity" },
    marks: [
      Plot.ruleY(levels, {
        y,
        stroke: (point) => methodMark(point.item.method).colour,
        strokeDasharray: "5 4",
        strokeWidth: 1.5,
      }),
      Plot.text(spread(levels, y, scale), {
        y,
        frameAnchor: "right",
        textAnchor: "start",
        dx: 6,
        text: (point) => shorten(point.item.method, 10),
        fill: (point) => methodMark(point.item.method).colour,
      }),
      ...methods.flatMap((method) =>
        sweepMarks(
          swept.filter((point) => point.item.method === method),
          { x, y, dx: aside(method) },
          unit,
        ),
      ),
      Plot.tip(
        swept,
        Plot.pointer({ x, y, title: (point) => tipOf(point.item.id, point) }),
      ),
    ],
  });
}

// Of one method: its line, its seeds and its points.
function sweepMarks(points, place, unit) {
  const { colour } = methodMark(points[0].item.method);
  return [
    Plot.ruleX(
      points.filter((point) => point.seeds !== null),
      {
        x: place.x,
        dx: place.dx,
        y1: (point) => point.seeds[0] / unit.size,
        y2: (point) => point.seeds[1] / unit.size,
        stroke: colour,
        strokeOpacity: 0.55,
        strokeWidth: 2,
      },
    ),
    Plot.line(points, {
      ...place,
      sort: (point) => point.item.rank,
      stroke: colour,
      strokeWidth: 2,
    }),
    Plot.dot(points, {
      ...place,
      ...methodChannels(),
      r: 5,
      stroke: "var(--surface)",
      strokeWidth: 1,
    }),
  ];
}

// Of levels that lie on one another, one is named; the table below has all.
function spread(levels, y, scale) {
  const place = scale.type === "log" ? (level) => Math.log(y(level)) : y;
  const [least, most] = scale.type === "log" ? scale.domain.map(Math.log) : scale.domain;
  const apart = (most - least) * 0.06;
  const kept = [];
  for (const level of d3.sort(levels, place)) {
    if (kept.length === 0 || place(level) - place(kept.at(-1)) > apart) kept.push(level);
  }
  return kept;
}

function rankTable(where, points, label) {
  const rows = d3.sort(points, (a, b) => compareText(a.item.name, b.item.name));
  return dataTable(
    `${label} by rank on ${shorten(where)}`,
    [
      { label: "method", cell: (point) => caseLink(point.item, point.item.name) },
      { label, number: true, cell: (point) => point.text },
      { label: "seeds", number: true, cell: (point) => point.seeds_text ?? ABSENT },
    ],
    rows,
  );
}
