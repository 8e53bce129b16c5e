"""The views of the page in a real browser, against what Python makes of the same records."""

import dataclasses
from itertools import pairwise

import msgspec
import pytest
from builders import FULL, LEDGER, LORA, VALUES, make_record, repeating, split_by, trained
from page_browser import PageUnderTest
from page_world import (
    DEVICES,
    DORA,
    FAILED,
    FAILING,
    compared,
    content_of,
    evidence_of,
    make_entry,
    one_case,
    world,
)

from peft_regress.errors import InputError
from peft_regress.metrics import METRICS, format_value
from peft_regress.project.budgets import Bound, Budget, parse_amount
from peft_regress.project.devices import room, runtime_of
from peft_regress.report import verdict_text
from peft_regress.report.page.content import Content
from peft_regress.report.page.data import COSTS
from peft_regress.runs.schema import Failure, Selection

pytestmark = pytest.mark.browser
WORLD = world()
NOW = WORLD.now
MIB = 2**20
FLOPS = VALUES["forward_flops"]
SUFFIXES = {"1": "", "32": "_b32"}


@pytest.fixture(scope="module")
def opened(browser, tmp_path_factory):
    with PageUnderTest(browser, tmp_path_factory.mktemp("page")) as page:
        yield page.show(WORLD)
        assert page.complaints == []
        assert set(page.requests) <= {page.file.as_uri(), "about:blank"}


@pytest.fixture(scope="module")
def other(browser, tmp_path_factory):
    """A page for other data: a context of its own for each test takes a second."""
    with PageUnderTest(browser, tmp_path_factory.mktemp("other")) as page:
        yield page


@pytest.fixture
def show(other):
    """Open the page of some entries, or of some content."""
    other.complaints.clear()

    def opening(*entries, **how):
        content = entries[0] if isinstance(entries[0], Content) else content_of(*entries, **how)
        return other.show(content)

    yield opening
    assert other.complaints == []


def record(name=LORA, *, flops=FLOPS, **more):
    return make_record(name, {**split_by(LEDGER), "forward_flops": flops}, ledger=LEDGER, **more)


def value_of(name, metric):
    found = NOW[name].metrics.get(metric)
    return None if found is None else found.value


def cost_of(name, cost, batch="1"):
    (chosen,) = [one for one in COSTS if one.name == cost]
    return chosen.of(NOW[name], SUFFIXES[batch])


def choose(page, **choices):
    for name, value in choices.items():
        control = page.locator(f"[name={name}]")
        if control.evaluate("node => node.tagName") == "SELECT":
            control.select_option(value)
        else:
            control.fill(value)
    page.wait_until_drawn()


def case_route(name):
    return f"case/{name.replace('/', '%2F')}"


OLD = make_entry(0, record(LORA), record(FULL))
EMPTY = dataclasses.replace(OLD, run=msgspec.structs.replace(OLD.run, cases={}))
WORSE = make_entry(1, record(LORA, flops=2 * FLOPS), record(FULL), role="run")
SAME = make_entry(1, record(LORA), record(FULL), role="run")


@pytest.mark.parametrize(
    ("newest", "kind", "words"),
    [
        (SAME, "good", "no regression (2 unchanged)"),
        (WORSE, "bad", "REGRESSED (1 regressed, 1 unchanged)"),
        (
            make_entry(1, record(LORA), role="run"),
            "open",
            "INCOMPLETE: not everything expected was compared (1 missing, 1 unchanged)",
        ),
        (
            make_entry(1, record(LORA, budget=Budget(peak=1)), record(FULL), role="run"),
            "bad",
            "OVER BUDGET (1 over budget, 1 unchanged)",
        ),
    ],
    ids=["unchanged", "worse", "incomplete", "over budget"],
)
def test_the_page_begins_with_the_verdict_of_the_terminal(show, newest, kind, words):
    page = show(OLD, newest)
    assert page.texts(f"h1.{kind}") == [words]
    assert page.locator("h1").count() == 1
    assert page.page.title().startswith(words[:9])
    page.locator("details").evaluate_all("all => all.forEach(one => { one.open = true; })")
    shown = " ".join(page.locator("").inner_text().split())
    for line in verdict_text(compared(OLD, newest)).splitlines():
        if line.endswith("%") or line.startswith("  why"):
            assert all(word in shown for word in line.split()), line
    assert ("peft-regress accept" in shown) == (newest is WORSE or kind == "open")


