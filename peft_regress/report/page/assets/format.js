// Text that fits. Python writes the numbers: here are only those of axes.

const ABSENT = "-";

// Making a formatter takes longer than using it, and axes use them often.
const formatters = new Map();

function numberFormat(options) {
  const key = JSON.stringify(options);
  if (!formatters.has(key)) formatters.set(key, new Intl.NumberFormat("en-US", options));
  return formatters.get(key);
}

// The unit that an axis is best read in.
function axisUnit(values, steps) {
  const largest = d3.max(values, Math.abs) ?? 0;
  const [size, name] = steps.find(([size]) => largest >= size) ?? steps.at(-1);
  return { size, name };
}

function inUnit({ name }) {
  return name ? ` (${name})` : "";
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
  return `${numberFormat({}).format(count)} ${count === 1 ? one : many}`;
}
