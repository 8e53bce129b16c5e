// Where the memory of one training step goes, for every pairing of an architecture.

function showMemory(main, route) {
  choiceView(main, route, {
    title: "Memory of one training step",
    about: [
      "The bar is the most memory in use at one moment: what a device needs. The outlines behind it are the " +
        "highs of each category, which come at different moments; together they are the reference paper's total.",
    ],
    fields: { architecture: architectureField(null), batch: batchField(), task: taskField() },
    show: memorySection,
  });
}

function memorySection({ architecture, batch, task }) {
  const { suffix, words } = batchOf(batch);
  const rows = DATA.cases
    .filter((item) => item.architecture === architecture && item.task === task)
    .map((item) => memoryOf(item, suffix));
  const known = d3.sort(
    rows.filter((row) => row.parts.length > 0),
    (row) => row.peak ?? row.sum,
    (row) => row.item.id,
  );
  if (known.length === 0)
    return [note("No case of this task and architecture has its memory by category.")];
  const [least, most] = [known[0], known.at(-1)].map((row) => `${row.item.name} (${row.text})`);
  const where = `${shorten(architecture)} ${words}`;
  const lost = rows.length - known.length;
  return [
    memoryLegend(),
    memoryFigure(
      known,
      `Memory by category on ${where}: ${plural(known.length, "pairing")}, from ${least} to ${most}.`,
      (row) => row.item.name,
    ),
    fold("The numbers", () => written(PAGE.html.memory[`${architecture} ${task} ${suffix}`])),
    lost > 0 ? note(`Left out for want of a measurement: ${plural(lost, "case")}.`) : null,
  ];
}
