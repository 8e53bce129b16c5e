"""The page for everyone and against everyone: widths, colours, keys, names, and hostile data."""

from __future__ import annotations

import pytest
from page_browser import PageUnderTest
from page_world import page_data

pytestmark = pytest.mark.browser

CASE = "case/shift%2Fdora-r4%2Fresnet18"
VIEWS = ("", "compare", "history", "memory", "ranks", "table", "fit?ram=20", "fit?ram=x", CASE)
HOSTILE = (
    '"><img src=x onerror="alert(1)"><script>alert(2)</script>&amp;\u202e\x00',
    "x" * 10_000,
    "constructor",
    "__proto__",
    "a*?[b]%2F#?&=/",
    "",
)

# Each text's contrast with what lies behind it, and what is too low; SVG text by its fill.
CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = colour => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = colour => rgba(colour).slice(0, 3)
    .map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = node => {
    for (let at = node; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (rgba(colour)[3] === 255) return colour;
    }
    return "white";
  };
  const ratio = (one, other) => {
    const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || node.closest("script, style, title")) continue;
    const style = getComputedStyle(node);
    const colour = node.closest("svg") ? style.fill : style.color;
    const value = ratio(colour, behind(node));
    found.push([value, node.tagName, walker.currentNode.data.slice(0, 40)]);
  }
  const root = getComputedStyle(document.documentElement);
  for (const name of [...Array(8).keys()].map(i => `--series-${i + 1}`).concat(
    ["param", "buffer", "grad", "activation", "temp", "optimizer"].map(c => `--memory-${c}`),
    ["--edge", "--focus", "--good", "--bad", "--moved", "--front"])) {
    const probe = document.createElement("i");
    probe.style.color = `var(${name})`;
    document.body.append(probe);
    const value = ratio(getComputedStyle(probe).color, behind(document.body));
    probe.remove();
    found.push([value * 1.5, "colour", name]);
  }
  return {checked: found.length, low: found.filter(([value]) => value < 4.5)};
}"""

# Names of what can be used, tables and plots; and the order of headings.
NAMES = """() => {
  const problems = [];
  const all = selector => [...document.querySelectorAll(selector)];
  const hold = (selector, isGood) => problems.push(
    ...all(selector).filter(node => !isGood(node)).map(node => node.outerHTML.slice(0, 120)));
  hold("input, select", node => node.labels.length === 1);
  hold("a, button, summary, th", node => node.innerText.trim() !== "");
  hold("th", node => node.scope !== "");
  hold("table", node => node.caption?.textContent);
  hold("svg:not([aria-hidden=true])", node =>
    node.getAttribute("role") === "img" && node.getAttribute("aria-label").length > 20);
  hold("[aria-describedby]", node =>
    document.getElementById(node.getAttribute("aria-describedby")));
  const ids = all("[id]").map(node => node.id);
  if (new Set(ids).size !== ids.length) problems.push(`ids twice: ${ids}`);
  const levels = all("h1, h2, h3, h4").map(node => Number(node.tagName[1]));
  if (levels[0] !== 1 || levels.filter(level => level === 1).length !== 1)
    problems.push(`not one first heading: ${levels}`);
  levels.forEach((level, i) => {
    if (i > 0 && level > levels[i - 1] + 1) problems.push(`skips a level: ${levels}`);
  });
  for (const landmark of ["header", "nav[aria-label]", "main", "footer"])
    if (all(`body ${landmark}`).length !== 1) problems.push(landmark);
  return problems;
}"""


@pytest.fixture(scope="module")
def opened(browser, tmp_path_factory):
    with PageUnderTest(browser, page_data(), tmp_path_factory.mktemp("page")) as page:
        yield page


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (1280, "light"),
        (360, "dark"),
        pytest.param(1280, "dark", marks=pytest.mark.slow),
        pytest.param(360, "light", marks=pytest.mark.slow),
    ],
)
def test_every_view_fits_is_legible_and_asks_nothing(opened, width, scheme):
    opened.page.set_viewport_size({"width": width, "height": 800})
    opened.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    for view in VIEWS:
        opened.go(view)
        assert opened.width_of_content() <= width, view
        contrast = opened.page.evaluate(CONTRAST)
        assert contrast["checked"] > 30
        assert contrast["low"] == [], view
    assert opened.complaints == []
    assert set(opened.requests) == {opened.file.as_uri()}


@pytest.mark.parametrize("view", VIEWS)
def test_controls_tables_and_plots_have_names(opened, view):
    opened.go(view)
    assert opened.page.evaluate(NAMES) == []
    assert opened.page.locator("html").get_attribute("lang") == "en"
    assert opened.page.title() == f"{opened.texts('h1')[0]} · peft_regress"


@pytest.mark.parametrize("view", ["compare", "memory", "ranks", "table", "fit", CASE])
def test_keys_reach_everything_and_the_focus_is_visible(opened, view):
    opened.load(view)
    opened.page.wait_for_selector("main h1")
    wanted = opened.page.evaluate(
        "document.querySelectorAll('a, button, input, select, summary, [tabindex=\"0\"]').length"
    )
    reached = set()
    for _ in range(min(wanted, 40)):
        opened.page.keyboard.press("Tab")
        seen = opened.page.evaluate(
            """() => {
              const node = document.activeElement, style = getComputedStyle(node);
              node.dataset.step ??= String(Math.random());
              const {left, right, width} = node.getBoundingClientRect();
              return [node.dataset.step, style.outlineStyle, parseFloat(style.outlineWidth), width];
            }"""
        )
        step, style, outline, width = seen
        assert style == "solid", seen
        assert outline >= 2
        assert width > 0
        reached.add(step)
    assert len(reached) == min(wanted, 40)


def test_keys_skip_the_header_open_a_view_and_sort(opened):
    keyboard = opened.page.keyboard
    active = "document.activeElement.id || document.activeElement.textContent"
    opened.load("")
    keyboard.press("Tab")
    assert opened.page.evaluate(active) == "Skip to content"
    keyboard.press("Enter")
    assert opened.page.evaluate(active) == "main"
    assert opened.texts("h1") == ["What fine-tuning costs, and what it gains"]
    opened.page.locator("nav a", has_text="Table").focus()
    keyboard.press("Enter")
    opened.page.wait_for_selector("[data-column=loss]")
    assert opened.page.evaluate(active) == "main"
    assert opened.page.locator("nav [aria-current=page]").inner_text() == "Table"
    opened.locator("[data-column=loss]").focus()
    keyboard.press("Space")
    assert opened.locator("th[aria-sort=ascending]").inner_text().startswith("loss")
    assert opened.page.evaluate("document.activeElement.dataset.column") == "loss"


def test_the_theme_is_that_of_the_system_until_the_button_is_used(opened):
    background = "getComputedStyle(document.body).backgroundColor"
    opened.page.emulate_media(color_scheme="dark", reduced_motion="reduce")
    opened.load("")
    dark = opened.page.evaluate(background)
    button = opened.page.locator("#theme")
    assert button.inner_text() == "Theme: system"
    button.click()
    assert button.inner_text() == "Theme: light"
    light = opened.page.evaluate(background)
    assert dark != light == "rgb(255, 255, 255)"
    opened.load("table")
    assert opened.page.evaluate(background) == light
    button.click()
    opened.page.emulate_media(color_scheme="light")
    assert opened.page.evaluate(background) == dark
    button.click()
    assert button.inner_text() == "Theme: system"


def test_nothing_moves_for_those_who_want_no_motion(opened):
    moving = "node => getComputedStyle(node).transitionDuration"
    opened.page.emulate_media(reduced_motion="no-preference")
    assert opened.page.locator("#theme").evaluate(moving) != "0s"
    opened.page.emulate_media(reduced_motion="reduce")
    assert opened.page.locator("#theme").evaluate(moving) == "0s"


def test_a_point_under_the_pointer_is_named_legibly_and_leads_to_its_case(opened):
    opened.page.emulate_media(color_scheme="dark", reduced_motion="reduce")
    opened.load("compare?architecture=resnet18")
    opened.locator("[data-mark=dot] >> nth=0").locator("path").first.hover()
    tip = opened.locator("[aria-label=tip]")
    tip.wait_for()
    assert "accuracy" in tip.text_content()
    surface = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert tip.locator("path").first.evaluate("node => getComputedStyle(node).fill") == surface
    named = tip.locator("tspan").first.text_content().strip("\u200b")
    opened.page.mouse.down()
    opened.page.mouse.up()
    opened.page.wait_for_selector("h1.id")
    assert opened.texts("h1") == [named]


def hostile_page():
    """The page of one task, where names of all sorts are hostile, and six cases have no other."""
    data = page_data(tasks=("shift",))
    for text, case in zip(HOSTILE, data["cases"], strict=False):
        case |= {"id": text, "task": text, "method": text, "architecture": text}
        case["status"] = {"at": [0], "values": [f"error ({text})"]}
        case["attribution"][0]["rows"][0][:2] = [text, text]
        case["transitions"] = [
            {"metric": 3, "from": 0, "to": 1, "old": 1, "new": 2, "rows": [], "rest_rows": 3}
            | {"rows": [[text, text, 1, 2]]}
        ]
    for text, entry in zip(HOSTILE, data["entries"], strict=False):
        entry |= {"name": text, "reason": text, "machine": text, "narrowed_by": [text]}
        entry |= {"date": text}
    for text, metric in zip(HOSTILE, data["metrics"], strict=False):
        metric["name"] = text
    data["environments"][1] |= dict.fromkeys(HOSTILE, "1.0") | {"peft": HOSTILE[0]}
    data["invariants"][: len(HOSTILE)] = HOSTILE
    data["peft_regress"] = HOSTILE[0]
    return data


def test_hostile_strings_are_shown_as_text(browser, tmp_path):
    tags = "[...new Set([...document.querySelectorAll('main *, footer *')].map(n => n.tagName))]"
    shown = "([texts, longest]) => texts.map(text => shorten(text, longest))"
    encode = "texts => texts.map(text => encodeURIComponent(text))"
    with PageUnderTest(browser, hostile_page(), tmp_path) as page:
        page.page.set_viewport_size({"width": 360, "height": 800})
        encoded = page.page.evaluate(encode, HOSTILE)
        own_cases = [f"case/{text}" for text in encoded]
        tasks = [f"{view}?task={text}" for view in ("compare", "memory") for text in encoded]
        for view in (*VIEWS, *own_cases, *tasks, *(f"history?case={text}" for text in encoded)):
            page.go(view)
            assert not {"IMG", "SCRIPT", "IFRAME"} & set(page.page.evaluate(tags))
            assert page.width_of_content() <= 360, view
        page.go("table?status=other")
        ids = page.page.evaluate(shown, [HOSTILE, 60])
        assert sorted(page.texts("tbody th")) == sorted(ids)
        for view, title in zip(own_cases, page.page.evaluate(shown, [HOSTILE, 400]), strict=True):
            page.go(view)
            assert page.texts("h1") == [title]
            assert page.locator("[aria-label=Metrics] tbody tr").count() > 10
        assert page.complaints == []
        assert set(page.requests) == {page.file.as_uri()}
