"use strict";
// What the page is given, and how it is read. Strings in it may be anything: they are only ever text.

const DATA = JSON.parse(document.getElementById("page-data").textContent);

const COLLATOR = new Intl.Collator("en", { numeric: true });
const METRIC_INDEX = new Map(DATA.metrics.map((metric, index) => [metric.name, index]));
const CASES = new Map(DATA.cases.map((item) => [item.id.toWellFormed(), item]));

const MEMORY_CATEGORIES = ["param", "buffer", "grad", "activation", "temp", "optimizer"];
// The batch of the costs without a suffix: that of built-in cases is 1, an own case has its own, and
// old files do not say it.
const COMMON_BATCH = commonBatch(DATA.cases);
const BATCHES = [
  {
    value: "1",
    label: COMMON_BATCH ?? "each case's own",
    words: COMMON_BATCH === null ? "at each case's own batch" : `at batch ${COMMON_BATCH}`,
    suffix: "",
  },
  ...(DATA.metrics.some(({ name }) => name.endsWith("_b32"))
    ? [{ value: "32", label: "32", words: "at batch 32", suffix: "_b32" }]
    : []),
];
const TASKS = distinct(DATA.cases.map((item) => item.task));
const METHODS = distinct(DATA.cases.map((item) => item.method));
const ARCHITECTURES = distinct(DATA.cases.map((item) => item.architecture));
const RANKS = [
  ...new Set(DATA.cases.map((item) => item.rank).filter((rank) => rank !== null)),
].sort((a, b) => a - b);

function distinct(values) {
  return [...new Set(values)].sort(compareText);
}

// Numbers in a text by their value: r4 before r16.
function compareText(a, b) {
  return COLLATOR.compare(a, b) || (a < b ? -1 : a > b ? 1 : 0);
}

function commonBatch(items) {
  const found = new Set(items.map(batchOf));
  const [only] = found;
  return found.size > 1 || only === null ? null : String(only ?? 1);
}

// null if it is not known.
function batchOf(item) {
  return item.batch === undefined ? 1 : item.batch;
}

function batchSuffix(batch) {
  return BATCHES.find((item) => item.value === batch).suffix;
}

function batchWords(batch) {
  return BATCHES.find((item) => item.value === batch).words;
}

// Run-length values: at[k] is the first entry that values[k] holds in.
function heldAt({ at, values }, entry) {
  const k = d3.bisectRight(at, entry) - 1;
  return k < 0 ? null : values[k];
}

function lineOf(item, metricName) {
  const metric = METRIC_INDEX.get(metricName);
  return item.lines.find((line) => line.metric === metric) ?? null;
}

// To the last digit, as lines are not.
function currentValue(item, metricName) {
  return lineOf(item, metricName)?.now ?? null;
}

const REPEATED = "repeated";

// Whether the accuracy, or the score in its place, is that of the run which the case repeats.
function isRepeated(item, metricName) {
  const repeats = item.repeats !== undefined;
  const gain = item.has_score ? "score" : "accuracy";
  return repeats && metricName === gain && currentValue(item, metricName) === null;
}

// What some cases gain by their training: their accuracy, or their own score if none has one.
function gainOf(items) {
  const has = (name) => items.some((item) => lineOf(item, name) || isRepeated(item, name));
  const name = has("score") && !has("accuracy") ? "score" : "accuracy";
  const unit = name === "accuracy" ? "fraction" : DATA.metrics[METRIC_INDEX.get(name)]?.unit;
  const isShare = unit === "fraction";
  return {
    name,
    unit,
    title: name === "accuracy" ? "Accuracy" : "Score",
    article: name === "accuracy" ? "an accuracy" : "a score",
    best: name === "accuracy" ? "most accurate" : "best",
    size: isShare ? 0.01 : 1,
    axis: isShare ? `${name} (%)` : name,
    range: isShare ? { from: 0, to: 100 } : {},
  };
}

function statusOf(item) {
  return heldAt(item.status, item.current) ?? "not measured";
}

function isMeasured(item) {
  return statusOf(item) === "ok";
}

// An error that its baseline has too is of the library, and judges no change.
function failureKind(item) {
  const status = statusOf(item);
  if (status.startsWith("unsupported")) return "unsupported";
  if (!status.startsWith("error")) return status === "ok" ? null : "not measured";
  const baseline = DATA.entries.findLastIndex(
    ({ role }, entry) =>
      role === "baseline" && entry <= item.current && heldAt(item.status, entry) !== null,
  );
  const isKnown = baseline >= 0 && heldAt(item.status, baseline).startsWith("error");
  return isKnown ? "known error" : "error";
}

// Forward, backward and optimizer; without one of them no number, or it would seem to be cheap.
function updateFlops(item, suffix) {
  const parts = ["forward_flops", "backward_flops", "optimizer_flops"].map((name) =>
    currentValue(item, name + suffix),
  );
  return parts.includes(null) ? null : d3.sum(parts);
}

const environments = new Map();

function environmentOf(entryIndex) {
  const index = DATA.entries[entryIndex].environment;
  if (!environments.has(index)) {
    environments.set(index, { ...DATA.environments[0], ...DATA.environments[index] });
  }
  return environments.get(index);
}

// The packages that differ between two entries, as [name, old, new]; null if absent.
function packageChanges(from, to) {
  const [old, now] = [environmentOf(from), environmentOf(to)];
  return distinct([...Object.keys(old), ...Object.keys(now)])
    .map((name) => [name, versionOf(old, name), versionOf(now, name)])
    .filter(([, before, after]) => before !== after);
}

function versionOf(environment, name) {
  return Object.hasOwn(environment, name) ? environment[name] : null;
}

function orderBy(name) {
  return DATA.orders.find((order) => order.by === name) ?? DATA.orders[0];
}