def test_a_case_has_its_verdict_and_the_table_is_sorted_by_it(show):
    page = show(OLD, WORSE)
    page.go(case_route(LORA))
    assert page.locator("p .badge.bad").inner_text() == "regressed"
    assert "forward_flops: 3.638 GFLOP -> 7.276 GFLOP" in page.locator("").inner_text()
    page.go(case_route(FULL))
    assert page.locator("p .badge.good").inner_text() == "unchanged"
    page.go("table")
    for expected in ([LORA, FULL], [FULL, LORA]):
        page.locator("[data-column=state]").click()
        assert page.texts("tbody th") == expected
    page.locator("[name=status]").select_option("regressed")
    assert page.texts("tbody th") == [LORA]


HISTORY = (
    make_entry(0, record(LORA), record(FULL)),
    make_entry(1, record(LORA, flops=3 * FLOPS), record(FULL), role="history"),
    make_entry(2, record(LORA), record(FULL)),
)


def test_any_two_entries_are_compared_and_stand_in_the_address(show):
    page = show(*HISTORY)
    page.go("changes")
    assert page.texts("h2.good") == ["no regression (2 unchanged)"]
    assert "judged by what was accepted before it" in page.texts(".kicker")[0]
    page.locator("[name=new]").select_option("0001_peft")
    # Without an OLD, the entry before.
    assert page.texts("h2.bad") == ["REGRESSED (1 regressed, 1 unchanged)"]
    page.locator("[name=old]").select_option("0002_peft")
    assert page.texts(".kicker") == ["0001_peft judged by 0002_peft"]
    assert "forward_flops +200 %" in page.texts("h3")[0]
    page.load(page.page.url.partition("#/")[2])
    assert page.texts(".kicker") == ["0001_peft judged by 0002_peft"]
    page.locator("[name=new]").select_option("0002_peft")
    assert "OLD and NEW are the same" in page.locator("").inner_text()
    page.go("changes?old=0001_peft&new=0009_peft")
    assert 'the entry "0009_peft", which this page has not.' in page.locator("").inner_text()


def test_a_pair_that_was_not_judged_has_the_command_that_judges_it(show):
    page = show(content_of(*HISTORY, pairs=False))
    page.go("changes?old=0000_peft&new=0001_peft")
    assert page.texts("p code") == ["peft-regress compare 0000_peft 0001_peft"]
    assert page.locator(".good, .bad").count() == 0


def test_a_partial_run_and_an_error_of_the_library_are_said(show):
    narrowed = Selection(complete=False, narrowed_by=["-k lora"], not_selected=[])
    page = show(OLD, make_entry(1, record(LORA), record(FULL), role="run", selection=narrowed))
    assert "partial run: -k lora" in page.texts(".kicker")[0]
    failing = {"status": "error", "error": Failure(type="RuntimeError", message="again")}
    broken = make_record(LORA, {}, **failing)
    page = show(make_entry(0, broken), make_entry(1, broken))
    assert "1 case (1 error)" in page.locator("").inner_text()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (content_of(OLD), "Nothing has moved by more than its bound."),
        (one_case(), "1 case over 5 entries"),
        (content_of(EMPTY), "The 1 entry hold no case"),
    ],
    ids=["not judged", "one case", "no case"],
)
def test_a_small_page_says_what_it_lacks_and_has_all_views(show, content, text):
    page = show(content)
    assert text in page.locator("").inner_text()
    if content.entries == (OLD,):
        assert page.texts("h1") == ["What fine-tuning costs, and what it gains"]
        assert page.locator(".glance").count() == 0
    for view in page.page.evaluate("page.views"):
        page.go(view)
        assert page.locator("h1").count() == 1


