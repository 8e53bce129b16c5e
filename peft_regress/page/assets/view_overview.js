// What a reader wants first: how much was measured, what moved last, a plot and some rows.

const FIRST_ROWS = 8;

function showOverview(main) {
  const settings = readSettings({ params: new URLSearchParams() }, compareFields());
  main.append(h("h1", {}, "What fine-tuning costs, and what it gains"));
  if (DATA.cases.length === 0) {
    main.append(note("No cases yet."));
    return;
  }
  main.append(
    h("section", {}, comparison({ ...settings, architecture: "" })),
    h("section", {}, h("h2", {}, "Cases"), caseTable("First cases", DATA.cases.slice(0, FIRST_ROWS))),
  );
}
