"""The views of the page in a real browser, against what Python makes of the same data."""

from __future__ import annotations

import csv
import random
from itertools import pairwise

import pytest
from page_browser import PageUnderTest
from page_world import (
    FAILED,
    FAILING,
    current_value,
    empty_page,
    failing_page,
    long_history,
    one_case,
    one_entry,
    page_data,
    scored_page,
)

from peft_regress.budgets import parse_amount
from peft_regress.errors import InputError
from peft_regress.metrics import METRICS, format_value

pytestmark = pytest.mark.browser
DATA = page_data()
MIB = 2**20
METRICS_OF_PAGE = [metric["name"] for metric in DATA["metrics"]]


@pytest.fixture(scope="module")
def opened(browser, tmp_path_factory):
    with PageUnderTest(browser, DATA, tmp_path_factory.mktemp("page")) as page:
        yield page
        assert page.complaints == []
        assert set(page.requests) <= {page.file.as_uri(), "about:blank"}


def update_flops(case, suffix):
    names = ("forward_flops", "backward_flops", "optimizer_flops")
    parts = [current_value(DATA, case, name + suffix) for name in names]
    return None if None in parts else sum(parts)


COSTS = {
    "memory": lambda case, suffix: current_value(DATA, case, f"peak_bytes{suffix}"),
    "flops": update_flops,
    "trained": lambda case, suffix: current_value(DATA, case, "trainable_params"),
    "ship": lambda case, suffix: current_value(DATA, case, "adapter_bytes"),
}


def case_of(case_id):
    return next(case for case in DATA["cases"] if case["id"] == case_id)


def accuracy_of(case):
    return current_value(DATA, case, "accuracy")


def ids_where(condition):
    return sorted(case["id"] for case in DATA["cases"] if condition(case))


def choose(opened, **choices):
    for name, value in choices.items():
        control = opened.locator(f"[name={name}]")
        if control.evaluate("node => node.tagName") == "SELECT":
            control.select_option(value)
        else:
            control.fill(value)
    opened.wait_until_drawn()


def test_the_overview_counts_cases_and_names_the_last_changes(opened):
    opened.go("")
    assert opened.texts(".lead") == [
        "96 cases (1 error) over 5 entries; the newest is bench.json of 2026-11-20."
    ]
    moved, broken = opened.texts(".moves li")
    galore = [mark for case in DATA["cases"] for mark in case["marks"]["peft"] if mark[1] == 3]
    worse = [mark for mark in galore if mark[2] == "worse"]
    assert moved.startswith(f"worse accuracy of {len(worse)} cases, by up to -12.0 points")
    assert broken == "definition changed 1 case: shift/head/resnet18"
    assert opened.locator("figure svg[role=img]").count() == 4
    assert opened.locator("section:has(> h2:text-is('Cases')) tbody tr").count() == 8


def test_values_look_as_in_the_terminal(opened):
    values = {
        "byte": [0, 1, 1023, 1024, 20520, 69494576, 1426291360, 5e12],
        "flop": [0, 999, 1000, 1041796, 706115232, 3764514816, 120464474112, 2e12],
        "second": [0, 2e-7, 0.00042, 0.1255, 12.5],
        "fraction": [0, 0.7766666, 1],
        "count": [0, 5130, 11181642],
        "nat": [0.6876456340154012, 7.481372992197673, 0],
        "ratio": [0.25, 1.5],
    }
    for unit, numbers in values.items():
        shown = opened.page.evaluate(
            "([unit, numbers]) => numbers.map(number => formatValue(number, unit))", [unit, numbers]
        )
        assert shown == [format_value(number, unit) for number in numbers]


@pytest.mark.parametrize(
    ("change", "unit", "shown"),
    [
        (0.9412, "flop", "+94.12 %"),
        (-0.4848, "flop", "-48.48 %"),
        (3e-7, "nat", "+<0.0001 %"),
        (12.3456789, "byte", "+1,235 %"),
        (-0.12, "fraction", "-12.0 points"),
        (0, "byte", "0 %"),
        (None, "byte", "n/a"),
    ],
)
def test_changes_have_a_sign_and_no_exponent(opened, change, unit, shown):
    call = "([change, unit]) => formatChange(change, unit)"
    assert opened.page.evaluate(call, [change, unit]) == shown


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("batch", ["1", "32"])
def test_the_front_has_the_pairings_that_no_other_beats(opened, cost, batch):
    suffix = {"1": "", "32": "_b32"}[batch]
    opened.go(f"tradeoffs?cost={cost}&batch={batch}&task=unseen")
    for figure in opened.locator("figure").all():
        architecture = figure.locator("h2").inner_text()
        points = {
            case["id"]: (COSTS[cost](case, suffix), -accuracy_of(case))
            for case in DATA["cases"]
            if (case["task"], case["architecture"]) == ("unseen", architecture)
            and accuracy_of(case) is not None
        }
        front = {
            name
            for name, (price, loss) in points.items()
            if not any(
                (p, g) != (price, loss) and p <= price and g <= loss for p, g in points.values()
            )
        }
        shown = figure.locator(".front a").all()
        assert {link.get_attribute("title") for link in shown} == front
        prices = [points[link.get_attribute("title")][0] for link in shown]
        assert prices == sorted(prices)


