// How a metric changed over the entries, in words, and which packages changed.

const MARK_KINDS = {
  worse: { label: "worse", shape: d3.symbolTriangle2, colour: "var(--bad)", badge: "bad" },
  better: { label: "better", shape: d3.symbolSquare2, colour: "var(--good)", badge: "good" },
  moved: { label: "moved", shape: d3.symbolDiamond2, colour: "var(--moved)", badge: "moved" },
  break: {
    label: "definition changed",
    shape: d3.symbolTimes,
    colour: "var(--text)",
    badge: "plain",
  },
};
const UNKNOWN_MARK = { ...MARK_KINDS.moved, label: "moved" };
const MOST_ROWS = 500;

function markKind(what) {
  return Object.hasOwn(MARK_KINDS, what) ? MARK_KINDS[what] : UNKNOWN_MARK;
}

function entryText(entry, order) {
  return order.by === "date"
    ? formatDate(DATA.entries[entry].date)
    : (versionOf(environmentOf(entry), order.by) ?? "none");
}

function whatBadge(what) {
  const kind = markKind(what);
  return h("span", { class: `badge ${kind.badge}` }, markIcon(kind.shape, kind.colour), kind.label);
}

function packagesText(from, to) {
  const changes = packageChanges(from, to).map(
    ([name, old, now]) => `${name} ${old ?? "absent"} → ${now ?? "absent"}`,
  );
  if (changes.length === 0) return "packages as before: the code under test";
  const shown = changes
    .slice(0, 6)
    .map((text) => shorten(text, 60))
    .join(", ");
  return changes.length > 6 ? `${shown}, and ${changes.length - 6} more` : shown;
}

function transitionTable(marked, metric, order, several) {
  const position = new Map(order.entries.map((entry, index) => [entry, index]));
  const rows = d3.sort(marked, (point) => -position.get(point.entry)).slice(0, MOST_ROWS);
  return dataTable({
    caption: "Transitions, the newest first",
    rows,
    columns: [
      { label: "entry", cell: (point) => entryName(point.entry) },
      several ? { label: "case", cell: (point) => caseLink(point.item) } : null,
      { label: "what", cell: (point) => whatBadge(point.mark.what) },
      valueColumn("from", (point) => valueBefore(point), metric.unit),
      valueColumn("to", (point) => point.value, metric.unit),
      {
        label: "change",
        number: true,
        cell: (point) => markedChange(point.mark, metric),
      },
      {
        label: "what changed",
        words: true,
        cell: (point) =>
          comparedWith(point) === null ? ABSENT : packagesText(comparedWith(point), point.entry),
      },
      {
        label: "why it was accepted",
        words: true,
        cell: (point) => shorten(DATA.entries[point.entry].reason, 160),
      },
    ].filter(Boolean),
  });
}

// The entry that a marked point was compared with; of a break the one before it.
function comparedWith(point) {
  return point.mark.before ?? point.before?.entry ?? null;
}

function valueBefore(point) {
  const entry = comparedWith(point);
  return entry === null ? null : heldAt(point.mark.line, entry);
}

// The numbers of a fingerprint are judged one by one, and not by their mean, which is the value.
function markedChange({ change }, metric) {
  const text = formatChange(change, metric.unit);
  if (metric.kind !== "fingerprint" || change === null) return text;
  return `${text} in one ${metric.unit === "nat" ? "loss" : "update"}`;
}

function entryName(entry) {
  const { name, date } = DATA.entries[entry];
  return h("span", { class: "mono", title: visible(date) }, shorten(name, 40));
}

function pointTable(points, metric, order) {
  const table = dataTable({
    caption: "Points",
    rows: points.slice(0, MOST_ROWS),
    columns: [
      { label: "entry", cell: (point) => entryName(point.entry) },
      {
        label: order.by === "date" ? "date" : order.by,
        cell: (point) => shorten(entryText(point.entry, order), 30),
      },
      { label: "case", cell: (point) => caseLink(point.item) },
      valueColumn("value", (point) => point.value, metric.unit),
      {
        label: "change",
        number: true,
        cell: (point) => {
          const change = changeOf(point, metric);
          return change === undefined ? ABSENT : formatChange(change, metric.unit);
        },
      },
    ],
  });
  const more = points.length - MOST_ROWS;
  return h("div", {}, table, more > 0 ? note(`And ${plural(more, "point")} more.`) : null);
}
