// Any two entries or runs, compared: judged when the page was made, or their values side by side.

const JUDGE = "";
const MOST_DIFFERENCES = 200;

function showChanges(main, route) {
  const fields = changesFields();
  const settings = readSettings(route, fields);
  const output = h("div", { class: "changes" });
  const update = () => replaceContent(output, changesBetween(settings));
  main.append(
    h("h1", {}, "Changes"),
    note("What the gate says of any two entries or runs: NEW is judged by OLD."),
    ...["old", "new"].map((name) => absentEntry(route.params.get(name))).filter(Boolean),
    controlRow(route, fields, settings, update),
    output,
  );
  update();
}

// A link may be of another page, whose verdict this one must not seem to show.
function absentEntry(name) {
  if (name === null || name === JUDGE || entryNamed(name) >= 0) return null;
  return note(`The address asks for the entry "${shorten(name)}", which this page has not.`);
}

function changesFields() {
  const entries = DATA.entries.map((_, index) => index).reverse();
  const options = entries.map((index) => ({
    value: DATA.entries[index].name.toWellFormed(),
    label: entryLabel(index),
  }));
  const judge = { value: JUDGE, label: "what judged it, or the entry before" };
  return {
    old: { label: "OLD", options: [judge, ...options], initial: JUDGE },
    new: { label: "NEW", options, initial: options[0].value },
  };
}

function entryLabel(index) {
  const { name, role } = DATA.entries[index];
  const end = endOfName(name, 30);
  return role === "baseline" ? end : `${end} (${role})`;
}

function entryNamed(name) {
  return DATA.entries.findIndex((entry) => entry.name.toWellFormed() === name);
}

function changesBetween({ old: oldName, new: newName }) {
  const now = entryNamed(newName);
  if (oldName === JUDGE && COMPARED.verdict?.new === now)
    return [newestVerdict("h2"), ...findingSections(COMPARED.verdict)];
  const old = oldName === JUDGE ? entryBeforeIt(now) : entryNamed(oldName);
  if (old === null) return [note("No earlier entry has a case of this one: choose an OLD.")];
  if (old === now) return [note("OLD and NEW are the same: choose two.")];
  const found = COMPARED.pairs.find((pair) => pair.old === old && pair.new === now);
  const context = [entryName(now), " judged by ", entryName(old)];
  if (found) {
    return [
      verdictSection(found, { heading: "h2", context, below: [commandLine(old, now)] }),
      ...findingSections(found),
    ];
  }
  return unjudged(old, now);
}

// The last entry before one, by acceptance, that holds one of its cases.
function entryBeforeIt(now) {
  for (let old = now - 1; old >= 0; old -= 1) if (commonCases(old, now).length > 0) return old;
  return null;
}

function isHeldBy(item, entry) {
  return heldAt(item.status, entry) !== null;
}

function commonCases(old, now) {
  return DATA.cases.filter((item) => isHeldBy(item, old) && isHeldBy(item, now));
}

function commandLine(old, now) {
  const [first, second] = [old, now].map((entry) => COMPARED.names[entry]);
  const words = ["peft-regress compare", first, second, COMPARED.options].filter(Boolean);
  return commandText(words.join(" "));
}

// Values that differ, without a verdict: which of them matter, only the gate can say.
function unjudged(old, now) {
  const common = commonCases(old, now);
  const rows = differencesOf(common, old, now);
  const shown = d3
    .sort(rows, (row) => -Math.abs(row.change ?? Infinity))
    .slice(0, MOST_DIFFERENCES);
  const left = rows.length - shown.length;
  return [
    h(
      "section",
      { class: "verdict open-edge", "aria-label": "Verdict" },
      h("p", { class: "kicker" }, entryName(now), " against ", entryName(old)),
      h("h2", { class: "outcome open" }, outcomeIcon("open"), common.length === 0 ? "no case in common" : "not judged in this page"),
      h(
        "p",
        {},
        common.length === 0
          ? "No case is in both, so nothing can be compared."
          : `${plural(rows.length, "value differs", "values differ")} in ${plural(common.length, "case")} that both hold. ` +
              "Some may be within their bounds; the gate says which:",
      ),
      commandLine(old, now),
    ),
    rows.length === 0
      ? null
      : dataTable({
          caption: "Values that differ, not judged",
          rows: shown,
          columns: [
            { label: "case", cell: (row) => caseLink(row.item) },
            {
              label: "metric",
              cell: (row) => h("span", { class: "mono" }, metricLabel(row.metric.name)),
            },
            differenceColumn("OLD", (row) => row.before),
            differenceColumn("NEW", (row) => row.after),
            {
              label: "change",
              number: true,
              cell: (row) => formatChange(row.change, row.metric.unit),
            },
          ],
        }),
    left > 0 ? note(`The ${plural(left, "smaller one", "smaller ones")} are not shown.`) : null,
  ].filter(Boolean);
}

function differenceColumn(label, of) {
  return {
    label,
    number: true,
    cell: (row) => formatValue(of(row), row.metric.unit),
    title: (row) => formatExact(of(row), row.metric.unit),
  };
}

// Lines that were thinned do not have every value, and times of two machines are not comparable.
function differencesOf(cases, old, now) {
  const oneMachine = areOnOneMachine(old, now);
  return cases.flatMap((item) =>
    item.lines
      .map((line) => {
        const metric = DATA.metrics[line.metric];
        const [before, after] = [heldAt(line, old), heldAt(line, now)];
        return { item, metric, line, before, after };
      })
      .filter(
        ({ metric, line, before, after }) =>
          before !== null &&
          after !== null &&
          before !== after &&
          !line.thinned &&
          (metric.kind !== "seconds" || oneMachine),
      )
      .map((row) => ({ ...row, change: changeBetween(row.before, row.after, row.metric.unit) })),
  );
}
