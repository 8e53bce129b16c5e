// How far a metric may change from where its level began, in words and as bands of its plot.

// The plot draws it if there is one line.
function boundNote(metric, series) {
  const bounds = distinct(
    series
      .map(([{ item }]) => lineOf(item, metric.name).bound)
      .filter((bound) => bound !== undefined)
      .map((bound) => boundText(bound, metric)),
  );
  if (bounds.length !== 1) return null;
  const where = series.length === 1 ? "The band is the metric's bound" : "The metric's bound is";
  return note(`${where}${series.length === 1 ? "," : ""} ${bounds[0]}, around each level.`);
}

function boundText(bound, metric) {
  if (metric.kind === "seconds") return `${plainDigits(1 + bound, 3)} times as long or as short`;
  if (metric.unit === "fraction") return `±${plainDigits(100 * bound, 3)} points`;
  if (metric.kind === "score") return `±${plainDigits(bound, 3)}`;
  return `±${plainDigits(100 * bound, 3)} %`;
}

// How far the metric may be from where its level began; a level lasts until the next mark.
function boundBands(points, metric, position) {
  const { bound } = lineOf(points[0].item, metric.name);
  if (bound === undefined) return [];
  const levels = [];
  for (const point of points) {
    const last = levels.at(-1);
    if (last === undefined || point.mark || point.definition !== last.definition)
      levels.push({ ...point, points: [point] });
    else last.points.push(point);
  }
  return levels.flatMap((level, index) => {
    const [low, high] = boundAround(level.value, bound, metric);
    const ends = [
      position.get(level.points[0].entry) - (index > 0 ? 0 : 0.25),
      position.get(level.points.at(-1).entry) + 0.25,
    ];
    return ends.map((at) => ({ at, low, high, level: index }));
  });
}

function boundAround(value, bound, metric) {
  if (metric.kind === "seconds") return [value / (1 + bound), value * (1 + bound)];
  const size = isDifference(metric) ? bound : bound * Math.abs(value);
  return [value - size, value + size];
}
