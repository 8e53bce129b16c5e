// The table of cases: one row each, sorted by any column.

// Those without any number are left out.
const CASE_COLUMNS = [
  { name: "id", label: "case", cell: (item) => caseLink(item), key: (item) => item.id },
  metricColumn("trainable_params", "trained", "trained parameters", 1),
  metricColumn("adapter_bytes", "ship MiB", "adapter and head to send to a device, MiB", 2 ** 20),
  metricColumn("forward_flops", "fwd GFLOP", `forward pass ${batchWords("1")}, GFLOP`, 1e9),
  metricColumn("backward_flops", "bwd GFLOP", `backward pass ${batchWords("1")}, GFLOP`, 1e9),
  metricColumn(
    "peak_bytes",
    COMMON_BATCH === null ? "peak MiB" : `peak b${COMMON_BATCH} MiB`,
    `most memory alive at one moment, ${batchWords("1")}, MiB`,
    2 ** 20,
  ),
  metricColumn(
    "peak_bytes_b32",
    "peak b32 MiB",
    "most memory alive at one moment, batch 32, MiB",
    2 ** 20,
  ),
  metricColumn(
    "edge_train_bytes",
    "edge train MiB",
    "memory that an update needs in ExecuTorch, MiB",
    2 ** 20,
  ),
  metricColumn(
    "edge_inference_planned_bytes",
    "edge run MiB",
    "memory that a forward pass plans in ExecuTorch, MiB",
    2 ** 20,
  ),
  metricColumn(
    "edge_train_program_bytes",
    "edge file MiB",
    "size of the training program for ExecuTorch, MiB",
    2 ** 20,
  ),
  metricColumn("accuracy", "accuracy %", "after the brief fine-tune, mean over the seeds", 0.01),
  metricColumn("score", "score", "the case's own score after the brief fine-tune", 1),
  metricColumn("loss", "loss", "cross-entropy on the test images, after training", 1),
  metricColumn("step_seconds", "ms/step", "median wall time of a step of the fine-tune", 1e-3),
  {
    name: "status",
    label: "state",
    cell: (item) => statusBadge(item),
    key: (item) => stateOfCase(item).text,
  },
].filter(({ name, key }) =>
  DATA.cases.some((item) => key(item) !== null || isRepeated(item, name)),
);

function metricColumn(metric, label, about, size) {
  const unit = DATA.metrics[METRIC_INDEX.get(metric)]?.unit;
  return {
    name: metric,
    label,
    about,
    number: true,
    key: (item) => currentValue(item, metric),
    cell: (item) =>
      isRepeated(item, metric) ? REPEATED : cellText(currentValue(item, metric), unit, size),
    title: (item) => formatExact(currentValue(item, metric), unit),
  };
}

// As many decimals as the column needs, so that its numbers can be compared at a glance.
function cellText(value, unit, size) {
  if (value === null) return ABSENT;
  if (unit === "count") return grouped.format(value);
  if (unit === "fraction") return (value / size).toFixed(1);
  const scaled = value / size;
  if (unit === "nat" || unit === "ratio") return scaled.toFixed(3);
  return numberFormat(fixedDigits(unit === "flop" ? 3 : Math.abs(scaled) < 10 ? 2 : 1)).format(
    scaled,
  );
}

function fixedDigits(digits) {
  return { minimumFractionDigits: digits, maximumFractionDigits: digits };
}

function statusBadge(item) {
  const { kind, text, status } = stateOfCase(item);
  if (text === "ok") return text;
  return h(
    "span",
    { class: `badge ${kind}`, title: visible(status.slice(0, 2000)) },
    shorten(text, 28),
  );
}

// Absent values stand last, whichever way the others are sorted. A column that is left out has none.
function sortCases(cases, column, descending) {
  const sign = descending ? -1 : 1;
  const keyed = cases.map((item) => ({ item, key: column?.key(item) ?? null }));
  keyed.sort((a, b) => {
    if (a.key === null || b.key === null)
      return (a.key === null) - (b.key === null) || compareText(a.item.id, b.item.id);
    const order = typeof a.key === "number" ? a.key - b.key : compareText(a.key, b.key);
    return sign * order || compareText(a.item.id, b.item.id);
  });
  return keyed.map(({ item }) => item);
}

// sorted: {name, descending} and sort(name) make the headers buttons.
function caseTable(caption, cases, { sorted = null, sort = null } = {}) {
  const table = dataTable({
    caption,
    rows: cases,
    columns: CASE_COLUMNS,
    tall: sort !== null,
    header: (column) => (sort ? sortButton(column, sorted, sort) : column.label),
  });
  if (sort) markSorted(table, sorted);
  return table;
}

function sortButton(column, sorted, sort) {
  const arrow = column.name !== sorted.name ? "↕" : sorted.descending ? "▼" : "▲";
  return h(
    "button",
    { type: "button", class: "sort", "data-column": column.name, onclick: () => sort(column.name) },
    column.label,
    h("span", { class: "arrow", "aria-hidden": "true" }, arrow),
  );
}

function markSorted(table, sorted) {
  const headers = table.querySelectorAll("thead th");
  const index = CASE_COLUMNS.findIndex((column) => column.name === sorted.name);
  headers[index].setAttribute("aria-sort", sorted.descending ? "descending" : "ascending");
}
