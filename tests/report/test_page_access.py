"""The page for everyone and against everyone: widths, colours, keys, names, and hostile data."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from builders import forward_ledger, make_metric, make_record
from page_browser import PageUnderTest
from page_world import content_of, make_entry, world

from peft_regress.project.budgets import Budget
from peft_regress.runs.schema import Failure

pytestmark = pytest.mark.browser

CASE = "case/shift%2Fdora-r4%2Fresnet18"
MOVED_CASE = (
    "`case/${encodeURIComponent(d3.greatest(page.DATA.cases, item => item.marks.length).id)}`"
)
AXE = {"resultTypes": ["violations"], "rules": {"target-size": {"enabled": True}}}
HOSTILE = (
    '"><img src=x onerror="alert(1)"><script>alert(2)</script>&amp;\u202e\x00',
    "x" * 10_000,
    "constructor",
    "__proto__",
    "a*?[b]%2F#?&=/",
    "",
)

# The contrast of what axe does not look at: text of plots, which CSS fills, and colours of marks.
CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgb = colour => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const luminance = colour => rgb(colour)
    .map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const surface = luminance(getComputedStyle(document.body).backgroundColor);
  const ratio = colour => {
    const [low, high] = [luminance(colour), surface].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const texts = [...document.querySelectorAll("svg text")].filter(node => node.textContent.trim());
  const found = texts.map(node =>
    [ratio(getComputedStyle(node).fill), "text", node.textContent.slice(0, 40)]);
  for (const name of [...Array(8).keys()].map(i => `--series-${i + 1}`).concat(
    ["param", "buffer", "grad", "activation", "temp", "optimizer"].map(c => `--memory-${c}`),
    ["--peak", "--edge", "--focus", "--good", "--bad", "--front"])) {
    const probe = document.createElement("i");
    probe.style.color = `var(${name})`;
    document.body.append(probe);
    found.push([ratio(getComputedStyle(probe).color) * 1.5, "colour", name]);
    probe.remove();
  }
  return {checked: found.length, low: found.filter(([value]) => value < 4.5)};
}"""

# What axe does not ask for: captions of tables, scopes of headers, plots that say what they show.
NAMES = """() => {
  const problems = [];
  const hold = (selector, isGood) => problems.push(...[...document.querySelectorAll(selector)]
    .filter(node => !isGood(node)).map(node => node.outerHTML.slice(0, 120)));
  hold("th", node => node.scope !== "");
  hold("table", node => node.caption?.textContent);
  hold("svg:not([aria-hidden=true])", node => node.getAttribute("role") === "img"
    && node.getAttribute("aria-label").length > 20);
  return problems;
}"""


def views_of(page):
    """The address of each view, of a case's page, and of a view with an error in it."""
    return [*page.page.evaluate("page.views"), page.page.evaluate(MOVED_CASE), "fit?ram=x"]


def violations(page):
    """What axe finds in the view: the elements that break each rule."""
    results = Axe().run(page.page, options=AXE)
    return {
        rule["id"]: [node["html"] for node in rule["nodes"]]
        for rule in results.response["violations"]
    }


@pytest.fixture(scope="module")
def opened(browser, tmp_path_factory):
    with PageUnderTest(browser, tmp_path_factory.mktemp("page")) as page:
        yield page.show(world(architectures=("mobilenet_v3_small", "resnet18")))


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        pytest.param(1280, "light", marks=pytest.mark.slow),
        pytest.param(390, "dark", marks=pytest.mark.slow),
        pytest.param(1280, "dark", marks=pytest.mark.nightly),
        pytest.param(390, "light", marks=pytest.mark.nightly),
    ],
)
def test_every_view_fits_is_accessible_and_asks_nothing(opened, width, scheme):
    opened.page.set_viewport_size({"width": width, "height": 800})
    opened.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    opened.load("")
    for view in views_of(opened):
        opened.go(view)
        assert opened.width_of_content() <= width, view
        assert violations(opened) == {}, view
        contrast = opened.page.evaluate(CONTRAST)
        assert contrast["checked"] >= 20
        assert contrast["low"] == [], view
        assert opened.page.evaluate(NAMES) == []
        assert opened.page.title() == f"{opened.texts('h1')[0]} · peft_regress"
    assert opened.complaints == []
    assert set(opened.requests) <= {opened.file.as_uri(), "about:blank"}


