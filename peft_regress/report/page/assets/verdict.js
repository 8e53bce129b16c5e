// What the gate said of two runs. It was judged when the page was made: nothing is judged here.

const COMPARED = DATA.comparisons;

const VERDICT_KINDS = {
  newly_failing: "bad",
  over_budget: "bad",
  regressed: "bad",
  incomparable: "open",
  missing: "open",
  new: "open",
  fixed: "good",
  improved: "good",
  known_defect: "plain",
  unchanged: "good",
};
const GROUPS = {
  failing: null,
  incomplete: "Not compared",
  better: "Better than the baseline",
};
const FIRST_FINDING_ROWS = 6;

function verdictKind(verdict) {
  return Object.hasOwn(VERDICT_KINDS, verdict) ? VERDICT_KINDS[verdict] : "open";
}

function verdictWords(verdict) {
  return shorten(verdict.replaceAll("_", " "), 24);
}

// Green is for exit code 0 alone.
function outcomeKind({ exit_code: code }) {
  return code === 0 ? "good" : code === 1 ? "bad" : "open";
}

function told(number) {
  return COMPARED.texts[number];
}

// The words of an outcome without its counts, which stand as badges below it.
function outcomeWords(comparison) {
  return shorten(told(comparison.outcome).split(" (")[0], 120);
}

function verdictBadge(verdict) {
  return h("span", { class: `badge ${verdictKind(verdict)}` }, verdictWords(verdict));
}

// heading: the element of the outcome, `h1` where it is the first on the page.
function verdictSection(comparison, { heading, context, below = [] }) {
  const kind = outcomeKind(comparison);
  return h(
    "section",
    { class: `verdict ${kind}-edge`, "aria-label": "Verdict" },
    h("p", { class: "kicker" }, context),
    h(heading, { class: `outcome ${kind}` }, outcomeIcon(kind), outcomeWords(comparison)),
    countBadges(comparison),
    ...comparison.setting.map((line) => h("p", { class: "setting" }, shorten(told(line), 400))),
    ...below,
  );
}

// The verdict on the newest entry or run, against what judges it.
function newestVerdict(heading) {
  const newest = COMPARED.verdict.new;
  const entry = DATA.entries[newest];
  const isRun = entry.role === "run";
  const context = [
    entryName(newest),
    ` of ${formatDate(entry.date)}, `,
    isRun ? "judged by the accepted baselines" : "judged by what was accepted before it",
  ];
  const below = [
    entry.complete
      ? null
      : h(
          "p",
          { class: "setting" },
          `partial run: ${shorten(entry.narrowed_by.join(", "), 200) || "it did not finish"}`,
        ),
    isRun || COMPARED.verdict.exit_code === 0 || entry.reason === ""
      ? null
      : h("p", { class: "setting" }, `accepted, because: ${shorten(entry.reason, 300)}`),
    COMPARED.verdict.command === undefined
      ? null
      : commandText(told(COMPARED.verdict.command)),
  ].filter(Boolean);
  return verdictSection(COMPARED.verdict, { heading, context, below });
}

function commandText(command) {
  return h("p", { class: "command" }, "In a terminal: ", h("code", {}, visible(command)));
}

function outcomeIcon(kind) {
  const shapes = { good: d3.symbolCircle, bad: d3.symbolTriangle2, open: d3.symbolDiamond2 };
  return markIcon(shapes[kind] ?? d3.symbolSquare2, kind in shapes ? `var(--${kind})` : "var(--quiet)");
}

function countBadges({ counts }) {
  return h(
    "ul",
    { class: "counts", "aria-label": "Cases by verdict" },
    Object.entries(counts).map(([verdict, count]) =>
      h(
        "li",
        { class: `badge ${verdictKind(verdict)}` },
        `${grouped.format(count)} ${verdictWords(verdict)}`,
      ),
    ),
  );
}

// The findings as in the terminal: those that fail, those not compared, what got better, the rest.
function findingSections(comparison) {
  const failing = comparison.findings.filter((finding) => finding.group === "failing");
  return [
    failing.length === 0
      ? null
      : h(
          "ol",
          { class: "findings", "aria-label": "Findings" },
          failing.map((finding, index) => h("li", {}, findingFold(finding, index === 0))),
        ),
    ...overBudget(comparison),
    ...["incomplete", "better"].map((group) => quietGroup(comparison, group)),
    foldedList("Known defects, in the baseline too", comparison.defects),
    foldedList("Besides", comparison.remarks),
    ...stepsSection(comparison),
  ].filter(Boolean);
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
      ...["baseline", "this run", "change", "bound"].map((label, index) => ({
        label,
        number: true,
        cell: (row) => shorten(told(row[index + 2]), 60),
      })),
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
    h("h2", {}, GROUPS[group]),
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

// The state of a case: the verdict on it where it was judged, else whether it came through.
function stateOfCase(item) {
  const status = statusOf(item);
  const verdict = item.verdict ?? null;
  if (verdict !== null && (status === "ok" || verdict !== "unchanged"))
    return { kind: verdictKind(verdict), text: verdictWords(verdict), status };
  if (status === "ok" || status.startsWith("unsupported"))
    return { kind: "plain", text: status, status };
  return { kind: "bad", text: status, status };
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
