// Choices of a view, which stand in the address so that what is seen can be sent.

// fields: {name: {options: [{value, label}], initial} or {initial} for free text}; one that is
// `hidden` stands only in the address.
function readSettings(route, fields) {
  const settings = {};
  for (const [name, { options, initial }] of Object.entries(fields)) {
    const asked = route.params.get(name);
    const known = asked !== null && (!options || options.some((o) => o.value === asked));
    settings[name] = known ? asked : initial;
  }
  return settings;
}

function writeSettings(route, fields, settings) {
  const params = new URLSearchParams();
  for (const [name, { initial }] of Object.entries(fields)) {
    if (settings[name] !== initial) params.set(name, settings[name]);
  }
  const query = params.toString();
  history.replaceState(null, "", `#/${route.name}${query ? `?${query}` : ""}`);
}

// A row of controls; `changed` is called after the settings and the address have been renewed.
function controlRow(route, fields, settings, changed) {
  const renew = (name, value) => {
    settings[name] = value;
    writeSettings(route, fields, settings);
    changed();
  };
  const visibleFields = Object.entries(fields).filter(([, field]) => !field.hidden);
  return h(
    "div",
    { class: "controls", role: "group", "aria-label": "Choices" },
    visibleFields.map(([name, field]) =>
      field.options
        ? selectControl(name, field, settings[name], (value) => renew(name, value))
        : textControl(name, field, settings[name], (value) => renew(name, value)),
    ),
  );
}

function selectControl(name, { label, options, wide = false }, value, changed) {
  const select = h(
    "select",
    { name, id: `field-${name}`, onchange: () => changed(select.value) },
    d3
      .groups(options, (o) => o.group ?? null)
      .flatMap(([group, members]) => {
        const made = members.map((o) =>
          h("option", { value: o.value, selected: o.value === value }, o.label),
        );
        return group === null ? made : [h("optgroup", { label: group }, made)];
      }),
  );
  return h(
    "div",
    { class: wide ? "control wide" : "control" },
    h("label", { for: `field-${name}` }, label),
    select,
  );
}

function textControl(name, field, value, changed) {
  const problem = h("span", { class: "problem", id: `problem-${name}`, role: "alert" });
  const input = h("input", {
    name,
    id: `field-${name}`,
    type: field.type ?? "text",
    inputmode: field.inputmode,
    placeholder: field.placeholder,
    list: field.suggestions ? `${name}-list` : null,
    autocomplete: "off",
    spellcheck: "false",
    "aria-describedby": `problem-${name}`,
    oninput: () => {
      check();
      changed(input.value);
    },
  });
  const check = () => {
    problem.textContent = field.check?.(input.value) ?? "";
    input.setAttribute("aria-invalid", problem.textContent !== "");
  };
  input.value = value;
  check();
  const list = field.suggestions
    ? h(
        "datalist",
        { id: `${name}-list` },
        field.suggestions.map((text) => h("option", { value: text })),
      )
    : null;
  return h(
    "div",
    { class: `control ${field.wide ? "wide" : ""}` },
    h("label", { for: `field-${name}` }, field.label),
    input,
    list,
    problem,
  );
}

function optionsOf(values, all = null) {
  const options = values.map((value) => ({
    value: String(value),
    label: shorten(String(value), 40),
  }));
  return all === null ? options : [{ value: "", label: all }, ...options];
}

function taskField() {
  return { label: "Task", options: optionsOf(TASKS), initial: TASKS[0] };
}

// Patterns in which * stands for anything. A method must match one of them; without patterns all do.
function methodsField(initial = "") {
  return { label: "Methods: all, or patterns such as lora* full", initial, wide: true };
}

function isAsked(method, patterns) {
  const asked = patterns.split(/[\s,]+/).filter(Boolean);
  return asked.length === 0 || asked.some((pattern) => isLike(method, pattern));
}

function batchField() {
  return { label: "Batch", options: BATCHES, initial: "1" };
}

function architectureField(all = "all, side by side") {
  return {
    label: "Architecture",
    options: optionsOf(ARCHITECTURES, all),
    initial: all === null ? ARCHITECTURES[0] : "",
  };
}

// A view with choices: its heading, a note, the choices, and what they show.
function choiceView(main, route, { title, about, fields, show, below = [] }) {
  const settings = readSettings(route, fields);
  const output = h("div");
  const update = () => replaceContent(output, show(settings));
  main.append(
    h("h1", {}, title),
    ...about.map((text) => note(text)),
    controlRow(route, fields, settings, update),
    output,
    ...below,
  );
  update();
}