@pytest.mark.parametrize("view", ["tradeoffs", "memory", "ranks", "table", "fit", CASE])
def test_keys_reach_everything_and_the_focus_is_visible(opened, view):
    opened.load(view)
    opened.page.wait_for_selector("main h1")
    wanted = opened.page.evaluate(
        "[...document.querySelectorAll('a, button, input, select, summary, [tabindex=\"0\"]')]"
        ".filter(node => node.checkVisibility()).length"
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
    assert opened.texts("h1")[0].startswith("REGRESSED")
    opened.page.locator("nav a", has_text="Table").focus()
    keyboard.press("Enter")
    opened.page.wait_for_selector("[data-column='loss nat']")
    assert opened.page.evaluate(active) == "main"
    assert opened.page.locator("nav [aria-current=page]").inner_text() == "Table"
    opened.locator("[data-column='loss nat']").focus()
    keyboard.press("Space")
    assert opened.locator("th[aria-sort=ascending]").inner_text().startswith("loss")
    assert opened.page.evaluate("document.activeElement.dataset.column") == "loss nat"


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


def test_a_point_under_the_pointer_is_named_legibly_and_leads_to_its_case(opened):
    opened.page.emulate_media(color_scheme="dark", reduced_motion="reduce")
    opened.load("tradeoffs?architecture=resnet18")
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
    """Return a page on which all names that files may hold are hostile."""
    texts = [text for text in HOSTILE if "/" not in text]

    def entry(number, peak, role="baseline"):
        records = [
            make_record(
                f"{text}/{text}/{text}",
                {"peak_bytes": peak, "accuracy": [0.5], text or "x": make_metric("aten_ops", peak)},
                invariants={text: False},
                invariant_notes={text: text},
                ledger=forward_ledger({text: {text: 5}}),
                budget=Budget(peak=10, device=text or "x"),
            )
            for text in texts
        ]
        failed = Failure(type=HOSTILE[0], message=HOSTILE[0])
        records.append(make_record(status="error", error=failed))
        environment = {"peft": HOSTILE[0], **dict.fromkeys(HOSTILE, str(number))}
        name = f"{number}{HOSTILE[0]}"
        more = {} if role == "run" else {"reason": HOSTILE[0]}
        return make_entry(number, *records, name=name, role=role, environment=environment, **more)

    return content_of(entry(0, 100), entry(1, 200), entry(2, 400, role="run"))


@pytest.mark.slow
def test_hostile_strings_are_shown_as_text(browser, tmp_path):
    tags = "[...new Set([...document.querySelectorAll('main *, footer *')].map(n => n.tagName))]"
    handlers = """[...document.querySelectorAll('*')].flatMap(node =>
      [...node.attributes].filter(({name}) => name.startsWith('on')))"""
    with PageUnderTest(browser, tmp_path) as page:
        page.show(hostile_page())
        page.page.set_viewport_size({"width": 360, "height": 800})
        encoded = page.page.evaluate("all => all.map(encodeURIComponent)", list(HOSTILE))
        cases = page.page.evaluate("page.DATA.cases.map(item => encodeURIComponent(item.id))")
        assert len(cases) > 4
        for view in (
            *views_of(page),
            *(f"case/{name}" for name in cases),
            *(f"tradeoffs?task={text}" for text in encoded),
            *(f"history?case={name}" for name in cases),
        ):
            page.go(view)
            page.page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
            assert not {"IMG", "SCRIPT", "IFRAME"} & set(page.page.evaluate(tags))
            assert page.page.evaluate(handlers) == []
            assert page.width_of_content() <= 360, view
        assert page.complaints == []
        assert set(page.requests) <= {page.file.as_uri(), "about:blank"}
