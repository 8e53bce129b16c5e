// What fits a device: limits in, pairings out, those of the highest gain first.

const LIMITS = [
  { name: "ram", cost: "ram", label: "RAM", unit: "byte", bare: "MiB", example: "128 MiB" },
  { name: "flops", cost: "flops", label: "FLOPs", unit: "flop", bare: "GFLOP", example: "2.5 GFLOP" },
  { name: "ship", cost: "ship", label: "Size to ship", unit: "byte", bare: "MiB", example: "500 kB" },
  { name: "storage", cost: "storage", label: "Storage", unit: "byte", bare: "MiB", example: "16 MB" },
];
const NEAREST = 3;

function deviceNamed(name) {
  return DATA.devices.find((device) => device.name === name) ?? null;
}

function fitFields() {
  const limits = LIMITS.map(({ name, label, unit, bare, example }) => [
    name,
    {
      label: `${label}, at most`,
      initial: "",
      placeholder: `such as ${example}`,
      check: (text) => amountProblem(text, unit, bare, example),
    },
  ]);
  const none = { value: "", label: "none, the limits below alone" };
  const devices = DATA.devices.map(({ name, label }) => ({ value: name, label }));
  return {
    device: {
      label: "Preset: a device class",
      options: [none, ...devices],
      initial: "",
      wide: true,
    },
    ...Object.fromEntries(limits),
    batch: batchField(),
    task: taskField(),
    architecture: architectureField("any"),
  };
}

function showFit(main, route) {
  const fields = fitFields();
  const settings = readSettings(route, fields);
  const output = h("div", { id: "fit" });
  const controls = h("div");
  const update = () => {
    showPreset(controls, deviceNamed(settings.device));
    replaceContent(output, fitSection(settings));
    announce(output.querySelector(".lead").textContent);
  };
  controls.append(controlRow(route, fields, settings, update));
  main.append(
    h("h1", {}, "Fits my device"),
    note(
      "RAM is that of the tensors of one training step: of a device, what the operating system, Python, torch ",
      "and, where a method needs it, PEFT leave. An empty field is no limit, or the device's. What fits is ranked by accuracy, or by score, then by FLOPs. ",
      GAIN_WORDS,
    ),
    controls,
    output,
  );
  update();
}

// Empty fields show what the device has; what is typed replaces it.
function showPreset(controls, device) {
  for (const { name, example } of LIMITS) {
    const field = controls.querySelector(`[name=${name}]`);
    field.placeholder = device?.shown[name] ?? `such as ${example}`;
  }
}

function fitSection(settings) {
  const wrong = LIMITS.filter(
    ({ name, unit, bare, example }) => amountProblem(settings[name], unit, bare, example) !== "",
  );
  if (wrong.length > 0) {
    const labels = wrong.map((limit) => limit.label).join(" and ");
    return [lead(`${labels}: type an amount above 0; see the field.`)];
  }
  const device = deviceNamed(settings.device);
  const limits = LIMITS.map((limit) => ({
    ...limit,
    most: readAmount(settings[limit.name], limit.unit, limit.bare) ?? device?.[limit.name] ?? null,
  })).filter(({ name, most }) => name !== "storage" || most !== null);
  const { task, architecture, batch } = settings;
  const items = DATA.cases.filter(
    (item) => item.task === task && (architecture === "" || item.architecture === architecture),
  );
  const rows = items.map((item) => fitRow(item, limits, batch));
  const known = rows.filter((row) => row.needs.every((need) => need.used !== undefined));
  const lost = rows.length - known.length;
  return [
    ...answer(known),
    device === null ? null : written(`<p class="note">${PAGE.html.devices[device.name]}</p>`),
    lost > 0 ? note(`Not ranked, for want of a cost or since it failed: ${plural(lost, "case")}.`) : null,
  ];
}

// What a case needs of each limit; a cost is of one batch, or of any. A device's RAM depends on the runtime.
function fitRow(item, limits, batch) {
  const needs = limits.map((limit) => {
    const costs = item.costs[limit.cost] ?? {};
    const most = limit.most?.[item.runtime] ?? limit.most;
    return { ...limit, most, used: costs[batch] ?? costs["1"] };
  });
  const limited = needs.filter((need) => need.most !== null && need.used !== undefined);
  return {
    item,
    needs,
    fits: limited.every((need) => need.used.value <= need.most),
    over: d3.max(limited, (need) => need.used.value / need.most) ?? 0,
  };
}

// Beside gains of a study, others are none: they are of other trainings.
function rankFits(rows) {
  const isStudied = rows.some(({ item }) => item.gain?.is_studied);
  const gained = ({ gain }) => (gain?.is_studied === isStudied ? gain : null);
  const flops = (row) => row.needs.find((need) => need.name === "flops").used.value;
  return d3.sort(
    rows.map((row) => ({ ...row, gain: gained(row.item) })),
    (row) => -(row.gain?.now ?? -Infinity),
    flops,
    (row) => row.item.id,
  );
}

function answer(known) {
  if (known.length === 0) return [lead("No case of these choices has its costs measured.")];
  const fits = rankFits(known.filter((row) => row.fits));
  const count = plural(known.length, "pairing");
  if (fits.length === 0) return [lead(`Nothing fits. The nearest of ${count}:`), nearestList(known)];
  const [best] = fits;
  const words = distinct(fits.flatMap(({ gain }) => gain?.words ?? [])).join(", ");
  const gain = best.gain ? `: ${best.gain.text}` : "";
  return [
    lead(`${fits.length} of ${count} fit. First by ${words || "FLOPs"}: `, caseLink(best.item), `${gain}.`),
    fitTable(fits, words || "gain"),
  ];
}

function nearestList(known) {
  const nearest = d3.sort(known, (row) => row.over).slice(0, NEAREST);
  return h(
    "ol",
    { class: "nearest" },
    nearest.map((row) => h("li", {}, caseLink(row.item), `: ${missWords(row)}`)),
  );
}

function missWords(row) {
  return row.needs
    .filter((need) => need.most !== null && need.used.value > need.most)
    .map((need) => `${need.label} ${need.used.text}, ${need.most > 0 ? `${shareOf(need)} of the limit` : "where none is left"}`)
    .join("; ");
}

function shareOf({ used, most }) {
  return `${((100 * used.value) / most).toFixed(1)} %`;
}

function fitTable(fits, gain) {
  const place = new Map(fits.map((row, index) => [row, index + 1]));
  return dataTable(
    "What fits, in order",
    [
      { label: "case", cell: (row) => caseLink(row.item) },
      { label: "place", number: true, cell: (row) => String(place.get(row)) },
      { label: gain, number: true, cell: (row) => row.gain?.text ?? ABSENT },
      ...fits[0].needs.flatMap(({ label, most }, index) => [
        { label, number: true, cell: (row) => row.needs[index].used.text },
        ...(most === null
          ? []
          : [{ label: "of the limit", number: true, cell: (row) => shareOf(row.needs[index]) }]),
      ]),
    ],
    fits,
  );
}
