// Memory as bars: the true peak is the bar, and each category at its own high an outline behind it.

const CATEGORY_LABELS = {
  param: "parameters",
  buffer: "buffers",
  grad: "gradients",
  activation: "activations",
  temp: "temporaries",
  optimizer: "optimizer",
};
const BAR_HEIGHT = 24;
const PEAK_INSET = 4;

function memoryOf(item, suffix) {
  const peak = lineOf(item, `peak_bytes${suffix}`);
  const parts = MEMORY_CATEGORIES.map((category) => {
    const line = lineOf(item, `peak_${category}_bytes${suffix}`);
    return { item, category, bytes: line?.now ?? null, text: line?.text };
  }).filter((part) => part.bytes !== null);
  const sum = d3.sum(parts, (part) => part.bytes);
  return { item, parts, sum, peak: peak?.now ?? null, text: peak?.text ?? ABSENT };
}

function memoryLegend() {
  return h(
    "ul",
    { class: "legend", "aria-label": "Categories of memory, as they are stacked" },
    h(
      "li",
      {},
      h("span", { class: "peak-sample", "aria-hidden": "true" }),
      "peak: the most in use at one moment",
    ),
    MEMORY_CATEGORIES.map((category) => h("li", {}, swatch(category), CATEGORY_LABELS[category])),
  );
}

function swatch(category) {
  const svg = d3
    .create("svg")
    .attr("class", "icon")
    .attr("viewBox", "0 0 16 16")
    .attr("aria-hidden", "true");
  svg
    .append("rect")
    .attr("x", 1)
    .attr("y", 1)
    .attr("width", 14)
    .attr("height", 14)
    .style("fill", categoryFill(category))
    .style("stroke", `var(--memory-${category})`);
  return svg.node();
}

function categoryFill(category) {
  return `url(#memory-${category})`;
}

// Hatching separates neighbours without colour: [angle, width of the stripes]; null is plain.
const HATCHING = { buffer: [0, 2], grad: [45, 2.5], temp: [135, 2.5], optimizer: [90, 2] };

function addMemoryPatterns() {
  const svg = d3
    .create("svg")
    .attr("class", "unseen")
    .attr("aria-hidden", "true")
    .attr("width", 0)
    .attr("height", 0);
  for (const category of MEMORY_CATEGORIES) {
    const pattern = svg
      .append("pattern")
      .attr("id", `memory-${category}`)
      .attr("patternUnits", "userSpaceOnUse")
      .attr("width", 7)
      .attr("height", 7);
    pattern
      .append("rect")
      .attr("width", 7)
      .attr("height", 7)
      .style("fill", `var(--memory-${category})`)
      .style("fill-opacity", 0.16);
    const [angle, stripe] = HATCHING[category] ?? [];
    if (stripe === undefined) continue;
    pattern.attr("patternTransform", `rotate(${angle})`);
    pattern
      .append("rect")
      .attr("width", stripe)
      .attr("height", 7)
      .style("fill", `var(--memory-${category})`)
      .style("fill-opacity", 0.3);
  }
  document.body.append(svg.node());
}

// name(row) returns the label of a bar.
function memoryFigure(rows, label, name) {
  return figure({ label, draw: (width) => drawMemory(width, rows, name), open: openCase });
}

function drawMemory(width, rows, name) {
  const unit = axisUnit(
    rows.map((row) => Math.max(row.sum, row.peak ?? 0)),
    DATA.metrics.find(({ unit }) => unit === "byte").steps,
  );
  const names = new Map(rows.map((row, index) => [String(index), shorten(name(row), 22)]));
  const parts = rows.flatMap((row, index) =>
    row.parts.map((part) => ({ ...part, row, at: String(index) })),
  );
  const peaks = rows
    .map((row, index) => ({ ...row, at: String(index) }))
    .filter((row) => row.peak !== null);
  return plot(width, {
    height: rows.length * BAR_HEIGHT + 60,
    marginLeft: 14 + 7 * (d3.max([...names.values()], (text) => text.length) ?? 0),
    marginRight: 24,
    marginTop: 10,
    marginBottom: 40,
    x: {
      label: `${unit.name} →`,
      grid: true,
      ticks: Math.max(2, Math.floor(width / 90)),
      tickFormat: plainTick,
    },
    y: {
      domain: [...names.keys()],
      tickFormat: (at) => names.get(at),
      label: null,
      tickSize: 0,
      padding: 0.25,
    },
    color: { type: "identity" },
    marks: [
      Plot.barX(parts, {
        x: (part) => part.bytes / unit.size,
        y: "at",
        order: MEMORY_CATEGORIES.flatMap((category) => categoryFill(category)),
        z: (part) => categoryFill(part.category),
        fill: (part) => categoryFill(part.category),
        stroke: (part) => `var(--memory-${part.category})`,
        insetLeft: 0.5,
        insetRight: 0.5,
      }),
      Plot.barX(peaks, {
        x: (row) => row.peak / unit.size,
        y: "at",
        fill: "var(--peak)",
        insetTop: PEAK_INSET,
        insetBottom: PEAK_INSET,
      }),
      Plot.tip(
        peaks,
        Plot.pointerY({ x: (row) => row.peak / unit.size, y: "at", title: memoryTip }),
      ),
    ],
  });
}

function memoryTip(row) {
  return [
    shorten(row.item.id, 60),
    `peak ${row.text}`,
    ...row.parts.map((part) => `${CATEGORY_LABELS[part.category]} ${part.text}`),
  ].join("\n");
}
