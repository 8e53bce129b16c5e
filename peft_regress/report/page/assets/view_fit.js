// What fits a device: limits in, pairings out, the most accurate first.

const MIB = { size: 2 ** 20, unitName: "MiB" };
const GFLOP = { size: 1e9, unitName: "GFLOP" };
const LIMITS = [
  { ...costNamed("memory"), ...MIB, name: "ram", label: "RAM", example: "128 MiB", left: "of RAM" },
  {
    ...costNamed("flops"),
    ...GFLOP,
    name: "flops",
    short: "FLOPs",
    example: "2.5 GFLOP",
    left: "of an update",
  },
  {
    ...costNamed("ship"),
    ...MIB,
    name: "ship",
    label: "Size to ship",
    example: "500 kB",
    left: "to ship",
  },
  {
    ...MIB,
    name: "storage",
    label: "Storage for weights",
    short: "Storage",
    unit: "byte",
    example: "16 MB",
    left: "of storage",
    of: (item) =>
      sumOrNull(["peak_param_bytes", "peak_buffer_bytes"].map((name) => currentValue(item, name))),
  },
];
const NEAREST = 3;

function sumOrNull(values) {
  return values.includes(null) ? null : d3.sum(values);
}

function deviceField() {
  const devices = DATA.devices.map((device) => ({
    value: device.name,
    label: `${shorten(device.title, 60)} · ${formatValue(device.memory, "byte")}`,
  }));
  return {
    label: "Preset: a device class",
    options: [{ value: "", label: "none, the limits below alone" }, ...devices],
    initial: "",
    wide: true,
  };
}

function deviceNote(settings) {
  const device = deviceNamed(settings.device);
  if (device === null) return null;
  const storage =
    device.storage === null
      ? "storage of your choice"
      : `${formatValue(device.storage, "byte")} for weights and code`;
  return note(
    `${shorten(device.title, 80)}: ${formatValue(device.memory, "byte")} of memory, ${storage}; ` +
      `${shorten(device.compute, 120)}. Source: ${shorten(device.source, 300)}`,
  );
}

function deviceNamed(name) {
  return DATA.devices.find((device) => device.name === name) ?? null;
}

function fitFields() {
  const limits = LIMITS.map(({ name, label, short = label, unit, unitName, example }) => [
    name,
    {
      label: `${short}, at most`,
      initial: "",
      placeholder: `such as ${example}`,
      check: (text) => amountProblem(text, unit, unitName, example),
    },
  ]);
  return {
    device: deviceField(),
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
    showPreset(controls, settings);
    replaceContent(output, fitSection(settings));
    announce(output.querySelector(".lead").textContent);
  };
  controls.append(controlRow(route, fields, settings, update));
  main.append(
    h("h1", {}, "Fits my device"),
    note(
      "RAM is that of the tensors of one training step; Python and torch come on top. An empty field is no ",
      "limit, or the device's. What fits is ranked by accuracy, or by score, then by FLOPs.",
    ),
    controls,
    output,
  );
  update();
}

// Empty fields show what the device has; what is typed replaces it.
function showPreset(controls, settings) {
  const owned = limitsOfDevice(deviceNamed(settings.device));
  for (const { name, example } of LIMITS) {
    const field = controls.querySelector(`[name=${name}]`);
    field.placeholder =
      owned[name] === null ? `such as ${example}` : `${formatValue(owned[name], "byte")}`;
  }
}

function limitsOfDevice(device) {
  return {
    ram: device?.memory ?? null,
    flops: null,
    ship: null,
    storage: device?.storage ?? null,
  };
}

function fitSection(settings) {
  const wrong = LIMITS.filter(
    ({ name, unit, unitName, example }) =>
      amountProblem(settings[name], unit, unitName, example) !== "",
  );
  if (wrong.length > 0) {
    return [
      lead(
        `${wrong.map((limit) => limit.label).join(" and ")}: type an amount above 0; see the field.`,
      ),
    ];
  }
  const device = deviceNamed(settings.device);
  const limits = LIMITS.map((limit) => ({
    ...limit,
    most: limitOf(settings, limit, device),
  })).filter(({ name, most }) => name !== "storage" || most !== null);
  const asked = limits.filter((limit) => limit.most !== null);
  const { task, architecture } = settings;
  const rows = DATA.cases
    .filter(
      (item) => item.task === task && (architecture === "" || item.architecture === architecture),
    )
    .map((item) => fitRow(item, limits, batchSuffix(settings.batch)));
  const gain = gainOf(rows.map((row) => row.item));
  for (const row of rows) row.gain = currentValue(row.item, gain.name);
  const known = rows.filter(
    (row) => isMeasured(row.item) && row.needs.every((need) => need.value !== null),
  );
  return [
    ...answer(known, asked, gain),
    deviceNote(settings),
    unknownNote(rows.filter((row) => !known.includes(row)).map((row) => row.item)),
  ];
}

