// A metric over the entries: lines, and marks where they changed.

const MOST_LABELS = 8;
const MOST_DOTS = 60;
const MOST_ROWS = 500;

// The plot of some cases' metric with its legend, transitions and points.
function historySection(cases, metricName, scale = "auto") {
  const metric = DATA.metrics[METRIC_INDEX.get(metricName)];
  const series = cases.map((item) => seriesOf(item, metricName));
  const drawn = series.filter((points) => points.length > 0);
  const points = drawn.flat();
  if (points.length === 0) return [note(`No entry has ${metric.label} of ${whichCases(cases)}.`)];
  const marked = points.filter((point) => point.mark);
  const without = cases.length - drawn.length;
  const few = `One point only${drawn.length > 1 ? " each" : ""}: a line needs a second entry.`;
  return [
    metric.about ? note(h("span", { class: "mono" }, metric.label), `: ${metric.about}`) : null,
    drawn.length > 1 ? caseLegend(drawn) : null,
    figure({
      label: historyLabel(metric, drawn, marked),
      draw: (width) => drawHistory(width, { metric, series: drawn, scale }),
    }),
    boundNote(metric, drawn),
    scale === "log" && points.some((point) => point.value <= 0)
      ? note("Values of 0 or less have no logarithm: the scale is linear.")
      : null,
    without > 0 ? note(`No entry has this metric of ${without} of the cases.`) : null,
    points.length === drawn.length ? note(few) : null,
    h("h2", {}, "Where it changed"),
    marked.length === 0
      ? note("Nowhere: every change is within the metric's bound.")
      : markTable(marked),
    fold(`All ${plural(points.length, "point")}`, () => pointTable(points)),
  ];
}

function whichCases(cases) {
  return cases.length === 1 ? shorten(cases[0].id) : plural(cases.length, "case");
}

function historyLabel(metric, series, marked) {
  const last = series[0].at(-1);
  return (
    `${metric.label} of ${whichCases(series.map((points) => points[0].item))}: ` +
    `${plural(series[0].length, "point")}, now ${last.text}, ${plural(marked.length, "transition")}.`
  );
}

// The rows are written; the newest stands first.
function markTable(marked) {
  const rows = d3.sort(marked, (point) => -point.entry).slice(0, MOST_ROWS);
  const table = written(DATA.marks);
  const html = rows.map((point) => point.mark.row).join("");
  table.querySelector("tbody").replaceChildren(written(html));
  return table;
}

function pointTable(points) {
  const columns = [
    { label: "entry", cell: (point) => DATA.entries[point.entry].label },
    { label: "date", cell: (point) => DATA.entries[point.entry].day },
    { label: "case", cell: (point) => caseLink(point.item) },
    { label: "value", number: true, cell: (point) => point.text },
  ];
  const more = points.length - MOST_ROWS;
  return h(
    "div",
    {},
    dataTable("Points", columns, points.slice(0, MOST_ROWS)),
    more > 0 ? note(`And ${plural(more, "point")} more.`) : null,
  );
}

// How far a metric may change from where its level began; the plot draws it if there is one line.
function boundNote(metric, series) {
  const bounds = distinct(
    series.map(([{ item }]) => lineOf(item, metric.name).bound_text).filter(Boolean),
  );
  if (bounds.length !== 1) return null;
  const where = series.length === 1 ? "The band is the metric's bound," : "The metric's bound is";
  return note(`${where} ${bounds[0]}, around each level.`);
}

// A level lasts until the next mark.
function boundBands(points, metric, position) {
  const { bound } = lineOf(points[0].item, metric.name);
  if (bound === undefined) return [];
  const levels = [];
  for (const point of points) {
    const last = levels.at(-1);
    if (last === undefined || point.mark || point.definition !== last.definition)
      levels.push({ ...point, points: [point] });
    else last.points.push(point);
  }
  return levels.flatMap((level, index) => {
    const [low, high] = boundAround(level.value, bound, metric);
    const ends = [
      position.get(level.points[0].entry) - (index > 0 ? 0 : 0.25),
      position.get(level.points.at(-1).entry) + 0.25,
    ];
    return ends.map((at) => ({ at, low, high, level: index }));
  });
}

function boundAround(value, bound, metric) {
  const size = isDifference(metric) ? bound : bound * Math.abs(value);
  return [value - size, value + size];
}

function seriesMark(index) {
  return {
    colour: `var(--series-${((index + 3) % COLOURS) + 1})`,
    shape: SHAPES[index % SHAPES.length],
  };
}

function caseLegend(series) {
  return h(
    "ul",
    { class: "legend", "aria-label": "Cases" },
    series.map((points, index) =>
      h(
        "li",
        {},
        markIcon(seriesMark(index).shape, seriesMark(index).colour),
        caseLink(points[0].item),
      ),
    ),
  );
}

