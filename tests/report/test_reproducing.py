"""The commands below a verdict: they select the right cases, and survive a shell."""

import shlex
from fnmatch import fnmatchcase

import pytest
from builders import FULL, LORA, make_record, observe_all
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_regress.catalogue.matrix import matrix_cases
from peft_regress.gate.comparison import Comparison, Invocation
from peft_regress.gate.findings import Cause, Finding, Member
from peft_regress.gate.verdicts import Reason
from peft_regress.report.verdict.next_steps import compare_command, covering_glob, next_steps

CASES = tuple(matrix_cases("default"))


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.sets(st.sampled_from([case.id for case in CASES]), min_size=1, max_size=40))
def test_a_glob_covers_all_the_wanted_cases(ids):
    glob = covering_glob(ids)
    assert all(fnmatchcase(name, glob) for name in ids)
    assert len(ids) > 1 or glob in ids


@pytest.mark.parametrize(
    ("fits", "glob"),
    [
        (lambda case: case.method == "dora", "*/dora-r*/*"),
        (lambda case: case.architecture == "resnet18", "*/*/resnet18"),
        (lambda case: case.method == "lora" and case.task == "shift", "shift/lora-r*/*"),
        (lambda case: case.id == LORA, LORA),
        (lambda _: True, "*/*/*"),
    ],
)
def test_a_glob_is_what_the_cases_have_in_common(fits, glob):
    assert covering_glob([case.id for case in CASES if fits(case)]) == glob


def finding(*cases, metric="forward_flops", since=None):
    reason = Reason(
        kind="metric",
        subject=metric,
        old=1,
        new=2,
        relative_change=1.0,
        bound=0.0,
        verdict="regressed",
        since=since,
    )
    members = tuple(Member(case=case, reasons=(reason,)) for case in cases)
    cause = Cause(strand="costs", what=metric, worse=True)
    return Finding(cause=cause, members=members)


def commands_for(findings, known, **invocation):
    comparison = Comparison(
        cases=(),
        findings=findings,
        references=known,
        observed=known,
        invocation=Invocation(**invocation),
    )
    steps = next_steps(comparison, findings, [], is_away=True)
    return [" ".join(words) for _, words in steps]


def test_a_run_with_blanks_and_quotes_survives_a_shell():
    typed = {"old": "the base", "new": "it's $HOME.json", "baselines": "b;c"}
    known = observe_all([make_record(LORA), make_record(FULL)])
    pytest_, compare, explain, accept = commands_for([finding(LORA)], known, **typed)
    assert shlex.split(pytest_) == ["pytest", "benchmarks", "--regress-cases", LORA]
    storage = ["--baselines", "b;c"]
    assert shlex.split(compare) == [
        *("peft-regress", "compare", "the base", "it's $HOME.json"), *storage
    ]  # fmt: skip
    assert shlex.split(explain)[3] == "it's $HOME.json"
    assert shlex.split(explain)[-2:] == storage
    words = shlex.split(accept)
    assert words == ["peft-regress", "accept", "it's $HOME.json", "--reason", "...", *words[-2:]]
    assert words[-2:] == ["--baselines", "b;c"]


def test_a_drift_is_shown_by_the_history():
    known = observe_all([make_record(LORA), make_record(FULL)])
    drifted = finding(LORA, metric="peak_bytes", since="0001")
    commands = commands_for([drifted], known)
    assert commands[3] == f"peft-regress history --case {LORA} --metric peak_bytes"


def test_matrix_and_strictness_are_repeated():
    known = observe_all([make_record(LORA), make_record(FULL)])
    typed = {"new": "r.json", "strict": True, "matrix": "extended"}
    pytest_, compare, *_ = commands_for([finding(LORA)], known, **typed)
    assert pytest_.endswith(" --regress-matrix extended --regress-strict")
    assert compare == "peft-regress compare baselines r.json --matrix extended --strict"


def test_the_storage_is_named_once_if_it_judges():
    typed = Invocation(old="b", new="r.json", baselines="b")
    assert compare_command(typed) == "peft-regress compare b r.json"


def test_cases_with_nothing_in_common_are_measured_with_all():
    known = observe_all([make_record(FULL), make_record("unseen/dora-r4/mobilenet_v2")])
    (command, *_) = commands_for([finding(*known)], known, new="r.json")
    assert command == "pytest benchmarks"
