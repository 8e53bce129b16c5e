"""The gate on any two records that a file can hold: always a verdict, and worse is never milder."""

import dataclasses
import json

import msgspec
from builders import (
    CURVE,
    FULL,
    LORA,
    MACHINE,
    VALUES,
    compare,
    make_metric,
    make_record,
    observe,
    repeating,
)
from hypothesis import assume
from hypothesis import strategies as st
from msgspec import UNSET
from strategies import (
    BOARD,
    IDS,
    budgets,
    fuzz,
    inputs,
    metric_names,
    metrics_of,
    observations,
    own_bounds,
    records,
    runs,
    shapes,
)

from peft_regress.errors import InputError
from peft_regress.gate.budget_use import Others
from peft_regress.gate.judge import judge_case
from peft_regress.gate.verdicts import FAILING, INCOMPLETE, VERDICTS, observations_of
from peft_regress.metrics import METRICS, OF_ALL_SEEDS
from peft_regress.project.budgets import LEAST_SHARE, SHARES, Bound
from peft_regress.report import case_text, encode_verdict, verdict_markdown, verdict_text
from peft_regress.runs.schema import Failure, check_finite

moves = st.sampled_from([1e-9, 1e-5, 1e-3, 0.02, 0.06, 0.2, 1.0, 5.0])
"""How far a metric changes: fractions in points, others relative to their size, at least 1."""
some_seeds = st.sets(st.integers(0, 2), min_size=1)


def severity(case):
    """Return 0 if a run with this case passes, 1 if it is incomplete, 2 if it fails."""
    return 2 if case.verdict in FAILING else int(case.verdict in INCOMPLETE)


def replaced(observed, **fields):
    record = msgspec.structs.replace(observed.record, **fields)
    return dataclasses.replace(observed, record=record)


def with_metric(observed, name, metric):
    metrics = {key: value for key, value in observed.record.metrics.items() if key != name}
    return replaced(observed, metrics=metrics if metric is None else {**metrics, name: metric})


def assume_finite(**metrics):
    try:
        check_finite(metrics, LORA)
    except InputError:
        assume(False)


@fuzz(runs(), runs(), st.sets(st.sampled_from(IDS)), examples=200)
def test_any_two_runs_have_a_verdict_in_every_format(old, new, more):
    references, expected = observations_of(old, "old"), {*old.cases, *more}
    comparison = compare(references, new, expected=expected, devices=[BOARD])
    for case in comparison.cases:
        assert case_text(case, comparison)
        if case.verdict not in {"missing", "new"}:
            found = [reason.verdict for reason in case.reasons] or ["unchanged"]
            assert case.verdict == min(found, key=VERDICTS.index)
    assert {case.id for case in comparison.cases} == {*old.cases, *new.cases, *more}
    decoded = json.loads(json.dumps(encode_verdict(comparison), allow_nan=False))
    assert decoded["exit_code"] == comparison.exit_code
    assert verdict_text(comparison)
    assert verdict_markdown(comparison)


@fuzz(observations(), examples=200)
def test_any_record_against_itself_passes(observed):
    case = judge_case(LORA, observed, observed, devices=[BOARD])
    if any(use.is_over for use in case.budgets):
        assert case.verdict == "over_budget"
    else:
        assert case.verdict in ("unchanged", "known_defect")


@fuzz(observations(), observations(), examples=400)
def test_a_repeating_run_fails_where_one_in_full_does(old, new):
    assume(old.record.status == new.record.status == "ok")
    scores = {name: make_metric(name, VALUES[name]) for name in ("loss", "accuracy")}
    scores |= {name: m for name, m in old.record.metrics.items() if name in OF_ALL_SEEDS}

    def repeatable(side):
        costs = {n: m for n, m in side.record.metrics.items() if n not in OF_ALL_SEEDS}
        fields = {"curve": CURVE, "definition": "sha256:a", "metrics": {**costs, **scores}}
        return dataclasses.replace(replaced(side, **fields), machine=MACHINE)

    old, full = repeatable(old), repeatable(new)
    one_seed = dataclasses.replace(full, record=repeating(full.record))
    assert judge_case(LORA, old, one_seed, devices=[BOARD]) == judge_case(
        LORA, old, full, devices=[BOARD]
    )