def test_the_overview_is_an_address_and_no_plot_is_empty(opened):
    opened.load("overview")
    assert opened.page.locator("nav [aria-current=page]").inner_text() == "Overview"
    text = opened.locator("").inner_text()
    assert "96 cases (1 error) over 5 entries; the newest is bench.json of 2026-01-05" in text
    assert "What changed last: bench.json (2026-01-05)" in text
    opened.wait_until_drawn()
    assert opened.locator("figure svg[role=img]").count() == 4
    assert opened.locator("section.glance tbody tr").count() == 12


def test_what_a_page_starts_with_has_scores_and_empty_panels_are_left_out(show):
    """A task without any score, first by its name, once made two empty views."""
    unscored = {name: value for name, value in VALUES.items() if name != "accuracy"}
    cases = [make_record("a-task/lora-r4/a_net", unscored), record(LORA), record(FULL)]
    page = show(make_entry(0, *cases), make_entry(1, *cases))
    assert page.locator("figure").count() == 1
    for view in ("tradeoffs", "fit", "memory"):
        page.go(view)
        assert page.locator("[name=task]").input_value() == "shift"
    page.go("tradeoffs")
    assert page.texts("figcaption") == ["resnet18"]


def test_lines_at_a_glance_mark_what_moved_and_lead_to_its_history(show):
    page = show(*HISTORY)
    moved = page.locator(".glance a.moved-line")
    assert moved.count() == 1
    assert page.locator(".glance a.spark").count() > 1
    label = moved.get_attribute("aria-label")
    assert label.startswith(f"forward_flops of {LORA}: ")
    assert "worse +200 % at 0001_peft (history)" in label
    assert moved.locator(".spark-mark").count() == 2
    moved.click()
    assert page.texts("h1") == ["History"]
    assert page.locator("[name=case]").input_value() == LORA


@pytest.mark.parametrize(
    ("cost", "batch"), [*((cost.name, "1") for cost in COSTS), ("memory", "32"), ("flops", "32")]
)
def test_the_front_has_the_pairings_that_no_other_beats(opened, cost, batch):
    opened.go(f"tradeoffs?cost={cost}&batch={batch}&task=unseen")
    for figure in opened.locator("figure").all():
        architecture = figure.locator("h2").inner_text()
        points = {
            name: (cost_of(name, cost, batch), -value_of(name, "accuracy"))
            for name, one in NOW.items()
            if (one.case.task, one.case.architecture) == ("unseen", architecture)
            and "accuracy" in one.metrics
        }
        front = {
            name
            for name, (price, loss) in points.items()
            if not any(
                (p, g) != (price, loss) and p <= price and g <= loss for p, g in points.values()
            )
        }
        links = figure.locator("ul.about a").evaluate_all("all => all.map(link => link.hash)")
        shown = [link.rpartition("/")[2].replace("%2F", "/") for link in links]
        assert set(shown) == front
        prices = [points[name][0] for name in shown]
        assert prices == sorted(prices)
        figure.locator("summary").click()
        rows = [row.split("\t") for row in figure.locator("tbody tr").all_inner_texts()]
        assert {row[0] for row in rows if row[4] == "yes"} == front


def test_what_is_on_the_front_is_hidden_by_nothing(opened):
    opened.go("tradeoffs?architecture=resnet18")
    classes = "node => [...node.querySelectorAll('g')].map(one => one.getAttribute('class'))"
    order = [name for name in opened.locator("figure svg").first.evaluate(classes) if name]
    assert order == sorted(order, key=["front-ring", "front-dot", "front-name"].index)
    spans = opened.locator("svg [data-mark=rule] line").count()
    assert spans == 12


