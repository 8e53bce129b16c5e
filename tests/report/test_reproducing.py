"""The commands below a verdict: they select the right cases, and survive a shell."""

import shlex

import pytest
from _pytest.mark.expression import Expression
from builders import FULL, GALORE, LORA, make_case, make_record, observe, observe_all
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_regress.cases import Case
from peft_regress.catalogue.matrix import matrix_cases
from peft_regress.gate.comparison import Comparison, Invocation
from peft_regress.gate.findings import Cause, Finding, Member
from peft_regress.gate.verdicts import Reason
from peft_regress.report.verdict.next_steps import compare_command, marker_expression, next_steps

CASES = tuple(matrix_cases("default"))


def selected(expression, known):
    """Return the ids that pytest selects by `-m`."""
    if not expression:
        return {case.id for case in known}
    compiled = Expression.compile(expression)

    def matcher(case):
        def matches(name, /, **wanted):
            fields = {n: getattr(case, n) for n in ("task", "method", "architecture", "rank")}
            return name == "case" and all(fields[n] == value for n, value in wanted.items())

        return matches

    return {case.id for case in known if compiled.evaluate(matcher(case))}


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.sets(st.sampled_from([case.id for case in CASES]), min_size=1, max_size=40))
def test_an_expression_selects_exactly_the_wanted_cases(ids):
    wanted = [case for case in CASES if case.id in ids]
    assert selected(marker_expression(wanted, CASES), CASES) == ids


@pytest.mark.parametrize(
    ("fits", "expression"),
    [
        (lambda case: case.method == "dora", "case(method='dora')"),
        (lambda case: case.architecture == "resnet18", "case(architecture='resnet18')"),
        (lambda case: case.rank == 4 and case.task == "shift", "case(task='shift', rank=4)"),
        (lambda case: case.rank is None, "case(rank=None)"),
        (
            lambda case: case.method in ("dora", "head"),
            "case(method='dora') or case(method='head')",
        ),
        (
            lambda case: case.id == LORA,
            "case(task='shift', method='lora', rank=4, architecture='resnet18')",
        ),
        (lambda _: True, ""),
    ],
)
def test_an_expression_is_as_short_as_what_the_cases_have_in_common(fits, expression):
    assert marker_expression([case for case in CASES if fits(case)], CASES) == expression


@pytest.mark.parametrize("name", ["it's", 'a"b', "a b", "$(x)", "a\\b", "", "a`b", "n\nl"])
def test_a_name_that_cannot_be_typed_has_no_expression(name):
    odd = Case(task="shift", method=name, architecture="x")
    assert marker_expression([odd], [odd, *CASES]) == ""


def finding(*cases, metric="forward_flops", since=None):
    reason = Reason(
        metric=metric,
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
    assert shlex.split(pytest_) == ["pytest", "benchmarks", "-m", "case(method='lora')"]
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


def test_a_narrow_run_is_reproduced_without_the_rest_of_the_suite():
    known = observe_all([make_record(LORA)])
    alone, *_ = commands_for([finding(LORA)], known, new="r.json")
    assert alone == "pytest benchmarks"
    narrow, *_ = commands_for([finding(LORA)], known, new="r.json", cases=CASES)
    assert shlex.split(narrow)[-1] == (
        "case(task='shift', method='lora', rank=4, architecture='resnet18')"
    )


def test_the_storage_is_named_once_if_it_judges():
    typed = Invocation(old="b", new="r.json", baselines="b")
    assert compare_command(typed) == "peft-regress compare b r.json"


def test_a_long_expression_is_left_out():
    known = {f"t/m{n}/a{n}": observe(make_record(f"t/m{n}/a{n}")) for n in range(100)}
    odd = [name for index, name in enumerate(known) if index % 2]
    (command, *_) = commands_for([finding(*odd)], known, new="r.json")
    assert command == "pytest benchmarks"


def test_unknown_cases_are_left_out():
    known = observe_all([make_record(FULL), make_record(GALORE)])
    (command, *_) = commands_for([finding(FULL, LORA)], known)
    assert command.startswith("pytest benchmarks -m \"case(task='shift')\"")
    assert make_case(LORA).id not in command