def test_the_front_is_right_for_ties_too(opened):
    draw = random.Random(0)
    for _ in range(200):
        points = [[draw.randrange(6), draw.randrange(6)] for _ in range(draw.randrange(1, 12))]
        found = opened.page.evaluate(
            """all => paretoFront(all.map(([cost, gain]) => ({cost, gain})))
            .map(({cost, gain}) => [cost, gain])""",
            points,
        )
        beaten = [any(p != [c, g] and p[0] <= c and p[1] >= g for p in points) for c, g in points]
        front = [point for point, lost in zip(points, beaten, strict=True) if not lost]
        assert found == sorted(front), points


def test_what_is_on_the_front_is_hidden_by_nothing(opened):
    opened.go("tradeoffs?architecture=resnet18")
    classes = "node => [...node.querySelectorAll('g')].map(one => one.getAttribute('class'))"
    order = [name for name in opened.locator("figure svg").first.evaluate(classes) if name]
    assert order == sorted(order, key=["front-ring", "front-dot", "front-name"].index)
    first = """node => {
      const ring = node.querySelector(".front-ring");
      const below = node.querySelectorAll("[data-mark=dot]:not(.front-ring, .front-dot)");
      return [...below].every(group =>
        group.compareDocumentPosition(ring) & Node.DOCUMENT_POSITION_FOLLOWING);
    }"""
    assert opened.locator("figure svg").first.evaluate(first)
    shown = opened.locator(".front a").all()
    assert opened.locator("svg .front-dot > *").count() == len(shown)


@pytest.mark.parametrize("margin", [0.001, 0.03, 0.6])
def test_seeds_are_shown_and_ties_are_within_the_margin_of_the_gate(browser, tmp_path, margin):
    data = page_data(tasks=("shift",))
    at = next(k for k, metric in enumerate(data["metrics"]) if metric["name"] == "accuracy")
    for case in data["cases"]:
        for line in case["lines"]:
            if line["metric"] == at:
                line |= {"bound": margin, "seeds": [line["now"] - 0.02, line["now"] + 0.01]}
    with PageUnderTest(browser, data, tmp_path) as page:
        page.go("tradeoffs?architecture=resnet18")
        words = f"within the gate's margin of {100 * margin:.1f} points is a tie"
        assert words in page.locator("").inner_text()
        spans = page.locator("svg [data-mark=rule] line").count()
        assert spans == sum(case["architecture"] == "resnet18" for case in data["cases"])
        page.locator("summary:has-text('All of its numbers')").click()
        page.page.wait_for_selector("details[open] table")
        rows = [row.split("\t") for row in page.texts("details[open] tbody tr")]
        front = [(row[0], accuracy_of(case_of(row[0]))) for row in rows if row[4] == "yes"]
        shown = {row[0]: row[5] for row in rows if row[4] == "yes"}
        for place, (name, gain) in enumerate(front):
            tied = [other for other, less in front[:place] if gain - less <= margin]
            expected = "-" if not tied else tied[0].split("/")[1].replace("-r", " r=")
            assert shown[name] == expected
        assert len(shown) > 2
        assert (len(set(shown.values())) > 1) == (margin > 0.001)


def test_other_methods_are_in_grey_on_demand(browser, tmp_path):
    data = page_data(tasks=("shift",))
    for case in data["cases"]:
        if case["method"] == "dora":
            case["method"] = "other"
    with PageUnderTest(browser, data, tmp_path) as page:
        page.go("tradeoffs?architecture=resnet18")
        coloured = page.locator("svg [data-mark=dot] > *").count()
        assert "other" not in page.texts(".legend li")
        assert "Not shown: 12 cases of other methods." in page.locator("").inner_text()
        page.go("tradeoffs?architecture=resnet18&show=grey")
        assert page.locator("svg [data-mark=dot] > *").count() == coloured + 3
        assert "other" not in page.texts(".legend li")
        page.go("tradeoffs?architecture=resnet18&show=all")
        assert "other" in page.texts(".legend li")
        page.go("?architecture=resnet18")
        assert page.locator(".glance .greyed").count() == 0
        page.locator("summary:has-text('of other methods')").click()
        page.page.wait_for_selector(".glance .greyed table")
        assert page.texts(".glance .greyed tbody th") == ["other r=1", "other r=4", "other r=16"]


def test_methods_can_be_chosen_by_pattern(opened):
    opened.go("tradeoffs")
    choose(opened, methods="*ora full")
    assert opened.texts(".legend li") == ["full", "lora", "dora"]
    assert "methods=*ora+full" in opened.page.url


@pytest.mark.parametrize(
    ("choices", "condition"),
    [
        ({"task": "unseen", "method": "dora"}, lambda c: "unseen/dora" in c["id"]),
        ({"architecture": "resnet18", "rank": "16"}, lambda c: "r16/resnet18" in c["id"]),
        ({"rank": "none", "task": "shift"}, lambda c: c["rank"] is None and c["task"] == "shift"),
        ({"text": "LORA shuffle"}, lambda c: "lora" in c["id"] and "shuffle" in c["id"]),
        ({"text": "linalg"}, lambda c: c["id"] == FAILING),
        ({"status": "other"}, lambda c: c["id"] == FAILING),
        ({"status": "ok", "method": "head"}, lambda c: c["method"] == "head"),
        ({"text": "no such text"}, lambda c: False),
    ],
    ids=range(8),
)
def test_the_table_filters(opened, choices, condition):
    opened.go("table")
    choose(opened, **choices)
    expected = ids_where(condition)
    assert sorted(opened.texts("tbody th")) == expected
    failed = ": 1 error" if FAILING in expected else ""
    assert opened.texts(".count") == [f"{len(expected)} of 96 cases{failed}"]
    assert opened.locator("text=No case fits these choices.").count() == (not expected)


