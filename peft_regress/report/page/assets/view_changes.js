// Any two entries or runs, compared: the gate judged them when the page was made.

const JUDGE = "";

function changesFields() {
  const options = DATA.entries
    .map(({ name, label }) => ({ value: name.toWellFormed(), label: endOfName(label, 40) }))
    .reverse();
  const judge = { value: JUDGE, label: "what judged it, or the entry before" };
  const newest = DATA.entries[DATA.newest].name.toWellFormed();
  return {
    old: { label: "OLD", options: [judge, ...options], initial: JUDGE },
    new: { label: "NEW", options, initial: newest },
  };
}

function showChanges(main, route) {
  choiceView(main, route, {
    title: "Changes",
    about: [
      "What the gate says of any two entries or runs: NEW is judged by OLD.",
      ...["old", "new"].map((name) => absentEntry(route.params.get(name))).filter(Boolean),
    ],
    fields: changesFields(),
    show: changesBetween,
  });
}

// A link may be of another page, whose verdict this one must not seem to show.
function absentEntry(name) {
  if (name === null || name === JUDGE || entryNamed(name) >= 0) return null;
  return `The address asks for the entry "${shorten(name)}", which this page has not.`;
}

function entryNamed(name) {
  return DATA.entries.findIndex((entry) => entry.name.toWellFormed() === name);
}

function changesBetween({ old: oldName, new: newName }) {
  const now = entryNamed(newName);
  const newest = PAGE.html.changes[`newest ${now}`];
  if (oldName === JUDGE && newest) return [written(newest)];
  const old = oldName === JUDGE ? entryBeforeIt(now) : entryNamed(oldName);
  if (old === null) return [note("No earlier entry has a case of this one: choose an OLD.")];
  if (old === now) return [note("OLD and NEW are the same: choose two.")];
  const found = PAGE.html.changes[`${old} ${now}`];
  if (found) return [written(found)];
  const names = [old, now].map((entry) => DATA.entries[entry].word);
  return [
    note("These two were not judged when this page was made. In a terminal:"),
    h("p", {}, h("code", {}, `peft-regress compare ${names.join(" ")}${DATA.storage}`)),
  ];
}

// The last entry before one, by acceptance, that holds one of its cases.
function entryBeforeIt(now) {
  const holds = (item, entry) => heldAt(item.status, entry) !== null;
  const earlier = d3.range(now).reverse();
  return (
    earlier.find((old) => DATA.cases.some((item) => holds(item, old) && holds(item, now))) ?? null
  );
}
