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

// One image with one name: what Plot calls its parts is left out of it.
function named(svg, label, open) {
  for (const part of svg.querySelectorAll("[aria-label]")) {
    part.dataset.mark = part.getAttribute("aria-label");
    part.removeAttribute("aria-label");
  }
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

// Logarithmic if a linear scale would put most values into a corner.
function scaleOf(values, { from = null, to = null, wanted = "auto" } = {}) {
  const [least, most] = d3.extent(values);
  const isLog = wanted === "log" || (wanted === "auto" && most / least > 50);
  if (least > 0 && isLog) return { type: "log", domain: [least / 1.4, most * 1.4] };
  const room = most > least ? (most - least) * 0.08 : Math.abs(most) * 0.1 || 1;
  const low = least >= 0 ? Math.max(0, least - room) : least - room;
  return {
    type: "linear",
    domain: [Math.max(low, from ?? low), Math.min(most + room, to ?? Infinity)],
  };
}

// An axis with as many round ticks as there is room for; on a logarithmic one powers of ten.
function axisOptions(scale, { label, room, ...others }) {
  const ticks =
    scale.type === "log" ? logTicks(scale.domain, room) : Math.max(2, Math.floor(room / 80));
  return { ...scale, ticks, tickFormat: plainTick, label, grid: true, ...others };
}

function logTicks([from, to], room) {
  if (to / from < 10) return d3.ticks(from, to, Math.max(2, Math.floor(room / 80)));
  const powers = d3.range(Math.ceil(Math.log10(from)), Math.floor(Math.log10(to)) + 1);
  const steps = powers.length >= 3 ? [1] : [1, 2, 5];
  const all = d3
    .range(Math.floor(Math.log10(from)), Math.ceil(Math.log10(to)) + 1)
    .flatMap((power) => steps.map((step) => step * 10 ** power))
    .filter((tick) => tick >= from && tick <= to);
  const every = Math.ceil(all.length / Math.max(2, Math.floor(room / 45)));
  return all.filter((_, index) => index % every === 0);
}

function plainTick(value) {
  const compact = Math.abs(value) >= 1e5;
  return numberFormat({
    maximumSignificantDigits: 5,
    notation: compact ? "compact" : "standard",
  }).format(value);
}