def test_the_table_sorts_by_a_column_both_ways_with_absent_values_last(opened):
    opened.go("table")
    opened.locator("[data-column=accuracy]").click()
    assert opened.locator("th[aria-sort=ascending]").inner_text().startswith("accuracy")
    known = {case["id"]: accuracy_of(case) for case in DATA["cases"]}
    rising = sorted((v, i) for i, v in known.items() if v is not None)
    absent = [i for i, v in known.items() if v is None]
    assert absent == [FAILING]
    assert [i for i in opened.texts("tbody th") if i not in absent] == sorted(
        (i for _, i in rising), key=lambda i: known[i]
    )
    assert opened.texts("tbody th")[-1] == FAILING
    opened.locator("[data-column=accuracy]").click()
    falling = opened.texts("tbody th")
    assert [known[i] for i in falling[:-1]] == [v for v, _ in reversed(rising)]
    assert falling[-1] == FAILING
    assert opened.locator("th[aria-sort]").get_attribute("aria-sort") == "descending"


def test_the_address_holds_filters_and_sorting(opened):
    opened.go("table")
    choose(opened, method="lora", architecture="resnet18")
    opened.locator("[data-column=loss]").click()
    opened.locator("[data-column=loss]").click()
    choose(opened, task="unseen")
    rows = opened.texts("tbody th")
    assert len(rows) == 3
    assert rows != sorted(rows)
    opened.load(opened.page.url.partition("#/")[2])
    assert opened.texts("tbody th") == rows
    assert opened.locator("th[aria-sort=descending]").inner_text().startswith("loss")


