// What the page is given, and how it is read. Strings of DATA may be anything: they are only ever
// text. Those of PAGE.html are HTML that Python wrote, in which every name is escaped.

const PAGE = await unpacked(document.getElementById("page-data").textContent);
const DATA = PAGE.data;

const COLLATOR = new Intl.Collator("en", { numeric: true });
const METRIC_INDEX = new Map(DATA.metrics.map((metric, index) => [metric.name, index]));
const CASES = new Map(DATA.cases.map((item) => [item.id.toWellFormed(), item]));

const MEMORY_CATEGORIES = ["param", "buffer", "grad", "activation", "temp", "optimizer"];
const BATCHES = DATA.batches;
const TASKS = DATA.tasks;
const ARCHITECTURES = DATA.architectures;
const METHODS = distinct(DATA.cases.map((item) => item.method));
const RANKS = [
  ...new Set(DATA.cases.map((item) => item.rank).filter((rank) => rank !== null)),
].sort((a, b) => a - b);

async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const json = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(json).json();
}

function distinct(values) {
  return [...new Set(values)].sort(compareText);
}

// Numbers in a text by their value: r4 before r16.
function compareText(a, b) {
  return COLLATOR.compare(a, b) || (a < b ? -1 : a > b ? 1 : 0);
}

function batchOf(batch) {
  return BATCHES.find((item) => item.value === batch);
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

// One point an entry that has a value; a new segment after a gap and after a break of definition,
// a new definition after the latter alone.
function seriesOf(item, metricName) {
  const line = lineOf(item, metricName);
  if (line === null) return [];
  const marks = new Map(
    item.marks.filter((mark) => mark.metric === line.metric).map((mark) => [mark.entry, mark]),
  );
  const points = [];
  let [segment, definition] = [0, 0];
  for (const entry of DATA.entries.keys()) {
    const value = heldAt(line, entry);
    const mark = marks.get(entry) ?? null;
    const lost = value === null && heldAt(item.status, entry) !== null;
    if (lost || mark?.what === "break") segment += 1;
    if (mark?.what === "break") definition += 1;
    if (value === null) continue;
    const text = heldAt({ at: line.at, values: line.texts }, entry);
    points.push({ item, entry, value, text, segment, definition, mark });
  }
  return points;
}

// Whether the changes and the bound of a metric are differences, and not relative.
function isDifference({ kind, unit }) {
  return kind === "score" || (kind === "accuracy" && unit === "fraction");
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

function isStandard(item) {
  return DATA.standard.includes(item.method);
}