// What was typed, else what the device has.
function limitOf(settings, { name, unit, unitName }, device) {
  return readAmount(settings[name], unit, unitName) ?? limitsOfDevice(device)[name];
}

function fitRow(item, limits, suffix) {
  const needs = limits.map((limit) => ({ ...limit, value: limit.of(item, suffix) }));
  const limited = needs.filter((need) => need.most !== null && need.value !== null);
  return {
    item,
    needs,
    fits: limited.every((need) => need.value <= need.most),
    over: d3.max(limited, (need) => need.value / need.most) ?? 0,
  };
}

function rankFits(rows) {
  const flops = (row) => row.needs.find((need) => need.name === "flops").value;
  return rows.toSorted(
    (a, b) =>
      (a.gain === null) - (b.gain === null) ||
      b.gain - a.gain ||
      flops(a) - flops(b) ||
      compareText(a.item.id, b.item.id),
  );
}

function answer(known, asked, gain) {
  if (known.length === 0) return [lead("No case of these choices has its costs measured.")];
  const fits = rankFits(known.filter((row) => row.fits));
  if (fits.length === 0)
    return [
      lead(`Nothing fits. The nearest of ${plural(known.length, "pairing")}:`),
      nearestList(known),
    ];
  const best = fits[0];
  return [
    lead(
      `${fits.length} of ${plural(known.length, "pairing")} fit. The ${gain.best} is `,
      caseLink(best.item),
      `: ${formatValue(best.gain, gain.unit)}${asked.length > 0 ? `, with ${roomWords(best)} left` : ""}.`,
    ),
    fitTable(fits, gain),
  ];
}

function lead(...content) {
  return h("p", { class: "lead" }, ...content);
}

function roomWords(row) {
  return row.needs
    .filter((need) => need.most !== null)
    .map((need) => `${formatValue(need.most - need.value, need.unit)} ${need.left}`)
    .join(" and ");
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
    .filter((need) => need.most !== null && need.value > need.most)
    .map(
      (need) =>
        `${need.label} ${formatValue(need.value, need.unit)}, ` +
        `${formatValue(need.value - need.most, need.unit)} (${formatValue(need.value / need.most - 1, "fraction")}) too much`,
    )
    .join("; ");
}

function fitTable(fits, gain) {
  const place = new Map(fits.map((row, index) => [row, index + 1]));
  return dataTable({
    caption: `What fits, the ${gain.best} first`,
    rows: fits,
    names: 1,
    columns: [
      { label: "place", number: true, cell: (row) => String(place.get(row)) },
      { label: "case", cell: (row) => caseLink(row.item) },
      { label: gain.name, number: true, cell: (row) => formatValue(row.gain, gain.unit) },
      ...fits[0].needs.flatMap((need, index) => needColumns(need, index)),
    ],
  });
}

function needColumns({ label, short = label, unit, size, unitName, most }, index) {
  const need = (row) => row.needs[index];
  const uses = {
    label: `${short}, ${unitName}`,
    number: true,
    cell: (row) => cellText(need(row).value, unit, size),
    title: (row) => formatExact(need(row).value, unit),
  };
  const room = {
    label: `left, ${unitName}`,
    number: true,
    cell: (row) =>
      `${cellText(most - need(row).value, unit, size)} (${formatValue(1 - need(row).value / most, "fraction")})`,
  };
  return most === null ? [uses] : [uses, room];
}

function unknownNote(items) {
  if (items.length === 0) return null;
  const lacking = items.filter(isMeasured).length;
  const words = [
    failuresText(items),
    lacking > 0 ? `${plural(lacking, "case")} without such a cost` : "",
  ];
  return note(`Not ranked: ${words.filter(Boolean).join(", ")}.`);
}
