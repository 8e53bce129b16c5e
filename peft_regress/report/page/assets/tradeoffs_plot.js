// The plot of accuracy, or score, against cost, with the front above all else.

function drawTradeoffs(width, { own, behind, front, gains, gain }, axes, title, small) {
  const unit = axisUnit(
    own.map((point) => point.cost),
    axes.steps,
  );
  const gainSize = axes.is_share ? 0.01 : 1;
  const x = (point) => point.cost / unit.size;
  const y = (point) => point.gain / gainSize;
  const height = small ? Math.max(230, width * 0.55) : Math.min(460, Math.max(320, width * 0.5));
  const margins = { marginLeft: 42, marginRight: 24, marginTop: 26, marginBottom: 38 };
  const xScale = scaleOf([...own, ...behind].map(x));
  const yScale = scaleOf(
    gains.map((gain) => gain / gainSize),
    axes.is_share ? { from: 0, to: 100 } : {},
  );
  const label = `${title}${inUnit(unit)} →`;
  return plot(width, {
    height,
    ...margins,
    x: axisOptions(xScale, { label, room: width }),
    y: axisOptions(yScale, { label: `↑ ${gain}${axes.is_share ? " (%)" : ""}`, room: 1.6 * height }),
    symbol: { type: "identity" },
    color: { type: "identity" },
    marks: tradeoffMarks({ own, behind, front, x, y, gainSize, small, xScale, yScale, width, height }),
  });
}

// What is on the front is drawn last, so that no other point hides it; its names come last of all.
function tradeoffMarks(parts) {
  const { own, behind, front, x, y, gainSize, small, xScale, yScale, width, height } = parts;
  const [xPixels, yPixels] = [pixels(xScale, width - 66), pixels(yScale, height - 64)];
  const at = (point) => ({ left: xPixels(x(point)), top: height - 64 - yPixels(y(point)) });
  const ring = { x, y, r: small ? 8 : 9 };
  const onFront = new Set(front);
  const others = own.filter((point) => !onFront.has(point));
  const seeds = (points, options) =>
    Plot.ruleX(
      points.filter((point) => point.seeds),
      { x, y1: ({ seeds }) => seeds[0] / gainSize, y2: ({ seeds }) => seeds[1] / gainSize, ...options },
    );
  const dots = (points, options) =>
    Plot.dot(points, { x, y, ...methodChannels(), r: small ? 4.5 : 5.5, strokeWidth: 1, ...options });
  return [
    Plot.dot(behind, { x, y, r: 2.5, fill: "var(--quiet)", fillOpacity: 0.5 }),
    seeds(others, { stroke: "var(--edge)", strokeOpacity: 0.45 }),
    dots(others, { stroke: "var(--surface)", fillOpacity: 0.8 }),
    Plot.line(front, {
      x,
      y,
      curve: "step-after",
      stroke: "var(--front)",
      strokeWidth: 2,
      strokeOpacity: 0.75,
    }),
    seeds(front, { stroke: "var(--front)", strokeWidth: 1.25 }),
    Plot.dot(front, { ...ring, fill: "var(--surface)", fillOpacity: 0.85 }),
    Plot.dot(front, { ...ring, stroke: "var(--front)", strokeWidth: 1.5, className: "front-ring" }),
    dots(front, { stroke: "none", className: "front-dot" }),
    ...frontLabels(front, x, y, at, width - 66),
    Plot.tip([...own, ...behind], Plot.pointer({ x, y, title: "tip" })),
  ];
}

function pixels({ type, domain }, length) {
  return (type === "log" ? d3.scaleLog : d3.scaleLinear)(domain, [0, length]);
}

const LETTER = 6.6;
const NAME_PLACES = [
  { dx: 0, dy: -17, anchor: "middle" },
  { dx: 0, dy: 17, anchor: "middle" },
  { dx: 13, dy: 0, anchor: "start" },
  { dx: -13, dy: 0, anchor: "end" },
];

// Names beside the points, where they cover neither a point of the front nor another name; a name
// without room is only in the list. `at` is where a point stands, in pixels.
function frontLabels(front, x, y, at, width) {
  const taken = front.map((point) => ({ ...at(point), half: 9, point }));
  const labels = [];
  for (const point of front) {
    const name = shorten(point.item.name, 20);
    const half = (LETTER * name.length) / 2;
    for (const place of NAME_PLACES) {
      const { left, top } = at(point);
      const shift = { middle: 0, start: half, end: -half }[place.anchor];
      const box = { left: left + place.dx + shift, top: top + place.dy, half };
      const isFree =
        box.left - half > -6 &&
        box.left + half < width + 24 &&
        taken.every(
          (other) =>
            other.point === point ||
            Math.abs(box.left - other.left) > half + other.half + 2 ||
            Math.abs(box.top - other.top) > 15,
        );
      if (!isFree) continue;
      taken.push(box);
      labels.push({ point, name, place });
      break;
    }
  }
  return d3
    .groups(labels, ({ place }) => place)
    .map(([{ dx, dy, anchor }, some]) =>
      Plot.text(some, {
        x: ({ point }) => x(point),
        y: ({ point }) => y(point),
        dx,
        dy,
        textAnchor: anchor,
        text: "name",
        fill: "currentColor",
        stroke: "var(--surface)",
        strokeWidth: 4,
        className: "front-name",
      }),
    );
}
