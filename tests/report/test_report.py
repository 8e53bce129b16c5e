"""Reports: all that a reader needs, in 100 columns, whatever strings a file holds."""

import re

import msgspec
import pytest
from builders import (
    ENVIRONMENT,
    FULL,
    GALORE,
    LORA,
    compare,
    forward_ledger,
    judged,
    make_record,
    make_run,
    observe,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_regress import report
from peft_regress.gate.changes import OPERATORS
from peft_regress.gate.comparison import Comparison, Invocation
from peft_regress.gate.judge import judge, judge_case
from peft_regress.gate.verdicts import CaseVerdict
from peft_regress.metrics import METRICS
from peft_regress.project.budgets import Bound
from peft_regress.report.sentences import contents_line, reason_cells
from peft_regress.runs.schema import Failure
from peft_regress.text import clean

TYPED = Invocation(new="run.json")
BEFORE = forward_ledger({"layer1.conv": {"convolution": 3_000_000_000}, "fc": {"mm": 5}})
AFTER = forward_ledger(
    {
        "layer1.conv": {"convolution": 3_000_000_000},
        "layer1.conv.lora_A": {"convolution": 706_115_232},
        "fc": {"mm": 5},
    }
)


def regressed():
    """Return a verdict with both sides: FLOPs went up in one module under another peft."""
    old = observe(make_record(LORA, {"forward_flops": 3_000_000_005}, ledger=BEFORE))
    new = observe(
        make_record(LORA, {"forward_flops": 3_706_115_237}, ledger=AFTER),
        environment={**ENVIRONMENT, "peft": "0.19.1"},
    )
    return judge_case(LORA, old, new), old, new


def text_of(old, new):
    """Explain the case as its test would."""
    sides = ({} if side is None else {LORA: side} for side in (old, new))
    comparison = judge(*sides, expected=[LORA], invocation=TYPED)
    return report.case_text(comparison.cases[0], comparison)


def reports(old, run):
    """Return the reports on a run judged by some records, as text and as Markdown."""
    comparison = compare(old, run, invocation=TYPED)
    return report.verdict_text(comparison), report.verdict_markdown(comparison)


def test_a_failure_names_metric_module_environment_and_command(snapshot):
    _, old, new = regressed()
    assert text_of(old, new) == snapshot


def test_many_packages_that_differ_are_all_named_and_the_likely_ones_first():
    before = {f"package-{i:02d}": "1.0" for i in range(25)} | {"torch": "2.12", "peft": "0.18"}
    after = dict.fromkeys(before, "9.9")
    sides = ((1, before), (2, after))
    text = text_of(
        *(observe(make_record(LORA, {"forward_flops": n}), environment=e) for n, e in sides)
    )
    assert "  environment: peft 0.18 -> 9.9; torch 2.12 -> 9.9; package-00" in text
    assert "package-24 1.0 -> 9.9" in text
    assert max(map(len, text.splitlines())) <= 100


def test_the_contents_of_a_run_are_counted():
    assert contents_line(make_run()) == "1 case: 1 ok"
    failed = make_record(FULL, status="error")
    untimed = make_record(LORA, {}, invariants={"frozen": False})
    assert contents_line(make_run(failed, untimed)) == (
        "2 cases: 1 error, 1 ok; known defects: 1 invariant false; no times"
    )


def test_modules_beyond_the_largest_are_counted():
    ledger = forward_ledger({f"m{i}": {"conv": 10 + i} for i in range(7)})
    old = observe(make_record(LORA, {"forward_flops": 0}))
    new = observe(make_record(LORA, {"forward_flops": 91}, ledger=ledger))
    text = text_of(old, new)
    assert re.findall(r"m\d", text) == ["m6", "m5", "m4"]
    assert "and 4 more modules" in text


def test_numbers_that_look_alike_when_rounded_are_shown_in_full():
    old, new = (make_record(LORA, {"forward_flops": 706_115_232 + more}) for more in (0, 1))
    (reason,) = judged(old, new).reasons
    _, *shown, _ = reason_cells(reason)
    assert shown == ["706115232", "706115233", "+1.4e-09"]


def test_accuracy_moves_in_points():
    old, new = (observe(make_record(LORA, {"accuracy": [a] * 3})) for a in (0.919, 0.719))
    text = text_of(old, new)
    assert "accuracy: 91.9 % -> 71.9 %  -20.0 points (bound 5.0 points)" in text


def test_a_known_defect_is_not_repeated():
    old = observe(make_record(invariants={"merge": False, "frozen": True}))
    new = observe(make_record(invariants={"merge": False, "frozen": False}))
    text = text_of(old, new)
    assert "invariant frozen: true -> false" in text
    assert "merge" not in text


def test_known_defects_are_shown_with_their_cases_and_do_not_fail():
    broken = {"merge": False}
    records = [
        make_record(LORA, invariants=broken),
        make_record(FULL, invariants=broken),
        make_record(GALORE, status="error", error=Failure(type="KeyError", message="conv1")),
    ]
    text, markdown = reports(records, make_run(*records))
    assert "invariant merge is false in 2 cases\n    shift/{full,lora-r4}/resnet18\n" in text
    assert f"error (KeyError: conv1) in 1 case\n    {GALORE}\n" in text
    assert text.splitlines()[-1] == "no regression (3 known defects)"
    assert "invariant merge is false in 2 cases: `shift/{full,lora-r4}/resnet18`" in markdown
    assert f"error (KeyError: conv1) in 1 case: `{GALORE}`" in markdown


def test_a_case_without_baseline_can_be_accepted_and_a_missing_one_not():
    new, missing = text_of(None, observe(make_record())), text_of(observe(make_record()), None)
    assert "no accepted baseline has this case" in new
    assert "peft-regress accept run.json" in new
    assert "has no record" in missing
    assert "accept" not in missing


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ([LORA], [LORA], "no regression (1 unchanged)"),
        ([LORA, FULL], [LORA], "INCOMPLETE: not everything expected was compared"),
        ([], [], "INCOMPLETE: not everything expected was compared (nothing compared)"),
    ],
)
def test_the_headline_is_the_outcome(old, new, words):
    run = msgspec.structs.replace(make_run(), cases={name: make_record(name) for name in new})
    for text in reports([make_record(name) for name in old], run):
        assert words in text