def test_methods_are_compared_by_a_study_and_never_beside_what_was_measured(show):
    scores = {"lora-r4": (0.80, 0.90), "lora-r16": (0.86, 0.88), "full": (0.91, 0.97)}
    page = show(world(tasks=("shift",), evidence=evidence_of(scores)))
    measured = "accuracy after 22 steps"
    for view in ("overview", "tradeoffs", "ranks"):
        page.go(view)
        assert page.locator("figure svg[role=img]").count() == 4
        for figure in page.locator("figure").all():
            network = figure.locator("h2").inner_text()
            words = "accuracy of the study" if network == "resnet18" else measured
            svg = figure.locator("svg[role=img]")
            assert svg.get_attribute("aria-label").startswith(words)
            assert svg.locator("[data-mark='y-axis label']").text_content() == f"↑ {words} (%)"
        assert "After a number of steps: for regressions" in page.locator("").inner_text()
        studied = page.locator("figure:has(h2:text-is('resnet18'))")
        studied.locator("summary").click()
        studied.locator("tbody tr").first.wait_for()
        rows = [row.split("\t") for row in studied.locator("tbody tr").all_inner_texts()]
        gains = {row[1 if view == "ranks" else 2] for row in rows}
        assert (len(rows), gains) == (3, {"94.0 %", "87.0 %", "85.0 %"})
    page.go("fit")
    names = page.texts("tbody th")
    assert names[:3] == [f"shift/{name}/resnet18" for name in ("full", "lora-r16", "lora-r4")]
    gains = [row.split("\t")[2] for row in page.texts("tbody tr")]
    assert gains == ["94.0 %", "87.0 %", "85.0 %", *["-"] * (len(names) - 3)]
    work = [cost_of(name, "flops") for name in names[3:]]
    assert work == sorted(work)
    assert f"First by accuracy of the study: {FULL}" in page.texts(".lead")[0]
    choose(page, architecture="mobilenet_v2")
    assert f"First by {measured}: " in page.texts(".lead")[0]
    page.go(case_route(FULL))
    rows = dict(row.split("\t")[:2] for row in page.texts("[aria-label=Metrics] tbody tr"))
    assert rows["accuracy"] == format_value(value_of(FULL, "accuracy"), "fraction")


def test_other_methods_are_in_grey_on_demand_and_patterns_choose(opened, show):
    opened.go("tradeoffs")
    choose(opened, methods="*ora full")
    assert sorted(opened.texts(".legend li")) == ["dora", "full", "lora"]
    assert "methods=*ora+full" in opened.page.url
    cases = [record(LORA), record(FULL), record("shift/other-r4/resnet18")]
    page = show(make_entry(0, *cases), make_entry(1, *cases))
    page.go("tradeoffs")
    assert "Not shown: 1 case of other methods." in page.locator("").inner_text()
    assert page.texts(".legend li") == ["full", "lora"]
    page.go("tradeoffs?show=all")
    assert "other" in page.texts(".legend li")


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"ram": "70"},
        {"ram": "13.05", "flops": "0.2"},
        {"flops": "7.5", "ship": "0.6"},
        {"ram": "500", "batch": "32", "task": "unseen"},
        {"ram": "30", "architecture": "mobilenet_v3_small"},
    ],
    ids=str,
)
def test_what_fits_is_ranked_by_accuracy_with_the_used_share(opened, limits):
    opened.go("fit")
    choose(opened, **limits)
    batch = limits.get("batch", "1")
    ram, flops, ship = (float(limits.get(name, "inf")) for name in ("ram", "flops", "ship"))
    expected = []
    for name, one in NOW.items():
        if one.case.task != limits.get("task", "shift") or name == FAILING:
            continue
        if one.case.architecture != limits.get("architecture", one.case.architecture):
            continue
        need, work = cost_of(name, "memory", batch) / MIB, cost_of(name, "flops", batch) / 1e9
        if need <= ram and work <= flops and cost_of(name, "ship") / MIB <= ship:
            expected.append((-value_of(name, "accuracy"), work, name, 100 * need / ram))
    expected.sort()
    assert expected
    assert opened.texts("tbody th") == [name for _, _, name, _ in expected]
    if "ram" in limits:
        used = [float(cell.split()[0]) for cell in opened.texts("td:nth-child(5)")]
        assert used == pytest.approx([share for *_, share in expected], abs=0.06)
    assert opened.texts(".lead")[0].startswith(f"{len(expected)} of ")


