// Where the memory of one training step goes, for every pairing of an architecture.

function showMemory(main, route) {
  const fields = { architecture: architectureField(null), batch: batchField(), task: taskField() };
  const settings = readSettings(route, fields);
  const output = h("div");
  const update = () => replaceContent(output, memorySection(settings));
  main.append(
    h("h1", {}, "Memory of one training step"),
    note(
      "The bar is the most memory in use at one moment: what a device needs. The outlines behind it are the ",
      "highs of each category, which come at different moments; together they are the reference paper's total.",
    ),
    controlRow(route, fields, settings, update),
    output,
  );
  update();
}

function memorySection({ architecture, batch, task }) {
  const rows = DATA.cases
    .filter((item) => item.architecture === architecture && item.task === task)
    .map((item) => memoryOf(item, batchSuffix(batch)));
  const known = d3.sort(
    rows.filter((row) => row.parts.length > 0),
    (row) => row.peak ?? row.sum,
    (row) => row.item.id,
  );
  if (known.length === 0)
    return [note("No case of this task and architecture has its memory by category.")];
  const [least, most] = [known[0], known.at(-1)];
  const where = `${shorten(architecture)} ${batchWords(batch)}`;
  const lost = rows.filter((row) => row.parts.length === 0).map((row) => row.item);
  return [
    memoryLegend(),
    memoryFigure(
      known,
      `Memory by category on ${where}: ${plural(known.length, "pairing")}, from ${memoryText(least)} to ${memoryText(most)}.`,
      (row) => methodName(row.item),
    ),
    fold("The numbers, in MiB", () =>
      memoryTable(known, `Memory by category on ${where}, MiB`, {
        label: "case",
        cell: (row) => caseLink(row.item),
      }),
    ),
    lost.length > 0
      ? note(
          `Left out for want of a measurement: ${failuresText(lost) || plural(lost.length, "case")}.`,
        )
      : null,
  ];
}

function memoryText(row) {
  return `${shorten(methodName(row.item), 40)} (peak ${formatValue(row.peak, "byte")})`;
}
