// How a metric changed over the stored entries and runs.

const MOST_CASES = 8;
const MOVED = "moved (in how many cases)";
const SCALES = [
  { value: "auto", label: "automatic" },
  { value: "linear", label: "linear" },
  { value: "log", label: "logarithmic" },
];

function historyFields() {
  const moved = new Set(DATA.cases.filter((item) => item.marks.length > 0));
  return {
    case: {
      label: "Cases: an id, or a pattern like */lora-*/resnet18",
      initial: "*",
      suggestions: [...moved, ...DATA.cases.filter((item) => !moved.has(item))].map(
        (item) => item.id,
      ),
      wide: true,
    },
    metric: { label: "Metric", options: metricOptions(), initial: mostMovedMetric() },
    only: {
      label: "Show",
      options: [
        { value: "moved", label: "what moved" },
        { value: "all", label: "all" },
      ],
      initial: "moved",
    },
    scale: { label: "Scale", options: SCALES, initial: "auto" },
  };
}

function mostMovedMetric() {
  return d3.greatest(DATA.metrics, (metric) => metric.moved)?.name;
}

// Those that moved stand first.
function metricOptions() {
  const options = DATA.metrics.map(({ name, label, moved }) => ({
    value: name,
    label: moved > 0 ? `${label} (${moved})` : label,
    group: moved > 0 ? MOVED : "did not move",
  }));
  return d3.sort(options, (option) => option.group !== MOVED);
}

function showHistory(main, route) {
  choiceView(main, route, {
    title: "History",
    about: [
      "Marked: a change beyond the metric's bound from the point before.",
    ],
    fields: historyFields(),
    show: historyOf,
    below: [
      fold(`The ${plural(DATA.entries.length, "entry", "entries")}`, () =>
        written(PAGE.html.entries),
      ),
    ],
  });
}

function historyOf({ case: pattern, metric, only, scale }) {
  if (metric === undefined) return [note("No case has a metric.")];
  const found = casesLike(pattern);
  if (found.length === 0) {
    const ids = "Ids are <task>/<method>-r<rank>/<architecture>; * stands for anything.";
    return [note(`No case is like "${shorten(pattern)}". ${ids}`)];
  }
  const index = METRIC_INDEX.get(metric);
  const moved = found.filter((item) =>
    item.marks.some((mark) => mark.metric === index),
  );
  const chosen = only === "all" || moved.length === 0 ? found : moved;
  const shown = chosen.slice(0, MOST_CASES);
  return [
    found.length > shown.length
      ? note(chosenWords({ found, moved, shown, isNarrowed: chosen === moved }))
      : null,
    ...historySection(shown, metric, scale),
  ];
}

function chosenWords({ found, moved, shown, isNarrowed }) {
  const all = `${plural(found.length, "case")} are like this`;
  if (!isNarrowed) return `${all}; the first ${shown.length} are shown.`;
  const first = shown.length < moved.length ? `, of which the first ${shown.length} are shown` : "";
  return `${all}; ${moved.length} moved${first}. "Show: all" has the others.`;
}
