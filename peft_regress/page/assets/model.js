"use strict";
// What the page is given, and how it is read. Strings in it may be anything: they are only ever text.

const DATA = JSON.parse(document.getElementById("page-data").textContent);

const COLLATOR = new Intl.Collator("en", { numeric: true });
const METRIC_INDEX = new Map(DATA.metrics.map((metric, index) => [metric.name, index]));
const CASES = new Map(DATA.cases.map((item) => [item.id.toWellFormed(), item]));

const MEMORY_CATEGORIES = ["param", "buffer", "grad", "activation", "temp", "optimizer"];
const BATCHES = [
  { value: "1", label: "1", suffix: "" },
  { value: "32", label: "32", suffix: "_b32" },
];
const TASKS = distinct(DATA.cases.map((item) => item.task));
const METHODS = distinct(DATA.cases.map((item) => item.method));
const ARCHITECTURES = distinct(DATA.cases.map((item) => item.architecture));
const RANKS = [...new Set(DATA.cases.map((item) => item.rank).filter((rank) => rank !== null))].sort(
  (a, b) => a - b,
);

function distinct(values) {
  return [...new Set(values)].sort(compareText);
}

// Numbers in a text by their value: r4 before r16.
function compareText(a, b) {
  return COLLATOR.compare(a, b) || (a < b ? -1 : a > b ? 1 : 0);
}

function batchSuffix(batch) {
  return BATCHES.find((item) => item.value === batch).suffix;
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

function valueAt(item, metricName, entry) {
  const line = lineOf(item, metricName);
  return line === null ? null : heldAt(line, entry);
}

function currentValue(item, metricName) {
  return valueAt(item, metricName, item.current);
}

function statusOf(item) {
  return heldAt(item.status, item.current) ?? "not measured";
}

function isMeasured(item) {
  return statusOf(item) === "ok";
}

// Forward, backward and optimizer; one that is absent adds nothing, and all absent is no number.
function updateFlops(item, suffix) {
  const parts = ["forward_flops", "backward_flops", "optimizer_flops"]
    .map((name) => currentValue(item, name + suffix))
    .filter((value) => value !== null);
  return parts.length === 0 ? null : d3.sum(parts);
}

function environmentOf(entryIndex) {
  const changes = DATA.environments[DATA.entries[entryIndex].environment];
  return { ...DATA.environments[0], ...changes };
}

// Which packages differ between two entries, as [name, old, new]; null where one is absent.
function packageChanges(from, to) {
  const [old, now] = [environmentOf(from), environmentOf(to)];
  return distinct([...Object.keys(old), ...Object.keys(now)])
    .map((name) => [name, old[name] ?? null, now[name] ?? null])
    .filter(([, before, after]) => before !== after);
}

function orderBy(name) {
  return DATA.orders.find((order) => order.by === name) ?? DATA.orders[0];
}

function orderLabel(by) {
  return by === "date" ? "date of acceptance" : `releases of ${by}`;
}

// The last entry before this one, in an order, that has a value of the line.
function entryBefore(line, order, entry) {
  const before = order.entries.slice(0, Math.max(0, order.entries.indexOf(entry)));
  return before.findLast((other) => heldAt(line, other) !== null) ?? null;
}

function marksOf(item, order) {
  return (item.marks[order.by] ?? []).map(([line, entry, what, change]) => ({
    line: item.lines[line],
    metric: DATA.metrics[item.lines[line].metric],
    entry,
    what,
    change,
  }));
}
