// Plots: drawn when their width is known, named for those who cannot see them.

const PLOT_STYLE = { background: "transparent", color: "var(--text)", overflow: "visible" };

// label: what is seen, in words. draw(width) -> svg. open(datum): what a click on a point leads to.
function figure({ title, label, draw, open = null, below = [] }) {
  const box = h("div", { class: "plot" });
  let drawn = 0;
  const observer = new ResizeObserver(([{ contentRect }]) => {
    const width = Math.floor(contentRect.width);
    if (!box.isConnected || width === 0 || width === drawn) return;
    drawn = width;
    box.replaceChildren(named(draw(width), label, open));
  });
  observer.observe(box);
  return h("figure", {}, title ? h("figcaption", {}, title) : null, box, ...below);
}

function named(svg, label, open) {
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", label);
  svg.style.maxWidth = "100%";
  if (open) {
    svg.addEventListener("click", () => svg.value && open(svg.value));
    svg.addEventListener("input", () => (svg.style.cursor = svg.value ? "pointer" : ""));
  }
  return svg;
}

function openCase(point) {
  location.hash = caseAddress(point.item ?? point);
}

function plot(width, options) {
  return Plot.plot({ width, style: PLOT_STYLE, className: "plot-svg", ...options });
}

// Logarithmic where values span so much that a straight scale would put all but a few in a corner.
function scaleType(values) {
  const [least, most] = d3.extent(values);
  return least > 0 && most / least > 50 ? "log" : "linear";
}

// Round ticks that a person reads: powers of ten and their halves on a logarithmic scale.
function axisOptions(values, { label, width, type = scaleType(values), ...others }) {
  const options = { type, label, grid: true, ...others };
  if (type !== "log") return { ticks: Math.max(2, Math.floor(width / 80)), tickFormat: plainTick, ...options };
  return { ticks: Math.max(2, Math.floor(width / 120)), tickFormat: plainTick, ...options };
}

function plainTick(value) {
  return new Intl.NumberFormat("en-US", { maximumSignificantDigits: 5 }).format(value);
}
