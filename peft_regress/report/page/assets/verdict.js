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

function verdictKind(verdict) {
  return Object.hasOwn(VERDICT_KINDS, verdict) ? VERDICT_KINDS[verdict] : "open";
}

function verdictWords(verdict) {
  return shorten(verdict.replaceAll("_", " "), 24);
}

function told(number) {
  return COMPARED.texts[number];
}

// The words of an outcome without its counts, which stand as badges below it.
function outcomeWords(comparison) {
  return shorten(told(comparison.outcome).replace(/ \([^()]*\)/, ""), 300);
}

function verdictBadge(verdict) {
  return h("span", { class: `badge ${verdictKind(verdict)}` }, verdictWords(verdict));
}

// heading: the element of the outcome, `h1` where it is the first on the page.
function verdictSection(comparison, { heading, context, below = [] }) {
  const kind = comparison.style;
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

function countBadges({ counts, repeats }) {
  return h(
    "ul",
    { class: "counts", "aria-label": "Cases by verdict" },
    Object.entries(counts).map(([verdict, count]) =>
      h(
        "li",
        { class: `badge ${verdictKind(verdict)}` },
        verdict === "known_defect"
          ? plural(count, verdictWords(verdict))
          : `${grouped.format(count)} ${verdictWords(verdict)}`,
      ),
    ),
    repeats === undefined
      ? null
      : h("li", { class: "badge plain" }, `${grouped.format(repeats)} ${REPEATED}`),
  );
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