def test_a_device_limits_memory_and_storage_and_names_its_source(opened):
    opened.go("fit")
    choose(opened, device="tiny")
    weights = ("peak_param_bytes", "peak_buffer_bytes")
    within = {
        name
        for name, one in NOW.items()
        if one.case.task == "shift"
        and cost_of(name, "memory") <= room(DEVICES[0], runtime_of(one.case.method))
    }
    expected = {n for n in within if sum(value_of(n, part) for part in weights) <= 6 * MIB}
    assert set() < expected < within
    assert set(opened.texts("tbody th")) == expected
    assert "Source: https://example.org/tiny" in opened.texts("#fit .note")[0]
    choose(opened, device="board")
    everything = len(opened.texts("tbody th"))
    assert "storage of your choice" in opened.texts("#fit .note")[0]
    choose(opened, ram="20")
    assert 0 < len(opened.texts("tbody th")) < everything
    choose(opened, device="", ram="1")
    assert opened.texts(".lead")[0].startswith("Nothing fits. The nearest of ")
    assert "of the limit" in opened.texts(".nearest li")[0]


@pytest.mark.parametrize(
    ("text", "is_amount"),
    [("64 MiB", True), ("0.5GB", True), ("128", True), ("0", False), ("1 parsec", False)],
)
def test_amounts_are_read_as_budgets_are(opened, text, is_amount):
    opened.go("fit")
    choose(opened, ram=text)
    try:
        parse_amount(text if text[-1].isalpha() else f"{text} MiB", "byte")
    except InputError:
        assert not is_amount
    invalid = opened.locator("[name=ram]").get_attribute("aria-invalid")
    assert invalid == str(not is_amount).lower()


@pytest.mark.parametrize(
    ("choices", "condition"),
    [
        ({"task": "unseen", "method": "dora"}, lambda c: "unseen/dora" in c.id),
        ({"architecture": "resnet18", "rank": "16"}, lambda c: "r16/resnet18" in c.id),
        ({"rank": "none", "task": "shift"}, lambda c: c.rank is None and c.task == "shift"),
        ({"text": "LORA shuffle"}, lambda c: "lora" in c.id and "shuffle" in c.id),
        ({"status": "other"}, lambda c: c.id == FAILING),
        ({"text": "no such text"}, lambda c: False),
    ],
    ids=range(6),
)
def test_the_table_filters(opened, choices, condition):
    opened.go("table")
    choose(opened, **choices)
    expected = sorted(name for name, one in NOW.items() if condition(one.case))
    assert sorted(opened.texts("tbody th")) == expected
    failed = ": 1 error" if FAILING in expected else ""
    assert opened.texts(".count") == [f"{len(expected)} of 96 cases{failed}"]
    assert opened.locator("text=No case fits these choices.").is_visible() == (not expected)


def test_the_table_sorts_both_ways_with_absent_values_last_and_in_its_address(opened):
    opened.go("table?task=unseen")
    known = {name: value_of(name, "accuracy") for name in NOW if name.startswith("unseen")}
    assert [name for name, value in known.items() if value is None] == [FAILING]
    for sign, order in ((1, "ascending"), (-1, "descending")):
        opened.locator("[data-column=accuracy]").click()
        names = opened.texts("tbody th")
        assert names[-1] == FAILING
        values = [sign * known[name] for name in names[:-1]]
        assert values == sorted(values)
        assert opened.locator("th[aria-sort]").get_attribute("aria-sort") == order
    opened.load(opened.page.url.partition("#/")[2])
    assert opened.texts("tbody th") == names


