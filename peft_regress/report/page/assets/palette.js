// A colour and a shape for each method: shapes differ for readers who see no colour. See colours.css.

const COLOURS = 8;
const SHAPES = [
  d3.symbolCircle,
  d3.symbolSquare2,
  d3.symbolTriangle2,
  d3.symbolDiamond2,
  d3.symbolStar,
  d3.symbolWye,
  d3.symbolCross,
];
// 8 colours and 7 shapes repeat after 56 methods only.
const METHOD_MARKS = new Map(
  [...new Set([...DATA.standard, ...METHODS])].map((method, index) => [
    method,
    { colour: `var(--series-${(index % COLOURS) + 1})`, shape: SHAPES[index % SHAPES.length] },
  ]),
);

function methodMark(method) {
  return METHOD_MARKS.get(method);
}

function markIcon(shape, colour) {
  const svg = d3
    .create("svg")
    .attr("class", "icon")
    .attr("viewBox", "-8 -8 16 16")
    .attr("aria-hidden", "true");
  const path = svg.append("path").attr("d", d3.symbol(shape, 80)());
  if (shape === d3.symbolTimes)
    path.style("fill", "none").style("stroke", colour).style("stroke-width", "2.5");
  else path.style("fill", colour);
  return svg.node();
}

const MOST_IN_SIGHT = 12;

// Where methods are many, their legend would push the plots out of sight.
function methodLegend(methods) {
  const known = [...METHOD_MARKS.keys()].filter((method) => methods.includes(method));
  const list = () =>
    h(
      "ul",
      { class: "legend", "aria-label": "Methods" },
      known.map((method) => legendItem(method)),
    );
  return known.length > MOST_IN_SIGHT ? fold(`Marks of the ${known.length} methods`, list) : list();
}

function legendItem(method) {
  const { shape, colour } = methodMark(method);
  return h("li", {}, markIcon(shape, colour), shorten(method, 40));
}

function methodChannels() {
  return {
    symbol: (point) => methodMark(point.item.method).shape,
    fill: (point) => methodMark(point.item.method).colour,
  };
}

const MARK_KINDS = {
  worse: { label: "worse", shape: d3.symbolTriangle2, colour: "var(--bad)" },
  better: { label: "better", shape: d3.symbolSquare2, colour: "var(--good)" },
  break: { label: "definition changed", shape: d3.symbolTimes, colour: "var(--text)" },
};