function drawHistory(width, { metric, series, scale: wanted }) {
  const all = series.flatMap((points, index) =>
    points.map((point) => ({ ...point, style: seriesMark(index) })),
  );
  const held = new Set(all.map((point) => point.entry));
  const shown = [...DATA.entries.keys()].filter((entry) => held.has(entry));
  const position = new Map(shown.map((entry, index) => [entry, index]));
  const unit = axisUnit(
    all.map((point) => point.value),
    metric.steps,
  );
  const place = { x: (point) => position.get(point.entry), y: (point) => point.value / unit.size };
  const height = Math.min(380, Math.max(260, width * 0.42));
  const label = `↑ ${metric.label}${inUnit(unit)}`;
  const bands = series.length === 1 ? boundBands(series[0], metric, position) : [];
  const band = { low: (one) => one.low / unit.size, high: (one) => one.high / unit.size };
  const scale = scaleOf([...all.map(place.y), ...bands.map(band.low), ...bands.map(band.high)], {
    wanted,
  });
  return plot(width, {
    height,
    marginLeft: 58,
    marginRight: all.some((point) => isLastFall(point, shown)) ? 78 : 34,
    marginTop: 30,
    marginBottom: 52,
    x: entryAxis(shown, width),
    y: axisOptions(scale, { label, room: 1.6 * height }),
    symbol: { type: "identity" },
    color: { type: "identity" },
    marks: [
      Plot.areaY(bands, {
        x: "at",
        y1: band.low,
        y2: band.high,
        z: "level",
        fill: "var(--band)",
      }),
      Plot.line(all, {
        ...place,
        z: (point) => `${point.item.id} ${point.segment}`,
        stroke: (point) => point.style.colour,
        strokeWidth: 1.75,
      }),
      all.length > MOST_DOTS * series.length
        ? null
        : Plot.dot(all, {
            ...place,
            r: 4,
            symbol: (point) => point.style.shape,
            fill: (point) => point.style.colour,
          }),
      ...markMarks(
        all.filter((point) => point.mark),
        place,
      ),
      Plot.tip(all, Plot.pointer({ ...place, title: (point) => pointTip(point) })),
    ],
  });
}

function entryAxis(shown, width) {
  const ticks = new Map(entryTicks(shown, width).map(({ at, label }) => [at, label]));
  return {
    domain: [-0.25, Math.max(shown.length - 0.75, 0.25)],
    ticks: [...ticks.keys()],
    tickFormat: (at) => ticks.get(at) ?? "",
    label: "order of acceptance →",
  };
}

function markMarks(marked, place) {
  return [
    Plot.dot(marked, {
      ...place,
      r: 7,
      symbol: (point) => MARK_KINDS[point.mark.what].shape,
      fill: (point) => fillOfMark(point.mark),
      stroke: (point) => MARK_KINDS[point.mark.what].colour,
      strokeWidth: 2,
    }),
    ...d3.groups(labelled(marked), isFall).map(([falls, points]) =>
      Plot.text(points, {
        ...place,
        // Beside the line, which comes from above.
        ...(falls ? { dx: 12, dy: -9, textAnchor: "start" } : { dy: -16 }),
        text: ({ mark }) => mark.text || MARK_KINDS[mark.what].label,
        fill: "currentColor",
        stroke: "var(--surface)",
        strokeWidth: 4,
      }),
    ),
  ];
}

function isFall({ mark }) {
  return mark.what !== "break" && mark.change < 0;
}

function isLastFall(point, shown) {
  return point.mark !== null && point.entry === shown.at(-1) && isFall(point);
}

function fillOfMark(mark) {
  return mark.what === "break" ? "none" : MARK_KINDS[mark.what].colour;
}

// Where there are more marks than fit, the greatest have their change written.
function labelled(marked) {
  return d3.sort(marked, (point) => -Math.abs(point.mark.change ?? Infinity)).slice(0, MOST_LABELS);
}

// Names every entry if there is room, else the first of each day, as far as they do not
// overlap. Where a day repeats, the number of the entry tells them apart.
function entryTicks(shown, width) {
  const room = Math.max(2, Math.floor(width / 82));
  const ticks = shown.map((entry, at) => ({
    at,
    label: shorten(DATA.entries[entry].day, 12),
    entry,
  }));
  if (ticks.length <= room) {
    const counts = d3.rollup(
      ticks,
      (same) => same.length,
      (tick) => tick.label,
    );
    return ticks.map(({ at, label, entry }) => ({
      at,
      label: counts.get(label) > 1 ? `${label}\n${entryNumber(entry)}` : label,
    }));
  }
  const firsts = ticks.filter(
    (tick, index) => index === 0 || tick.label !== ticks[index - 1].label,
  );
  const apart = (52 * shown.length) / Math.max(1, width - 92);
  const kept = [];
  for (const tick of firsts) {
    if (kept.length === 0 || tick.at - kept.at(-1).at >= apart) kept.push(tick);
  }
  return kept;
}

// As in #0014 of 0014_peft-0.21.2; a run has its name.
function entryNumber(entry) {
  const { name } = DATA.entries[entry];
  const number = /^(\d{4,9})_/.exec(name);
  return number ? `#${number[1]}` : endOfName(name, 12);
}

function pointTip(point) {
  const entry = DATA.entries[point.entry];
  const lines = [shorten(point.item.id, 60), `${entry.label}, ${entry.day}`, point.text];
  if (point.mark) lines.push(`${MARK_KINDS[point.mark.what].label} ${point.mark.text}`);
  return lines.join("\n");
}