def test_a_history_starts_with_the_largest_change_and_shows_what_moved(opened):
    opened.go("history")
    assert opened.locator("[name=metric]").input_value() == "forward_flops"
    assert "/dora-" in opened.texts("tbody tr")[0]
    opened.go("history?case=shift/*/resnet18&metric=forward_flops")
    assert "12 cases are like this; 4 moved" in opened.locator("").inner_text()
    assert opened.locator("svg [data-mark=line] path").count() == 3 + 2
    choose(opened, only="all")
    assert opened.locator("svg [data-mark=line] path").count() > 5

    opened.go(f"history?case={DORA}&metric=forward_flops")
    rows = [row.split("\t") for row in opened.locator("tbody tr").all_inner_texts()]
    old, new = (format_value(v, "flop") for v in (7_481_163_899, 3_853_850_112))
    assert [row[2] for row in rows] == ["better", "worse"]
    assert rows[0] == [
        "0003_peft-0.15.2", DORA, "better", old, new, "-48.49 %",
        "peft 0.14.0 -> 0.15.2, torch 2.12.0 -> 2.13.0", "accepted as 0003_peft-0.15.2",
    ]  # fmt: skip
    opened.unfold()
    assert len(opened.texts("details[open] tbody tr")) == 5


def test_a_history_shows_the_bound_a_break_and_a_logarithmic_scale(opened):
    opened.go("history?case=shift/galore-r4/resnet18&metric=accuracy")
    assert opened.locator("svg [data-mark=area] path").count() == 2
    assert "The band is the metric's bound, ±5.0 points" in opened.locator("").inner_text()
    opened.go("history?case=shift/head/resnet18&metric=accuracy")
    assert opened.texts("td .badge") == ["definition changed"]
    assert opened.locator("svg [data-mark=line] path").count() == 2
    opened.go(f"history?case={DORA}&metric=forward_flops&scale=linear")
    ticks = "[data-mark='y-axis tick label'] text"

    def steps():
        found = opened.locator(ticks).evaluate_all(
            "all => all.map(text => text.getBoundingClientRect().y)"
        )
        return [round(b - a) for a, b in pairwise(found)]

    assert max(steps()) - min(steps()) <= 1
    choose(opened, scale="log")
    assert max(steps()) - min(steps()) > 5


def test_memory_and_ranks_have_their_numbers_in_a_table(opened):
    opened.go("memory?architecture=resnet18&task=shift&batch=32")
    opened.unfold()
    rows = [row.split("\t") for row in opened.texts("details[open] tbody tr")]
    assert {row[0]: row[1] for row in rows} == {
        name: format_value(value_of(name, "peak_bytes_b32"), "byte")
        for name, one in NOW.items()
        if (one.case.task, one.case.architecture) == ("shift", "resnet18")
    }
    assert opened.locator("svg [data-mark=bar] rect").count() > 12 * 5
    opened.go("ranks?architecture=resnet18&metric=accuracy")
    opened.unfold()
    rows = [row.split("\t") for row in opened.texts("details[open] tbody tr")]
    assert rows[0][0] == "bn_head"
    found = {row[0]: row[1] for row in rows}
    assert found["dora r=4"] == format_value(value_of(DORA, "accuracy"), "fraction")


def test_a_case_has_all_its_numbers_and_where_they_come_from(opened):
    opened.go("table?text=shift/dora-r4/resnet18")
    opened.locator("tbody a").click()
    opened.page.wait_for_selector("h1.id")
    assert opened.texts("h1") == [DORA]
    rows = [row.split("\t") for row in opened.texts("[aria-label=Metrics] tbody tr")]
    assert {row[0] for row in rows} == set(NOW[DORA].metrics)
    (peak,) = [row for row in rows if row[0] == "peak_bytes"]
    assert peak[1:] == [
        "111.8 MiB", "117,180,456 bytes", "lower", METRICS["peak_bytes"].about
    ]  # fmt: skip
    states = dict(row.split("\t")[:2] for row in opened.texts("[aria-label=Invariants] tbody tr"))
    assert states == {"identity_at_init": "holds", "channels_last_kept": "does not hold"}
    opened.locator("details").evaluate_all("all => all.forEach(one => { one.open = true; })")
    text = opened.locator("").inner_text()
    assert "in all\t\t3.854 GFLOP\t100.0 %" in text
    opened.go(case_route(FAILING))
    assert FAILED in opened.locator("").inner_text()