def worse(metric, old, by, seeds):
    """Return a metric changed in its bad direction: all of it, or the samples of some seeds."""

    def move(value, reference):
        if isinstance(value, list):
            # A metric without a counterpart of its shape has no side to move away to.
            fits = isinstance(reference, list) and len(reference) == len(value)
            pairs = zip(value, reference if fits else value, strict=True)
            return [move(item, other) for item, other in pairs]
        step = by if metric.unit == "fraction" else by * max(abs(value), 1.0)
        if isinstance(value, int):
            step = max(int(step), 1)
        upwards = metric.direction != "higher"
        if metric.direction == "same":
            upwards = value >= reference
        if upwards:
            return value + step
        return value - step if metric.kind == "score" else max(value - step, 0.0)

    reference = old or metric
    if not metric.samples:
        return msgspec.structs.replace(metric, value=move(metric.value, reference.value))
    before = reference.samples or metric.samples
    if len(before) != len(metric.samples):
        before = metric.samples
    moved = [
        move(sample, other) if seed in seeds else sample
        for seed, (sample, other) in enumerate(zip(metric.samples, before, strict=True))
    ]
    heads = [sample[0] if isinstance(sample, list) else sample for sample in moved]
    return msgspec.structs.replace(metric, value=sum(heads) / len(heads), samples=moved)


def with_a_worse_metric(old, new, draw):
    name, by = draw(metric_names), draw(moves)
    before = draw(metrics_of(name))
    # Near to what it was, where the bounds are, or anywhere.
    near = moves.map(lambda by: worse(before, None, by, {0, 1, 2}))
    after = draw(st.just(before) | near | metrics_of(name))
    moved = worse(after, before, by, draw(some_seeds))
    assume_finite(after=after, moved=moved)
    return with_metric(old, name, before), *(with_metric(new, name, m) for m in (after, moved))


def without_a_metric(old, new, draw):
    name = draw(metric_names)
    before = draw(metrics_of(name))
    # A budget on what was not measured is not judged, and the report says so.
    old, new = (with_metric(replaced(side, budget=UNSET), name, before) for side in (old, new))
    assume(len(new.record.metrics) > 1)
    return old, new, with_metric(new, name, None)


def with_a_broken_invariant(old, new, draw):
    name = draw(st.sampled_from(["identity", "frozen"]))
    pair = draw(st.sampled_from([(True, False), (True, None), (None, False)]))
    before = old.record.invariants.get(name)
    # Neither of the two is the worse where that is what it always was: a fact that does not apply,
    # or a known defect, which to check no longer is a regression.
    assume((before, pair) not in {(None, (True, None)), (False, (None, False))})
    kept = new.record.invariants
    return old, *(replaced(new, invariants={**kept, name: value}) for value in pair)


def failing(old, new, draw):
    new = replaced(new, budget=UNSET)  # what a case without numbers costs, no budget can judge
    status, error = draw(st.sampled_from(["unsupported", "error"])), Failure(type="E", message="")
    return old, new, replaced(new, status=status, error=error, metrics={})


def training_another_set(old, new, draw):
    before, after = draw(shapes), draw(shapes)
    return replaced(old, trained=before), *(replaced(new, trained=one) for one in (before, after))


def with_tighter_limits(old, new, draw):
    """Beyond a bound is better, too: that fails only a strict run."""
    limits, bounds = draw(budgets), draw(own_bounds)
    amounts, shares = (
        {name: size for name in names if (size := getattr(limits, name)) is not None}
        for names in (("peak", "update", "ship"), SHARES)
    )
    tighter = {name: draw(st.just(size) | st.integers(0, size)) for name, size in amounts.items()}
    for name, share in shares.items():
        tighter[name] = draw(st.just(share) | st.floats(LEAST_SHARE, share))
    if limits.score is not None:
        tighter["score"] = limits.score + draw(st.sampled_from([0, 1]))
    tight = {
        name: Bound(bound=draw(st.floats(0, one.bound)), reason="r") for name, one in bounds.items()
    }
    sides = (limits, bounds), (msgspec.structs.replace(limits, **tighter), tight)
    return old, *(replaced(new, budget=budget, bounds=own) for budget, own in sides)


