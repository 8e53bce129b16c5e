// Values as a person reads them: the same text as peft_regress/metrics.py, which the tests hold.

const UNIT_STEPS = {
  byte: [
    [2 ** 30, "GiB"],
    [2 ** 20, "MiB"],
    [2 ** 10, "KiB"],
    [1, "B"],
  ],
  flop: [
    [1e12, "TFLOP"],
    [1e9, "GFLOP"],
    [1e6, "MFLOP"],
    [1e3, "kFLOP"],
    [1, "FLOP"],
  ],
  second: [
    [1, "s"],
    [1e-3, "ms"],
    [1e-6, "us"],
  ],
};
const UNIT_NAMES = { byte: "bytes", flop: "FLOP", second: "s", nat: "nat" };
const ABSENT = "-";

// Making a formatter takes longer than using it, and tables use them by the thousand.
const formatters = new Map();

function numberFormat(options) {
  const key = JSON.stringify(options);
  if (!formatters.has(key)) formatters.set(key, new Intl.NumberFormat("en-US", options));
  return formatters.get(key);
}

const grouped = numberFormat({ maximumFractionDigits: 0 });
const everyDigit = numberFormat({ maximumSignificantDigits: 17 });

function formatValue(value, unit) {
  if (value === null || value === undefined) return ABSENT;
  const steps = UNIT_STEPS[unit];
  if (steps) {
    const [size, name] = steps.find(([size]) => Math.abs(value) >= size) ?? steps.at(-1);
    if (size === 1 && unit !== "second") return `${grouped.format(value)} ${name}`;
    if (Math.abs(value) < size) return `${plainDigits(value / size, 3)} ${name}`;
    return `${significant(value / size)} ${name}`;
  }
  if (unit === "fraction") {
    return `${(100 * value).toFixed(Math.abs(value) >= 0.01 || value === 0 ? 1 : 3)} %`;
  }
  if (unit === "count") return grouped.format(value);
  if (unit === "nat") return `${plainDigits(value, 7)} nat`;
  return value.toFixed(3);
}

// Four significant digits and never an exponent: 3.854, 706.1, 1298.
function significant(value) {
  const whole = Math.abs(value).toFixed(0).length;
  return value.toFixed(Math.max(4 - whole, 0));
}

function plainDigits(value, digits) {
  return numberFormat({
    maximumSignificantDigits: digits,
    useGrouping: false,
  }).format(value);
}

function formatExact(value, unit) {
  if (value === null || value === undefined) return "absent";
  const name = UNIT_NAMES[unit];
  return everyDigit.format(value) + (name ? ` ${name}` : "");
}

// A relative change, or a difference of fractions in points.
function formatChange(change, unit) {
  if (change === null || change === undefined) return "n/a";
  if (change === 0) return unit === "fraction" ? "0 points" : "0 %";
  if (unit === "fraction") return `${signed(100 * change, (x) => x.toFixed(1))} points`;
  const percent = Math.abs(100 * change);
  if (percent < 0.0001) return `${change < 0 ? "-" : "+"}<0.0001 %`;
  return `${signed(100 * change, (x) => grouped4(x))} %`;
}

function grouped4(value) {
  return numberFormat({
    maximumSignificantDigits: 4,
    maximumFractionDigits: 6,
    roundingPriority: "lessPrecision",
  }).format(value);
}

function signed(value, show) {
  return (value < 0 ? "-" : "+") + show(Math.abs(value));
}

function changeBetween(old, now, unit) {
  if (old === null || now === null) return null;
  if (unit === "fraction") return now - old;
  if (old === now) return 0;
  return old === 0 ? null : (now - old) / Math.abs(old);
}

// The unit that an axis is best read in.
function axisUnit(values, unit) {
  const largest = d3.max(values, Math.abs) ?? 0;
  if (unit === "fraction") return { size: 0.01, name: "%" };
  const steps = UNIT_STEPS[unit];
  if (!steps) return { size: 1, name: UNIT_NAMES[unit] ?? "" };
  const [size, name] = steps.find(([size]) => largest >= size) ?? steps.at(-1);
  return { size, name };
}

function formatDate(text) {
  return /^\d{4}-\d{2}-\d{2}T/.test(text) ? text.slice(0, 10) : shorten(text, 20);
}

// Fit for one line: controls and marks of direction as their code points, never endless.
function shorten(text, longest = 80) {
  const characters = [...text.slice(0, 2 * longest + 2)];
  const cut = characters.length > longest ? [...characters.slice(0, longest - 1), "…"] : characters;
  return visible(cut.join(""));
}

// The end of a path says more than its beginning.
function endOfName(text, longest) {
  const characters = [...text];
  return visible(
    characters.length > longest ? `…${characters.slice(1 - longest).join("")}` : text,
  );
}

const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;

function visible(text) {
  return text.replace(
    UNSEEN,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

function plural(count, one, many = `${one}s`) {
  return `${grouped.format(count)} ${count === 1 ? one : many}`;
}

const FAILURE_WORDS = [
  ["error", "error"],
  ["unsupported", "unsupported", "unsupported"],
  ["known error", "known error of the library", "known errors of the library"],
  ["not measured", "not measured", "not measured"],
];

// What the cases are that are not ok: "12 unsupported, 8 known errors of the library"; empty if
// all are.
function failuresText(cases) {
  const counts = d3.rollup(cases, (items) => items.length, failureKind);
  return FAILURE_WORDS.filter(([kind]) => counts.has(kind))
    .map(([kind, one, many]) => plural(counts.get(kind), one, many))
    .join(", ");
}

const MOST_SOURCES = 4;

// Which entries the present numbers are from, that of most cases first.
function presentText() {
  const counts = d3.rollups(
    DATA.cases,
    (items) => items.length,
    (item) => item.current,
  );
  const [only] = counts;
  if (counts.length === 1) return `Present numbers are of ${shorten(DATA.entries[only[0]].name, 40)}.`;
  const sources = d3
    .sort(counts, ([entry, count]) => -count, ([entry]) => -entry)
    .map(([entry, count]) => `${shorten(DATA.entries[entry].name, 40)} (${plural(count, "case")})`);
  const more = sources.length - MOST_SOURCES;
  const others = more > 0 ? `, and ${plural(more, "more entry", "more entries")}` : "";
  return `Present numbers are of ${sources.slice(0, MOST_SOURCES).join(", ")}${others}.`;
}

function metricLabel(name) {
  const short = name.endsWith("_b32") ? `${name.slice(0, -4)}, batch 32` : name;
  return shorten(short, 60);
}