def test_a_case_that_repeats_a_run_says_which(show):
    run = make_entry(1, repeating(trained(), by="0009_peft"), role="run")
    page = show(make_entry(0, trained()), run)
    assert "1 of them repeated" in page.locator("").inner_text()
    page.go("table")
    assert "repeated" in "".join(page.texts("tbody tr"))
    page.go(case_route(LORA))
    assert "The first seed repeats 0009_peft bit for bit" in page.locator("").inner_text()


def test_a_change_that_cannot_be_compared_is_not_shown(show):
    old = make_entry(0, make_record(definition="sha256:a"))
    lossy = {**VALUES, "loss": [0.9] * 3}
    page = show(old, make_entry(1, make_record(metrics=lossy, definition="sha256:b")))
    page.go(case_route(LORA))
    rows = {row.split("\t")[0]: row.split("\t") for row in page.texts("[aria-label=Metrics] tr")}
    assert rows["loss"][3] == "definition changed"


def test_every_view_shows_the_score_and_the_batch_of_own_cases(show):
    bounds = {"score": Bound(bound=0.1, reason="noise")}
    costs = {name: one for name, one in split_by(LEDGER).items() if "_b32" not in name}
    del costs["accuracy"]
    own = [
        make_record(
            f"mine/lora-r{rank}/net",
            {**costs, "optimizer_flops": 5, "peak_bytes": 10**6 * rank, "score": [0.5 + rank] * 3},
            profiled_on="fake tensors",
            batch=16,
            bounds=bounds,
            settings={"steps": "40"},
        )
        for rank in (1, 4)
    ]
    page = show(make_entry(0, *own), make_entry(1, *own))
    assert "Score against peak memory, task mine" in page.locator("").inner_text()
    page.go("table")
    assert {"peak b16 MiB", "score"} <= {text.rstrip("↕▼▲") for text in page.texts("thead th")}
    page.go("tradeoffs")
    label = page.locator("figure svg[role=img]").first.get_attribute("aria-label")
    assert label.startswith("score after 40 steps against peak memory on net")
    page.go("fit")
    lead = page.locator("#fit .lead").inner_text()
    assert lead == "2 of 2 pairings fit. First by score after 40 steps: mine/lora-r4/net: 4.500."
    page.go("ranks")
    assert page.locator("[name=metric]").input_value() == "score"


@pytest.mark.parametrize(
    ("route", "message"),
    [
        ("history?case=shift/lora-r4/resnet18&metric=projection_flops", "No entry has projection"),
        ("history?case=no/such/case", 'No case is like "no/such/case"'),
        (
            "history?case=shift/*&metric=peak_bytes&only=all",
            "48 cases are like this; the first 8 are shown",
        ),
        ("no-such-view", 'The address asks for "no-such-view"'),
        ("case/no%2Fsuch%2Fcase", 'This page has no case "no/such/case"'),
        ("case/%E0%A4%A", 'This page has no case "%E0%A4%A"'),
        ("case/constructor", 'This page has no case "constructor"'),
    ],
)
def test_an_address_without_a_match_gets_a_message(opened, route, message):
    opened.go(route)
    assert message in opened.locator("").inner_text()


def test_unknown_choices_in_an_address_become_the_defaults(opened):
    opened.go("tradeoffs?cost=gold&batch=7&task=__proto__&architecture=%00")
    assert opened.locator("[name=cost]").input_value() == "memory"
    assert opened.locator("figure svg[role=img]").count() == 4


def test_paper_has_all_columns_and_forced_colours_mark_the_view(opened):
    opened.load("table")
    opened.page.emulate_media(media="print")
    overflow = "box => getComputedStyle(box).overflow"
    assert opened.locator(".scroll").evaluate(overflow) == "visible"
    opened.page.emulate_media(media="screen", forced_colors="active")
    borders = opened.page.locator("#nav a").evaluate_all(
        "all => all.map(link => getComputedStyle(link).borderBottomColor)"
    )
    assert len(set(borders)) == 2
    opened.page.emulate_media(forced_colors="none")
