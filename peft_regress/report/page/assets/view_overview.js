// First things first: the verdict, then what changed at a glance, the fronts, and what is stored.

function showOverview(main, route) {
  const settings = readSettings({ params: new URLSearchParams() }, tradeoffFields());
  const { gain } = tradeoffsOf(settings);
  const about = [
    FRONT_WORDS,
    h("a", { href: "#/tradeoffs" }, "Other costs, other tasks"),
    ".",
  ];
  const hasPlots = tradeoffsOf(settings).plots.some((plot) => plot[settings.show]);
  main.append(
    written(PAGE.html.verdict),
    ...(DATA.entries.length > 1 ? [glanceSection(route)] : []),
    ...(hasPlots
      ? [
          h(
            "section",
            {},
            h("h2", {}, `${title(gain)} against peak memory, task ${shorten(settings.task, 40)}`),
            note(...about),
            ...tradeoffs(settings, { compact: true }).filter(Boolean),
          ),
        ]
      : []),
    written(PAGE.html.stored),
  );
}