HARMS = (
    *(with_a_worse_metric, without_a_metric, with_a_broken_invariant, failing),
    *(training_another_set, with_tighter_limits),
)


@fuzz(
    observations(),
    observations(),
    st.sampled_from(HARMS),
    st.tuples(records(FULL), records(FULL)),
    st.data(),
    examples=1800,
)
def test_what_gets_worse_never_makes_a_verdict_milder(old, new, harm, others, data):
    """Read from right to left: what gets better never makes it graver."""
    assume(old.record.status == new.record.status == "ok")
    if data.draw(st.booleans(), label="of the same definition"):
        new = replaced(new, definition=old.record.definition)
    old, *sides = harm(old, new, data.draw)
    milder, graver = (
        judge_case(LORA, old, one, devices=[BOARD], others=Others(*others)) for one in sides
    )
    assert severity(milder) <= severity(graver)


@fuzz(metric_names, st.data(), moves, moves, some_seeds, examples=800)
def test_a_single_metric_that_gets_worse_is_never_judged_milder(name, data, first, then, seeds):
    """With nothing beside it that fails anyway."""
    before = data.draw(metrics_of(name))
    start = worse(before, None, first, {0, 1, 2})
    # From the worse to the better value, or on from the better to a worse one.
    old, after = data.draw(st.sampled_from([(start, before), (before, start), (before, before)]))
    moved = worse(after, old, then, seeds)
    assume_finite(old=old, after=after, moved=moved)
    bounds = data.draw(own_bounds)
    reference, milder, graver = (
        observe(make_record(LORA, {name: metric}, bounds=bounds)) for metric in (old, after, moved)
    )
    verdicts = [judge_case(LORA, reference, new) for new in (milder, graver)]
    assert severity(verdicts[0]) <= severity(verdicts[1])


@fuzz(observations(), observations(), budgets, st.none() | records(FULL), examples=300)
def test_a_budget_never_makes_a_verdict_milder_and_no_reference_excuses_it(old, new, limits, full):
    others = Others(old=full, new=full)
    old = replaced(old, budget=UNSET)  # which would limit a case that nothing else limits
    free, bound = (
        judge_case(LORA, old, replaced(new, budget=budget), devices=[BOARD], others=others)
        for budget in (UNSET, limits)
    )
    assert VERDICTS.index(bound.verdict) <= VERDICTS.index(free.verdict)
    alone = judge_case(LORA, None, replaced(new, budget=limits), devices=[BOARD], others=others)
    is_over = any(use.is_over for use in bound.budgets)
    assert (alone.verdict == "over_budget") == is_over
    assert not is_over or bound.verdict in {"over_budget", "newly_failing"}


@fuzz(observations(), observations(), inputs, inputs, examples=300)
def test_other_inputs_never_let_a_run_pass_that_fails_or_was_not_compared(old, new, before, after):
    """Losses of other inputs are not compared, so the case is incomplete; costs fail as ever."""
    old = replaced(old, inputs=before)
    same, other = (judge_case(LORA, old, replaced(new, inputs=given)) for given in (before, after))
    if severity(same):
        assert severity(other)
    costs = [
        {
            reason.name: reason.verdict
            for reason in case.reasons
            if METRICS.get(reason.name, METRICS["loss"]).kind in {"exact", "bytes"}
        }
        for case in (same, other)
    ]
    assert costs[0] == costs[1]


@fuzz(runs(), runs(), st.sets(st.sampled_from(IDS)), examples=120)
def test_a_run_passes_only_if_every_expected_case_was_compared(old, new, expected):
    verdict = compare(observations_of(old, "old"), new, expected=expected)
    if verdict.exit_code == 0:
        assert new.selection.complete
        assert expected <= new.cases.keys()
        assert new.cases.keys() <= old.cases.keys()
        for name, record in new.cases.items():
            assert record.definition == old.cases[name].definition
