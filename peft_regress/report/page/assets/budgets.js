// How much of its budget each case uses.

function budgetSection(items) {
  const rows = items.flatMap((item) => item.budgets.map((use) => ({ item, ...use })));
  if (rows.length === 0) return [];
  const over = rows.filter((row) => row.over).length;
  return [
    h(
      "section",
      {},
      h("h2", {}, "Budgets"),
      note(over === 0 ? "Nothing is over its budget." : `Over budget: ${over} of ${rows.length}.`),
      dataTable({
        caption: "Budgets",
        rows,
        columns: [
          { label: "case", cell: (row) => caseLink(row.item) },
          { label: "budget of", cell: (row) => shorten(row.budget, 60) },
          { label: "now", number: true, cell: (row) => budgetText(row.value, row.unit) },
          { label: "limit", number: true, cell: (row) => budgetText(row.limit, row.unit) },
          { label: "used", number: true, cell: (row) => budgetText(row.used, "fraction") },
          { label: "state", cell: budgetBadge },
        ],
      }),
    ),
  ];
}

function budgetText(value, unit) {
  return value === null ? ABSENT : formatValue(value, unit);
}

function budgetBadge({ over }) {
  const [kind, word] =
    over === null ? ["plain", "not judged"] : over ? ["bad", "over"] : ["good", "within"];
  return h("span", { class: `badge ${kind}` }, word);
}
