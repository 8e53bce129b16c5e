// How much of its budget each case uses.

const MOST_BUDGETS = 40;

// Of many rows the fullest; the page of a case has all of its own.
function budgetSection(items) {
  const rows = items.flatMap((item) => item.budgets.map((use) => ({ item, ...use })));
  const fullest = d3.sort(
    rows,
    (row) => !row.over,
    (row) => -(row.used ?? 0),
  );
  if (rows.length === 0) return [];
  const over = rows.filter((row) => row.over).length;
  return [
    h(
      "section",
      {},
      h("h2", {}, "Budgets"),
      note(over === 0 ? "Nothing is over its budget." : `Over budget: ${over} of ${rows.length}.`),
      rows.length > MOST_BUDGETS ? note(`These ${MOST_BUDGETS} are used most.`) : null,
      dataTable({
        caption: "Budgets",
        rows: rows.length > MOST_BUDGETS ? fullest.slice(0, MOST_BUDGETS) : rows,
        columns: [
          ...(items.length > 1 ? [{ label: "case", cell: (row) => caseLink(row.item) }] : []),
          { label: "budget of", cell: (row) => shorten(row.budget, 60) },
          { label: "state", cell: budgetBadge },
          { label: "now", number: true, cell: (row) => budgetText(row.value, row.unit) },
          {
            label: "limit",
            number: true,
            cell: (row) => (isLeast(row) ? "at least " : "") + budgetText(row.limit, row.unit),
          },
          { label: "margin", number: true, cell: marginText },
          { label: "used", number: true, cell: (row) => budgetText(row.used, "fraction") },
        ],
      }),
    ),
  ];
}

function budgetText(value, unit) {
  return value === null ? ABSENT : formatValue(value, unit);
}

// Of a score the limit is the least, of all others the most.
function isLeast({ budget }) {
  return budget === "score";
}

// The room that is left, or by how much the value is over.
function marginText(row) {
  if (row.value === null || row.limit === null) return ABSENT;
  const room = isLeast(row) ? row.value - row.limit : row.limit - row.value;
  const size =
    row.unit === "fraction"
      ? formatValue(Math.abs(room), row.unit).replace("%", "points")
      : formatValue(Math.abs(room), row.unit);
  return `${size} ${room < 0 ? (isLeast(row) ? "short" : "over") : "left"}`;
}

function budgetBadge({ over }) {
  const [kind, word] =
    over === null ? ["plain", "not judged"] : over ? ["bad", "over"] : ["good", "within"];
  return h("span", { class: `badge ${kind}` }, word);
}
