// The findings of a comparison, in the words of the terminal: text and rows were made by the gate.

const QUIET_GROUPS = {
  incomplete: "Not compared",
  better: "Better than the baseline",
};
const FIRST_FINDINGS = 12;
const FIRST_FINDING_ROWS = 6;

// The findings as in the terminal: those that fail, those not compared, what got better, the rest.
function findingSections(comparison) {
  const failing = comparison.findings.filter((finding) => finding.group === "failing");
  return [
    failing.length === 0 ? null : findingList(failing.slice(0, FIRST_FINDINGS), { open: true }),
    failing.length > FIRST_FINDINGS
      ? fold(plural(failing.length - FIRST_FINDINGS, "more finding"), () =>
          findingList(failing.slice(FIRST_FINDINGS)),
        )
      : null,
    ...overBudget(comparison),
    ...Object.keys(QUIET_GROUPS).map((group) => quietGroup(comparison, group)),
    foldedList("Known defects, in the baseline too", comparison.defects),
    foldedList("Besides", comparison.remarks),
    ...stepsSection(comparison),
  ].filter(Boolean);
}

// open: whether the first one is.
function findingList(findings, { open = false } = {}) {
  return h(
    "ol",
    { class: "findings", "aria-label": "Findings" },
    findings.map((finding, index) => h("li", {}, findingFold(finding, open && index === 0))),
  );
}

function findingFold(finding, open) {
  const summary = h(
    "span",
    { class: "headline" },
    outcomeIcon(verdictKind(finding.verdict)),
    " ",
    shorten(told(finding.headline), 400),
  );
  const node = fold(summary, () => findingBody(finding), { open });
  node.classList.add("finding");
  return node;
}

function findingBody(finding) {
  const rows = finding.rows ?? [];
  const more = rows.length - FIRST_FINDING_ROWS;
  return h(
    "div",
    {},
    h(
      "ul",
      { class: "about" },
      finding.about.map((line) => h("li", {}, shorten(told(line), 600))),
    ),
    findingTable(rows.slice(0, more === 1 ? rows.length : FIRST_FINDING_ROWS)),
    more > 1
      ? fold(plural(more, "more case"), () => findingTable(rows.slice(FIRST_FINDING_ROWS)))
      : null,
    finding.example ? exampleFold(finding.example) : null,
  );
}

function findingTable(rows) {
  return dataTable({
    caption: "Cases of the finding",
    rows,
    columns: [
      { label: "case", cell: ([id]) => namedCase(told(id)) },
      { label: "metric", cell: (row) => h("span", { class: "mono" }, shorten(told(row[1]), 60)) },
      ...["baseline", "this run", "change", "bound"]
        .map((label, index) => ({
          label,
          number: true,
          cell: (row) => shorten(told(row[index + 2]), 60),
        }))
        .filter(({ cell }) => rows.some((row) => cell(row) !== "")),
    ],
  });
}

// The case with the largest change, with the modules and operators behind it.
function exampleFold([id, lines]) {
  return fold("An example, with the modules behind it", () =>
    h(
      "div",
      {},
      h("p", {}, namedCase(told(id))),
      h("pre", {}, lines.map((line) => shorten(told(line), 300)).join("\n")),
    ),
  );
}

// A link where the page has the case: one that was retired since is only named.
function namedCase(id) {
  const item = CASES.get(id.toWellFormed());
  return item ? caseLink(item) : h("span", { class: "mono" }, shorten(id, 60));
}

function overBudget({ budgets = [] }) {
  if (budgets.length === 0) return [];
  return [
    h("h2", {}, "Over budget"),
    dataTable({
      caption: "Over budget",
      rows: budgets,
      columns: ["case", "budget of", "this run", "limit", "used", "state"].map((label, index) => ({
        label,
        number: index >= 2 && index <= 4,
        cell: (row) =>
          index === 0 ? namedCase(told(row[0])) : shorten(told(row[index]), 80) || ABSENT,
      })),
    }),
  ];
}

function quietGroup(comparison, group) {
  const findings = comparison.findings.filter((finding) => finding.group === group);
  if (findings.length === 0) return null;
  return h(
    "div",
    { class: `quiet-findings ${group}` },
    h("h2", {}, QUIET_GROUPS[group]),
    findings.map((finding) => {
      const about = finding.about.map((line) => `: ${shorten(told(line), 300)}`).join("");
      return fold(
        h(
          "span",
          { class: "headline" },
          outcomeIcon(verdictKind(finding.verdict)),
          ` ${shorten(told(finding.headline), 300)}${about}`,
        ),
        () => caseList(finding.cases),
      );
    }),
  );
}

function foldedList(title, lines = []) {
  if (lines.length === 0) return null;
  const cases = new Set(lines.flatMap(([, ids]) => ids)).size;
  return fold(`${title}: ${plural(cases, "case")}`, () =>
    h(
      "ul",
      { class: "about" },
      lines.map(([what, ids]) =>
        h("li", {}, fold(shorten(told(what), 300), () => caseList(ids))),
      ),
    ),
  );
}

function caseList(ids) {
  return h(
    "ul",
    { class: "case-list" },
    ids.map((id) => h("li", {}, namedCase(told(id)))),
  );
}

function stepsSection({ steps = [] }) {
  if (steps.length === 0) return [];
  return [
    fold("What to type", () =>
      h(
        "dl",
        { class: "steps" },
        steps.flatMap(([what, words]) => [
          h("dt", {}, shorten(told(what), 200)),
          h("dd", {}, h("code", {}, visible(told(words)))),
        ]),
      ),
    ),
  ];
}

// What the verdict says of one case: each finding that it belongs to, with its numbers.
function findingsOfCase(item) {
  if (item.verdict === undefined) return [];
  const own = COMPARED.verdict.findings
    .map((finding) => ({
      finding,
      rows: (finding.rows ?? []).filter(([id]) => told(id) === item.id),
      named: (finding.cases ?? []).some((id) => told(id) === item.id),
    }))
    .filter(({ rows, named }) => rows.length > 0 || named);
  if (own.length === 0) return [];
  return [
    h(
      "ul",
      { class: "about", "aria-label": "What the verdict says of this case" },
      own.map(({ finding, rows }) =>
        h(
          "li",
          {},
          verdictBadge(finding.verdict),
          " ",
          rows.length > 0
            ? rows.map(rowWords).join("; ")
            : shorten(told(finding.headline), 300),
        ),
      ),
    ),
    h("p", {}, h("a", { href: "#/changes" }, "All findings")),
  ];
}

function rowWords([, ...cells]) {
  const [metric, before, after, change, bound] = cells.map((cell) => shorten(told(cell), 60));
  const against = bound === "" ? "" : ` (bound ${bound})`;
  return `${metric}: ${before} → ${after}${change === "" ? "" : `, ${change}`}${against}`;
}