function orderLabel(by) {
  return by === "date" ? "order of acceptance" : `releases of ${by}`;
}

// The last entry before this one, in an order, that has a value of the line.
function entryBefore(line, order, entry) {
  const before = order.entries.slice(0, Math.max(0, order.entries.indexOf(entry)));
  return before.findLast((other) => heldAt(line, other) !== null) ?? null;
}

// What moved at entries of an order: what is "worse", "better", "moved" or "break"; before is the
// entry that it was compared with, null of a break.
function marksOf(item, order) {
  return (item.marks[order.by] ?? []).map(([index, entry, what, change, before]) => {
    const line = item.lines[index];
    return { item, line, metric: DATA.metrics[line.metric], entry, what, change, before };
  });
}

// The newest entry of an order at which something changed, and what did; null if nothing did.
function lastMoves(order) {
  const position = new Map(order.entries.map((entry, index) => [entry, index]));
  let newest = -1;
  for (const item of DATA.cases) {
    for (const [, entry] of item.marks[order.by] ?? [])
      newest = Math.max(newest, position.get(entry) ?? -1);
  }
  if (newest < 0) return null;
  const entry = order.entries[newest];
  const moves = DATA.cases
    .filter((item) => (item.marks[order.by] ?? []).some((mark) => mark[1] === entry))
    .flatMap((item) => marksOf(item, order).filter((mark) => mark.entry === entry));
  return { entry, moves };
}

// Moves that no noise explains first, those at batch 1 before their twins at batch 32.
const MOVE_GRADES = [
  (mark) => ["exact", "bytes"].includes(mark.metric.kind) && !mark.metric.name.endsWith("_b32"),
  (mark) => ["exact", "bytes"].includes(mark.metric.kind),
  (mark) => mark.metric.kind !== "seconds",
];

// The largest change beyond a bound, in an order: no change of definition, and no noise; null if
// there is none.
function largestMove(order) {
  const real = DATA.cases
    .flatMap((item) => marksOf(item, order))
    .filter((mark) => mark.what === "worse" || mark.what === "better");
  const grade = MOVE_GRADES.find((isOf) => real.some(isOf));
  return grade ? d3.greatest(real.filter(grade), sizeOfMove) : null;
}

// Half as much is as far as twice as much; from zero is farther than all.
function sizeOfMove({ change, metric }) {
  if (change === null) return Infinity;
  if (isDifference(metric)) return Math.abs(change);
  return change <= -1 ? Infinity : Math.abs(Math.log1p(change));
}

// Whether the changes and the bound of a metric are differences, and not relative.
function isDifference({ kind, unit }) {
  return kind === "score" || (kind === "accuracy" && unit === "fraction");
}

// The largest change; breaks have none, so of them the one of accuracy.
function telling(moves) {
  const broken = moves.find((move) => move.what === "break" && move.metric.name === "accuracy");
  return broken ?? d3.greatest(moves, (move) => Math.abs(move.change ?? 0));
}

// One point an entry that has a value; a new segment after a gap and after a break of definition,
// a new definition after the latter alone.
function seriesOf(item, metricName, order) {
  const line = lineOf(item, metricName);
  if (line === null) return [];
  const marks = new Map(
    marksOf(item, order)
      .filter((mark) => mark.line === line)
      .map((mark) => [mark.entry, mark]),
  );
  const kept = line.thinned ? keptEntries(item, line, marks, order) : null;
  const points = [];
  let [segment, definition] = [0, 0];
  for (const entry of order.entries) {
    const value = heldAt(line, entry);
    const mark = marks.get(entry) ?? null;
    const lost = value === null && heldAt(item.status, entry) !== null;
    if (lost || mark?.what === "break") segment += 1;
    if (mark?.what === "break") definition += 1;
    if (value === null || (kept !== null && !kept.has(entry))) continue;
    points.push({ item, entry, value, segment, definition, mark, before: points.at(-1) ?? null });
  }
  return points;
}

// The entries whose value a thinned line still has.
function keptEntries(item, line, marks, order) {
  const told = new Set([...marks.keys(), item.current]);
  const kept = new Set([...line.at, ...told]);
  for (const { before } of marks.values()) kept.add(before);
  let last = null;
  for (const entry of order.entries) {
    if (told.has(entry)) kept.add(last);
    if (heldAt(line, entry) !== null) last = entry;
  }
  return kept;
}

// The change from the point before; undefined if the two cannot be compared.
function changeOf(point, metric) {
  const { before } = point;
  if (before === null || before.definition !== point.definition) return undefined;
  if (metric.kind === "seconds" && !areOnOneMachine(before.entry, point.entry)) return undefined;
  return changeBetween(before.value, point.value, metric.unit);
}

function areOnOneMachine(...entries) {
  const [first, second] = entries.map((entry) => DATA.entries[entry].machine_digest);
  return first !== null && first === second;
}

// Cases whose id matches a pattern, in which * stands for anything, as on the command line.
function casesLike(pattern) {
  const exact = CASES.get(pattern);
  return exact ? [exact] : DATA.cases.filter((item) => isLike(item.id, pattern));
}

// Linear in the length but for going back to the last star, so that no pattern can stall the page.
function isLike(text, pattern) {
  let [at, wanted, star, resume] = [0, 0, -1, 0];
  while (at < text.length) {
    if (pattern[wanted] === "*") [star, resume, wanted] = [wanted, at, wanted + 1];
    else if (pattern[wanted] === text[at] || pattern[wanted] === "?")
      [at, wanted] = [at + 1, wanted + 1];
    else if (star < 0) return false;
    else [resume, at, wanted] = [resume + 1, resume + 1, star + 1];
  }
  return /^\**$/.test(pattern.slice(wanted));
}