@pytest.mark.parametrize("name", METRICS)
def test_the_line_of_every_metric_fits(name):
    def value(of):
        if METRICS[name].kind == "fingerprint":
            return [[of, of]] * 3
        return [of] * 3 if METRICS[name].kind in ("accuracy", "seconds", "score") else of

    bounds = {"score": Bound(bound=0.1, reason="noise")}
    old, new = (
        observe(make_record(LORA, {name: value(v)}, bounds=bounds)) for v in (0.0001, 0.98765)
    )
    case = judge_case(LORA, old, new)
    is_shown = METRICS[name].kind in {"info", "seconds"} or name.startswith(OPERATORS)
    assert case.verdict in ("regressed", "improved") or is_shown
    assert max(map(len, text_of(old, new).splitlines())) <= 100


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.text(st.characters()), st.integers(3, 200))
def test_clean_is_one_printable_line_of_a_limited_length(text, longest):
    cleaned = clean(text, longest=longest)
    assert cleaned.isprintable()
    assert len(cleaned) <= longest
    assert cleaned == cleaned.strip()
    cleaned.encode()


def test_json_has_the_shape_of_the_contract(snapshot):
    case, _, _ = regressed()
    other = CaseVerdict(id=FULL, verdict="unchanged")
    comparison = Comparison(cases=(case, other), findings=(), references={}, observed={})
    assert report.encode_verdict(comparison) == snapshot