def test_the_table_can_be_downloaded_with_exact_numbers(browser, tmp_path):
    data = page_data(tasks=("shift",))
    hostile = '=cmd|"x",\r\n;@SUM(1)'
    data["cases"][0]["id"] = hostile
    with PageUnderTest(browser, data, tmp_path) as page:
        page.go("table?architecture=resnet18&sort=accuracy")
        with page.page.expect_download() as download:
            page.page.click("text=Download as CSV")
        download.value.save_as(tmp_path / "cases.csv")
        page.go("table?text=%3Dcmd")
        with page.page.expect_download() as other:
            page.page.click("text=Download as CSV")
        other.value.save_as(tmp_path / "hostile.csv")
        assert page.complaints == []
        assert set(page.requests) == {page.file.as_uri()}
    with (tmp_path / "cases.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    cases = [c for c in data["cases"] if c["architecture"] == "resnet18"]
    exact = sorted((current_value(data, c, "accuracy"), c["id"]) for c in cases)
    assert [(float(row["accuracy"]), row["id"]) for row in rows] == exact
    peaks = {c["id"]: current_value(data, c, "peak_bytes") for c in cases}
    assert {row["id"]: int(row["peak_bytes"]) for row in rows} == peaks
    with (tmp_path / "hostile.csv").open(newline="") as lines:
        [row] = csv.DictReader(lines)
    assert row["id"] == "'=cmd|\"x\",\r\n;'@SUM(1)"
    assert (row["status"], row["verdict"]) == ("ok", "")


def test_a_column_without_any_number_is_left_out(browser, tmp_path):
    data = one_case()
    [case] = data["cases"]
    for line in case["lines"]:
        if data["metrics"][line["metric"]]["name"] == "step_seconds":
            line |= {"now": None, "at": [0], "values": [None]}
    with PageUnderTest(browser, data, tmp_path) as page:
        page.go("table")
        headers = page.texts("thead th")
        assert any(text.startswith("accuracy") for text in headers)
        assert not any(text.startswith("ms/step") for text in headers)
        page.go(f"case/{case['id'].replace('/', '%2F')}")
        assert "Not measured this time: step_seconds." in page.locator("").inner_text()
        assert "step_seconds" not in "".join(page.texts("[aria-label=Metrics] tbody th"))


def test_the_header_of_the_table_stays_in_sight(opened):
    opened.go("table")
    box = opened.locator(".tall")
    box.evaluate("node => node.scrollTo(300, node.scrollHeight)")
    above = "node => node.getBoundingClientRect().top"
    below = box.evaluate(above)
    assert 0 <= box.locator("thead th").first.evaluate(above) - below <= 2
    assert box.locator("tbody th").first.evaluate(above) < below


def test_ids_break_between_words_alone(opened):
    opened.page.set_viewport_size({"width": 390, "height": 800})
    broken = """() => [...document.querySelectorAll("a.case, h1.id")].flatMap(node =>
      [...node.childNodes].filter(part => part.nodeType === Node.TEXT_NODE).filter(part => {
        const range = document.createRange();
        range.selectNode(part);
        return range.getClientRects().length > 1;
      }).map(part => part.data))"""
    for view in ("", "table", "fit", f"case/{FAILING.replace('/', '%2F')}"):
        opened.go(view)
        assert opened.page.evaluate(broken) == [], view
    opened.go("table")
    lines = "all => Math.max(...all.map(link => link.getClientRects().length))"
    assert opened.locator("tbody a.case").evaluate_all(lines) > 1
    opened.page.set_viewport_size({"width": 1280, "height": 900})


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
def test_what_fits_a_device_is_ranked_by_accuracy_with_the_room_left(opened, limits):
    opened.go("fit")
    choose(opened, **limits)
    suffix = {"1": "", "32": "_b32"}[limits.get("batch", "1")]
    ram, flops, ship = (float(limits.get(name, "inf")) for name in ("ram", "flops", "ship"))
    expected = []
    for case in DATA["cases"]:
        if case["task"] != limits.get("task", "shift") or case["id"] == FAILING:
            continue
        if case["architecture"] != limits.get("architecture", case["architecture"]):
            continue
        need = COSTS["memory"](case, suffix) / MIB
        work = update_flops(case, suffix) / 1e9
        if need <= ram and work <= flops and COSTS["ship"](case, "") / MIB <= ship:
            expected.append((-accuracy_of(case), work, case["id"], ram - need))
    expected.sort()
    assert expected
    assert opened.texts("tbody th") == [case_id for _, _, case_id, _ in expected]
    if "ram" in limits:
        left = [float(cell.split()[0].replace(",", "")) for cell in opened.texts("td:nth-child(5)")]
        assert left == pytest.approx([room for *_, room in expected], abs=0.06)
    assert opened.texts(".lead")[0].startswith(f"{len(expected)} of ")


def test_a_device_limits_memory_and_storage_and_names_its_source(opened):
    opened.go("fit")
    choose(opened, device="tiny")
    weights = ("peak_param_bytes", "peak_buffer_bytes")
    expected = {
        case["id"]
        for case in DATA["cases"]
        if case["task"] == "shift"
        and COSTS["memory"](case, "") <= 60 * MIB
        and sum(current_value(DATA, case, name) for name in weights) <= 6 * MIB
    }
    within_memory = {
        case["id"]
        for case in DATA["cases"]
        if case["task"] == "shift" and COSTS["memory"](case, "") <= 60 * MIB
    }
    assert set() < expected < within_memory
    assert set(opened.texts("tbody th")) == expected
    assert "Source: https://example.org/tiny" in opened.texts("#fit .note")[0]
    choose(opened, device="board")
    everything = len(opened.texts("tbody th"))
    assert "storage of your choice" in opened.texts("#fit .note")[0]
    choose(opened, ram="20")
    assert 0 < len(opened.texts("tbody th")) < everything


def test_budgets_stand_on_the_case_and_on_the_overview(browser, tmp_path):
    data = one_case()
    data["cases"][0]["budgets"] = [
        {"budget": "peak", "value": 2**21, "limit": 2**20, "used": 2.0, "over": True,
         "unit": "byte"},
        {"budget": "score", "value": 0.9, "limit": 0.5, "used": 0.5 / 0.9, "over": False,
         "unit": "fraction"},
        {"budget": "ship", "value": None, "limit": 5, "used": None, "over": None, "unit": "byte"},
    ]  # fmt: skip
    with PageUnderTest(browser, data, tmp_path) as page:
        for view in ("", f"case/{data['cases'][0]['id']}"):
            page.go(view)
            rows = page.texts("section:has(h2:text-is('Budgets')) tbody tr")
            assert [row.split("\t")[1] for row in rows] == ["over", "within", "not judged"]
            assert "200.0 %" in rows[0]
            assert "1.000 MiB over" in rows[0]
            assert "at least 50.0 %\t40.0 points left" in rows[1]
        assert "Over budget: 1 of 3." in page.texts("section:has(h2:text-is('Budgets')) .note")


@pytest.mark.parametrize(
    ("quantity", "unit", "texts"),
    [
        ("byte", "MiB", ["64MiB", "0.5 GB", "64 MB", " 2e3 kB ", "1 TB", "3 GiB", "7 B"]),
        ("byte", "MiB", ["64 mib", "64 M", "2 GFLOP", "MiB", "1 2 MiB", "-1 MiB", "1,5 GB", "1 "]),
        ("flop", "GFLOP", ["2 GFLOP", "0.1TFLOP", "64 MiB", "2 G", "1e9 FLOP"]),
    ],
)
def test_amounts_are_read_as_those_of_budgets(opened, quantity, unit, texts):
    def amount(text):
        try:
            return parse_amount(text if text.strip() != "1" else "1 MiB", quantity)
        except InputError:
            return None

    call = "([texts, ...how]) => texts.map(text => readAmount(text, ...how))"
    assert opened.page.evaluate(call, [texts, quantity, unit]) == [amount(text) for text in texts]


def test_a_preset_is_replaced_by_what_is_typed(opened):
    opened.go("fit?device=tiny")
    assert opened.locator("[name=ram]").get_attribute("placeholder") == "60.00 MiB"
    within = opened.texts("tbody th")
    choose(opened, ram="0.1 GB", storage="1 GB")
    assert "ram=0.1+GB" in opened.page.url
    expected = ids_where(
        lambda c: c["task"] == "shift" and (COSTS["memory"](c, "") or 1e9) <= 100_000_000
    )
    assert sorted(opened.texts("tbody th")) == expected
    assert set(within) < set(expected)


def test_where_nothing_fits_the_nearest_misses_are_named(opened):
    opened.go("fit?ram=4&flops=0.0001")
    assert opened.texts(".lead") == ["Nothing fits. The nearest of 48 pairings:"]
    nearest = opened.texts(".nearest li")
    assert len(nearest) == 3
    least = min(
        (case for case in DATA["cases"] if case["task"] == "shift"),
        key=lambda case: update_flops(case, ""),
    )
    assert nearest[0].startswith(least["id"])
    work = update_flops(least, "")
    over = f"FLOPs of one update {format_value(work, 'flop')}, {format_value(work - 1e5, 'flop')}"
    assert over in nearest[0]


@pytest.mark.parametrize("text", ["0", "-3", "a lot", "1e3", "12,5", "NaN", "9" * 400, "٣"])
def test_a_limit_that_is_not_a_number_above_0_is_refused(opened, text):
    opened.go("fit")
    choose(opened, ram=text)
    [problem] = opened.texts("#problem-ram")
    assert problem.endswith(
        "is not an amount above 0: type a number with one of B, kB, MB, GB, TB, KiB, MiB, GiB, "
        "such as 128 MiB. Without a unit it counts MiB."
    )
    assert opened.locator("[name=ram]").get_attribute("aria-invalid") == "true"
    assert opened.texts("tbody tr") == []
    choose(opened, ram="100")
    assert opened.locator("[name=ram]").get_attribute("aria-invalid") == "false"
    assert opened.locator("tbody tr").count() > 0


def test_memory_is_stacked_by_category_sorted_by_its_peak(opened):
    opened.go("memory?architecture=resnet18&batch=32")
    opened.unfold()
    cases = [c for c in DATA["cases"] if c["task"] == "shift" and c["architecture"] == "resnet18"]
    expected = sorted(cases, key=lambda case: (COSTS["memory"](case, "_b32"), case["id"]))
    assert opened.texts("tbody th") == [case["id"] for case in expected]
    assert opened.locator("svg [data-mark=bar] rect").count() == (6 + 1) * len(cases)
    cells = [float(cell.replace(",", "")) for cell in opened.texts("tbody tr:last-child td")]
    parts = ("param", "buffer", "grad", "activation", "temp", "optimizer")
    assert cells[1:7] == pytest.approx(
        [current_value(DATA, expected[-1], f"peak_{part}_bytes_b32") / MIB for part in parts],
        abs=0.06,
    )
    assert sum(cells[1:7]) == pytest.approx(cells[7], abs=0.4)
    assert cells[0] == pytest.approx(COSTS["memory"](expected[-1], "_b32") / MIB, abs=0.06)


def test_rank_sweeps_have_a_line_a_method_and_levels_without_rank(opened):
    opened.go("ranks?metric=peak_bytes&architecture=resnet18")
    assert opened.locator("svg [data-mark=line] path").count() == 3
    assert opened.locator("svg [data-mark=rule] line").count() == 3
    opened.unfold()
    lora = opened.locator("tbody tr").filter(has_text="lora").first.locator("td").all_inner_texts()
    shown = [
        format_value(COSTS["memory"](case_of(f"shift/lora-r{rank}/resnet18"), ""), "byte")
        for rank in (1, 4, 16)
    ]
    assert lora == ["-", *shown]


def test_rank_sweeps_of_all_architectures_have_one_scale_and_show_seeds(opened):
    opened.go("ranks?task=unseen&methods=lora+head")
    ticks = [
        figure.locator("[data-mark='y-axis tick label'] text").all_inner_texts()
        for figure in opened.locator("figure").all()
    ]
    assert len(ticks) == 4
    assert len(set(map(tuple, ticks))) == 1
    # Of each figure: the level of head, and the seeds of lora at each of three ranks.
    assert opened.locator("svg [data-mark=rule] line").count() == 4 * (1 + 3)


def test_history_starts_with_the_largest_change_that_is_no_noise(browser, tmp_path):
    data = page_data(tasks=("shift",))
    moved, other = [case for case in data["cases"] if case["id"].endswith("-r4/resnet18")][:2]
    for case, changes in (
        (moved, {"peak_bytes": ("better", -0.8), "accuracy": ("worse", -0.3)}),
        (other, {"peak_bytes": ("worse", 1.5), "peak_bytes_b32": ("worse", 9.0),
                 "loss": ("worse", 20.0), "backward_flops": ("moved", 30.0),
                 "adapter_bytes": ("break", None)}),
    ):  # fmt: skip
        names = [METRICS_OF_PAGE[line["metric"]] for line in case["lines"]]
        case["marks"]["peft"] = [
            [names.index(name), 4, what, change] for name, (what, change) in changes.items()
        ]
    with PageUnderTest(browser, data, tmp_path) as page:
        page.go("history")
        # A fifth is farther than two and a half times.
        assert page.locator("[name=case]").input_value() == moved["id"]
        assert page.locator("[name=metric]").input_value() == "peak_bytes"
        groups = page.locator("[name=metric] optgroup").evaluate_all("all => all.map(g => g.label)")
        assert groups == ["moved (in how many cases)", "did not move"]
        first = page.locator("#case-list option").first.get_attribute("value")
        assert next(case for case in data["cases"] if case["id"] == first)["marks"]["peft"]


def test_history_shows_only_the_cases_that_moved_unless_all_are_asked_for(opened):
    opened.go("history?case=shift/*-r4/resnet18&metric=forward_flops")
    assert '3 cases are like this; 1 moved. "Show: all"' in opened.locator("").inner_text()
    assert opened.locator("svg [data-mark=line] path").count() == 1
    choose(opened, only="all")
    assert "only=all" in opened.page.url
    assert opened.locator("svg [data-mark=line] path").count() == 3


def test_history_tells_entries_of_one_release_apart(opened):
    opened.go("history?case=shift/dora-r4/resnet18&metric=forward_flops")
    assert opened.locator("[data-mark='x-axis tick label'] text").all_text_contents() == [
        "0.14.0", "0.15.2", "0.21.2#0001", "0.21.2#0004", "0.21.2bench.json",
    ]  # fmt: skip


def test_history_shows_the_bound_around_each_level(opened):
    opened.go("history?case=shift/galore-r4/resnet18&metric=accuracy")
    assert opened.locator("svg [data-mark=area] path").count() == 2
    text = opened.locator("").inner_text()
    assert "The band is the metric's bound, ±5 points, around each level." in text
    spans = opened.locator("svg [data-mark=area] path").evaluate_all(
        "all => all.map(path => path.getBBox().height)"
    )
    # The scale is linear: 12 points lie between the two levels, 10 in each band.
    dots = (
        opened.locator("svg [data-mark=dot] >> nth=0")
        .locator("path")
        .evaluate_all("all => all.map(dot => dot.getBoundingClientRect().y)")
    )
    assert spans == pytest.approx([(max(dots) - min(dots)) * 10 / 12] * 2, rel=0.01)
    opened.go("history?case=shift/dora-r4/resnet18&metric=forward_flops")
    assert opened.locator("svg [data-mark=area] path").count() == 0


def test_history_can_be_drawn_on_a_logarithmic_scale(opened):
    opened.go("history?case=shift/dora-r4/resnet18&metric=forward_flops&scale=linear")
    ticks = "[data-mark='y-axis tick label'] text"
    heights = f"""() => [...document.querySelectorAll("main {ticks}")]
      .map(text => text.getBoundingClientRect().y)"""

    def steps():
        found = opened.page.evaluate(heights)
        return [round(b - a) for a, b in pairwise(found)]

    assert max(steps()) - min(steps()) <= 1
    choose(opened, scale="log")
    opened.page.wait_for_selector(ticks)
    assert max(steps()) - min(steps()) > 5
    opened.load(opened.page.url.partition("#/")[2])
    assert opened.locator("[name=scale]").input_value() == "log"


def test_history_marks_what_moved_in_the_order_chosen(opened):
    opened.go("history?case=shift/dora-r4/resnet18&metric=forward_flops")
    cells = opened.locator("tbody tr").all_inner_texts()
    assert [cell.split("\t")[:6] for cell in cells] == [
        [
            "0003_peft-0.15.2",
            "better",
            "7.481 GFLOP",
            "3.854 GFLOP",
            "-48.49 %",
            "peft 0.14.0 → 0.15.2",
        ]
    ]
    choose(opened, by="date")
    rows = [row.split("\t") for row in opened.locator("tbody tr").all_inner_texts()]
    assert [row[:2] for row in rows] == [
        ["0003_peft-0.15.2", "better"],
        ["0002_peft-0.14.0", "worse"],
    ]
    assert rows[1][4:] == [
        "+94.12 %",
        "peft 0.21.2 → 0.14.0, torch 2.13.0 → 2.12.0",
        "accepted as 0002_peft-0.14.0",
    ]


@pytest.mark.parametrize(
    ("points", "marks", "kept"),
    [
        (120, None, "120 values beside those at transitions"),
        (None, 40, "its newest 40 transitions"),
        (16, 2, "16 values beside those at transitions and its newest 2 transitions"),
    ],
)
def test_a_page_counts_what_it_leaves_out(browser, tmp_path, points, marks, kept):
    thinned = {"entries": 500, "points": points, "marks": marks}
    with PageUnderTest(browser, {**one_case(), "thinned": thinned}, tmp_path) as page:
        page.go("history")
        text = f"Lines are thinned: over 500 entries, each keeps {kept}."
        assert page.locator(f"text={text}").count() == 1


def test_an_update_without_its_backward_pass_is_not_the_cheapest(browser, tmp_path):
    data = page_data(tasks=("shift",))
    case = data["cases"][0]
    case["lines"] = [
        line
        for line in case["lines"]
        if data["metrics"][line["metric"]]["name"] != "backward_flops"
    ]
    case["marks"] = {by: [] for by in case["marks"]}
    with PageUnderTest(browser, data, tmp_path) as page:
        page.go("fit?flops=100")
        assert "of 47 pairings" in page.texts(".lead")[0]
        assert page.texts("#fit .note")[-1].endswith("1 case without such a cost.")


def test_the_entries_of_the_present_numbers_are_named(browser, tmp_path):
    data = page_data(tasks=("shift",))
    for case in data["cases"][:5]:
        case["current"] = 3
    data["cases"][5]["current"] = 0
    with PageUnderTest(browser, data, tmp_path) as page:
        text = (
            "Present numbers are of bench.json (42 cases), 0004_peft-0.21.2 (5 cases), "
            "0001_peft-0.21.2 (1 case)."
        )
        assert text in page.texts(".note")
        page.go("table")
        assert text in page.page.locator("#about").inner_text()


def test_the_present_is_exact_where_lines_are_rounded(browser, tmp_path):
    data = one_case()
    [loss] = [
        line
        for line in data["cases"][0]["lines"]
        if DATA["metrics"][line["metric"]]["name"] == "loss"
    ]
    loss |= {"at": [0], "values": [0.6876456], "now": 0.6876456340154012}
    with PageUnderTest(browser, data, tmp_path) as page:
        page.go("case/shift%2Flora-r4%2Fresnet18")
        rows = {row.split("\t")[0]: row.split("\t") for row in page.texts("tbody tr")}
        assert rows["loss"][1:4] == ["0.6876456 nat", "0.6876456340154012 nat", "0 %"]


def test_a_thinned_line_has_no_point_where_its_value_was_left_out(browser, tmp_path):
    data = one_case()
    [case] = data["cases"]
    [line] = [line for line in case["lines"] if data["metrics"][line["metric"]]["name"] == "loss"]
    # Entry 1 was left out; what entry 3 changed from held since entry 2 or before.
    line |= {"at": [0, 3], "values": [0.5, 0.6], "now": 0.6, "thinned": True}
    case["marks"]["date"] = [[case["lines"].index(line), 3, "worse", 0.2, 2]]
    case["marks"]["peft"] = []
    with PageUnderTest(browser, data, tmp_path) as page:
        page.go("history?metric=loss&by=date&case=" + case["id"])
        page.unfold()
        names = [row.split("\t")[0] for row in page.texts("details[open] tbody tr")]
        kept = [data["entries"][k]["name"] for k in (0, 2, 3, 4)]
        assert names == kept


def test_a_change_that_cannot_be_judged_is_not_shown(browser, tmp_path):
    data = one_case()
    [case] = data["cases"]
    names = [data["metrics"][line["metric"]]["name"] for line in case["lines"]]
    for name, values in (("loss", [0.5, 0.7]), ("step_seconds", [0.5, 0.7])):
        case["lines"][names.index(name)] |= {"at": [0, 4], "values": values, "now": values[-1]}
    case["marks"] = {by: [[names.index("loss"), 4, "break", None, None]] for by in case["marks"]}
    data["entries"][4]["machine_digest"] = "sha256:another"
    with PageUnderTest(browser, data, tmp_path) as page:
        page.go("case/shift%2Flora-r4%2Fresnet18")
        rows = {row.split("\t")[0]: row.split("\t") for row in page.texts("tbody tr")}
        assert rows["loss"][3:5] == ["-", "definition changed"]
        assert rows["step_seconds"][3] == "-"
        assert rows["peak_bytes"][3] == "0 %"


def test_a_marked_time_names_the_entry_it_is_compared_with(browser, tmp_path):
    data = one_case()
    [case] = data["cases"]
    names = [data["metrics"][line["metric"]]["name"] for line in case["lines"]]
    at = names.index("step_seconds")
    case["lines"][at] |= {"at": [0, 3, 4], "values": [0.5, 9.0, 1.0], "now": 1.0}
    case["marks"] = {"date": [[at, 4, "worse", 1.0, 2]]}
    data["entries"][3]["machine_digest"] = "sha256:another"
    with PageUnderTest(browser, data, tmp_path) as page:
        page.go("history?metric=step_seconds&by=date&case=" + case["id"])
        [row] = page.texts("tbody tr")
        assert row.split("\t")[1:5] == ["worse", "500.0 ms", "1.000 s", "+100 %"]


def test_a_break_of_definition_breaks_the_line(opened):
    opened.go("history?case=shift/head/resnet18&metric=accuracy")
    assert opened.texts("td:nth-child(2)") == ["definition changed"]
    assert opened.locator("svg [data-mark=line] path").count() == 2


@pytest.mark.parametrize(
    ("route", "message"),
    [
        ("history?case=shift/lora-r4/resnet18&metric=step_seconds", "One point only"),
        ("history?case=shift/lora-r4/resnet18&metric=projection_flops", "No entry has projection"),
        ("history?case=no/such/case", 'No case is like "no/such/case"'),
        ("history?case=shift/*&metric=peak_bytes", "48 cases are like this; the first 8 are shown"),
        ("no-such-view", 'The address asks for "no-such-view"'),
        ("case/no%2Fsuch%2Fcase", 'This page has no case "no/such/case"'),
        ("case/%E0%A4%A", 'This page has no case "%E0%A4%A"'),
        ("case/", 'This page has no case ""'),
        ("case/constructor", 'This page has no case "constructor"'),
    ],
)
def test_an_address_without_a_match_gets_a_message(opened, route, message):
    opened.go(route)
    assert message in opened.locator("").inner_text()


def test_every_view_shows_the_score_and_the_batch_of_own_cases(browser, tmp_path):
    data = scored_page(batch=16)
    with PageUnderTest(browser, data, tmp_path) as page:
        page.load("")
        text = page.locator("").inner_text()
        assert "Score against peak memory at batch 16" in text
        assert "batch 32" not in text
        assert "The best cases" in page.locator("caption").all_inner_texts()
        heads = page.locator("th").all_inner_texts()
        assert {"peak b16 MiB", "score"} <= {head.strip("↕▼▲ ") for head in heads}
        page.go("tradeoffs")
        label = page.locator("figure svg[role=img]").first.get_attribute("aria-label")
        assert label.startswith("Score against peak memory at batch 16 on ")
        page.go("fit")
        assert "fit. The best is " in page.locator("#fit .lead").inner_text()
        page.go("ranks")
        assert page.locator("[name=metric]").input_value() == "score"
        page.go("memory")
        assert " at batch 16" in page.locator("figure svg[role=img]").first.get_attribute(
            "aria-label"
        )
        case = data["cases"][0]["id"]
        page.load(f"case/{case.replace('/', '%2F')}")
        assert page.locator("").get_by_text("batch 16").count() >= 1
        assert page.complaints == []


def test_unknown_choices_in_an_address_become_the_defaults(opened):
    opened.go("tradeoffs?cost=gold&batch=7&task=__proto__&architecture=%00")
    assert opened.locator("[name=cost]").input_value() == "memory"
    assert opened.locator("figure svg[role=img]").count() == 4


def test_a_case_has_all_its_numbers(opened):
    opened.go("table?text=shift/dora-r4/resnet18")
    opened.locator("tbody a").click()
    opened.page.wait_for_selector("h1.id")
    assert opened.texts("h1") == ["shift/dora-r4/resnet18"]
    metrics = opened.locator("[aria-label=Metrics] tbody tr")
    case = case_of("shift/dora-r4/resnet18")
    assert metrics.count() == len(case["lines"])
    peak = metrics.filter(has_text="peak_bytes").first.locator("td").all_inner_texts()
    assert peak == [
        "111.8 MiB", "117,180,456 bytes", "0 %", "lower", METRICS["peak_bytes"].about
    ]  # fmt: skip
    states = dict(row.split("\t") for row in opened.texts("[aria-label=Invariants] tbody tr"))
    assert states["channels_last_kept"] == "does not hold"
    assert states["identity_at_init"] == "holds"
    assert states["projections_renewed"] == "does not apply"
    assert opened.texts("tfoot tr") == ["in all\t\t3.854 GFLOP\t100.0 %"]
    assert opened.texts("details:has-text('0002_peft-0.14.0') tbody th") == [
        "conv1.lora_magnitude_vector.default"
    ]


def test_a_case_that_failed_says_how(opened):
    opened.go(f"case/{FAILING.replace('/', '%2F')}")
    assert FAILED in opened.texts(".lead")[0]
    assert "Its entry keeps no ledger" in opened.locator("").inner_text()


def test_a_case_that_repeats_a_run_says_which(browser, tmp_path):
    data = one_case()
    (case,) = data["cases"]
    case["repeats"] = "0003 <b>"
    names = [metric["name"] for metric in data["metrics"]]
    for line in case["lines"]:
        if names[line["metric"]] == "accuracy":
            line["now"] = None
    with PageUnderTest(browser, data, tmp_path) as page:
        assert "1 case, 1 of them repeated, over 5 entries" in page.texts(".lead")[0]
        page.go("table")
        row = page.texts("tbody tr")[0].split("\t")
        assert "repeated" in row
        page.go(f"case/{case['id'].replace('/', '%2F')}")
        text = page.locator("").inner_text()
        assert "The first seed repeats 0003 <b> bit for bit" in text
        assert page.complaints == []


@pytest.mark.parametrize(
    ("data", "texts"),
    [
        (empty_page(), ["No entry is stored and no run file was named"]),
        ({**page_data(), "cases": []}, ["The 5 entries hold no case"]),
        (
            failing_page(),
            ["48 cases (48 known errors of the library)", "No case of these choices has both"],
        ),
        (one_entry(), ["One entry: nothing to compare it with yet."]),
        (one_case(), ["1 case over 5 entries"]),
    ],
    ids=["empty", "no case", "all failing", "one entry", "one case"],
)
def test_pages_with_little_on_them(browser, tmp_path, data, texts):
    with PageUnderTest(browser, data, tmp_path) as page:
        for text in texts:
            assert text in page.locator("").inner_text()
        for view in (
            "changes",
            "tradeoffs",
            "history",
            "memory",
            "ranks",
            "table",
            "fit",
            "case/x",
        ):
            page.go(view)
            assert page.locator("h1").count() == 1
        if data["cases"]:
            page.go("history?metric=peak_bytes&case=*")
            assert page.texts("h1") == ["History"]
            page.go(f"case/{data['cases'][0]['id'].replace('/', '%2F')}")
            assert page.texts("h1") == [data["cases"][0]["id"]]
        assert page.complaints == []


def test_a_page_of_500_entries_takes_at_most_three_times_the_work_of_one_of_a_few(
    browser, tmp_path
):
    """A ratio in one browser: how fast a machine is, and what else it does, cancels out."""
    routes = ("", "history")

    def work(data) -> list[float]:
        with PageUnderTest(browser, data, tmp_path) as page:
            assert page.file.stat().st_size < 6e6
            seconds = []
            for route in routes:
                page.load(route)
                page.page.wait_for_selector("tbody tr")
                page.page.wait_for_selector("figure svg[role=img]")
                seconds.append(page.work_seconds())
            if data["thinned"]:
                shown = page.locator("").inner_text()
                assert "Lines are thinned: over 500 entries, each keeps" in shown
            return seconds

    few, many = work(page_data()), work(long_history())
    for one, other in zip(few, many, strict=True):
        assert 0.1 < other < 3 * one
