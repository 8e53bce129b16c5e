// Accuracy against cost, by architecture, with the pairings that no other beats.

const FRONT_WORDS =
  "Ringed and joined: where no other pairing in colour is as cheap and as accurate. A thin line spans the seeds. ";
const GAIN_WORDS =
  "Accuracy of the study: trained to a plateau (docs/evidence.md); cases without it are left out, or come last. " +
  "After a number of steps: for regressions, no order of methods.";
const SHOWN = [
  { value: "standard", label: "standard" },
  { value: "grey", label: "others in grey" },
  { value: "all", label: "all" },
];

function tradeoffFields() {
  return {
    cost: { label: "Cost", options: DATA.costs, initial: "memory" },
    batch: batchField(),
    task: taskField(),
    architecture: architectureField(),
    show: { label: "Show", options: SHOWN, initial: "standard" },
    methods: methodsField(),
  };
}

function title(gain) {
  return gain === "accuracy" ? "Accuracy" : "Score";
}

function tradeoffsOf({ task, cost, batch }) {
  return DATA.tradeoffs[`${task} ${cost} ${batch}`] ?? DATA.tradeoffs[`${task} ${cost} 1`];
}

function showTradeoffs(main, route) {
  const settings = readSettings(route, tradeoffFields());
  choiceView(main, route, {
    title: `${title(tradeoffsOf(settings).gain)} against cost`,
    about: [`${FRONT_WORDS}Up and to the left is better.`],
    fields: tradeoffFields(),
    show: tradeoffs,
  });
}

function tradeoffs(settings, { compact = false } = {}) {
  const { architecture, methods, show, batch, cost } = settings;
  const axes = tradeoffsOf(settings);
  const set = show === "all" ? "all" : "standard";
  const isShown = ({ item }) => isAsked(item.method, methods);
  const plots = axes.plots
    .filter((plot) => plot[set] && (architecture === "" || plot.architecture === architecture))
    .map((plot) => {
      const points = plot.points
        .map((id) => pointOf(CASES.get(id.toWellFormed()), cost, batch))
        .filter(isShown);
      const own = points.filter(({ item }) => set === "all" || isStandard(item));
      const behind = show === "grey" ? points.filter((point) => !own.includes(point)) : [];
      const front = plot[set].front.flatMap((id) => own.filter(({ item }) => item.id === id));
      return { ...plot, ...plot[set], own, behind, front, left: points.length - own.length };
    })
    .filter(({ own }) => own.length > 0);
  if (plots.length === 0)
    return [note(`No case of these choices has both ${axes.gain} and this cost.`)];
  const gains = plots.flatMap(({ own, behind }) => [...own, ...behind].map(({ gain }) => gain));
  const others = show === "grey" ? 0 : d3.sum(plots, ({ left }) => left);
  return [
    methodLegend(distinct(plots.flatMap(({ own }) => own.map(({ item }) => item.method)))),
    note(GAIN_WORDS),
    h(
      "div",
      { class: plots.length === 1 ? "" : compact ? "facets compact" : "facets" },
      plots.map((plot) =>
        figure({
          title: h("h2", {}, shorten(plot.architecture)),
          label: plot.label,
          draw: (width) => drawTradeoffs(width, { ...plot, gains }, axes, axes.label, plots.length > 1),
          open: openCase,
          below: [written(plot.html)],
        }),
      ),
    ),
    others > 0
      ? note(
          `Not shown: ${plural(others, "case")} of other methods. `,
          h("a", { href: "#/tradeoffs?show=grey" }, "Show them in grey"),
          ".",
        )
      : null,
    axes.lost > 0
      ? note(`Left out for want of ${axes.gain} or of this cost: ${plural(axes.lost, "case")}.`)
      : null,
  ];
}

function pointOf(item, cost, batch) {
  const { gain, costs, id } = item;
  const { value, text } = costs[cost][batch];
  return { item, cost: value, gain: gain.now, seeds: gain.seeds ?? null, tip: tipOf(id, gain, text) };
}

function tipOf(id, { text, words, seeds_text: seeds }, cost) {
  const lines = [shorten(id, 60), words ? `${text} ${words}` : text, seeds && `seeds ${seeds}`, cost];
  return lines.filter(Boolean).join("\n");
}
