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
    make_run,
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


# --- totality -------------------------------------------------------------------------------


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


# --- a training that is repeated is judged as one in full --------------------------------------


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


# --- worse is never milder, better never graver ---------------------------------------------


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


@fuzz(
    observations(),
    observations(),
    metric_names,
    st.data(),
    moves,
    st.sets(st.integers(0, 2), min_size=1),
    examples=400,
)
def test_a_metric_that_gets_worse_never_makes_a_verdict_milder(old, new, name, data, by, seeds):  # noqa: PLR0917 - each is drawn
    """Read from right to left: one that gets better never makes it graver."""
    assume(old.record.status == new.record.status == "ok")
    if data.draw(st.booleans(), label="of the same definition"):
        new = replaced(new, definition=old.record.definition)
    before = data.draw(metrics_of(name), label="before")
    old = with_metric(old, name, before)
    # Near to what it was, where the bounds are, or anywhere.
    after = data.draw(
        st.just(before)
        | moves.map(lambda by: worse(before, None, by, {0, 1, 2}))
        | metrics_of(name),
        label="after",
    )
    moved = worse(after, before, by, seeds)
    assume_finite(after=after, moved=moved)
    milder, graver = (
        judge_case(LORA, old, with_metric(new, name, metric), devices=[BOARD])
        for metric in (after, moved)
    )
    assert severity(milder) <= severity(graver)


@fuzz(metric_names, st.data(), moves, moves, st.sets(st.integers(0, 2), min_size=1), examples=800)
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


@fuzz(observations(), observations(), metric_names, st.data(), examples=250)
def test_a_metric_that_vanishes_never_makes_a_verdict_milder(old, new, name, data):
    before = data.draw(metrics_of(name))
    # A budget on what was not measured is not judged, and the report says so.
    old, new = (with_metric(replaced(side, budget=UNSET), name, before) for side in (old, new))
    assume(len(new.record.metrics) > 1)
    gone = judge_case(LORA, old, with_metric(new, name, None))
    assert severity(judge_case(LORA, old, new)) <= severity(gone)


@fuzz(
    observations(),
    observations(),
    st.sampled_from(["identity", "frozen"]),
    st.sampled_from([(True, False), (True, None), (None, False)]),
    examples=300,
)
def test_an_invariant_that_holds_no_longer_never_makes_a_verdict_milder(old, new, name, pair):
    before = old.record.invariants.get(name)
    # Neither of the two is the worse where that is what it always was: a fact that does not apply,
    # or a known defect, which to check no longer is a regression.
    assume(not (before is None and pair == (True, None)))
    assume(not (before is False and pair == (None, False)))
    holds, broken = (
        replaced(new, invariants={**new.record.invariants, name: value}) for value in pair
    )
    assert severity(judge_case(LORA, old, holds)) <= severity(judge_case(LORA, old, broken))


@fuzz(observations(), observations(), st.sampled_from(["unsupported", "error"]), examples=300)
def test_a_case_that_fails_never_makes_a_verdict_milder(old, new, status):
    assume(not (new.record.status == "error" and status == "unsupported"))
    # What a case without numbers costs, no budget can judge.
    new = replaced(new, budget=UNSET)
    failed = replaced(new, status=status, error=Failure(type="E", message=""), metrics={})
    assert severity(judge_case(LORA, old, new)) <= severity(judge_case(LORA, old, failed))


# --- budgets, bounds, inputs and what trains --------------------------------------------------


@fuzz(observations(), observations(), st.data(), examples=300)
def test_a_tighter_budget_or_bound_never_makes_a_verdict_milder(old, new, data):
    limits = data.draw(budgets)
    tighter = msgspec.structs.replace(
        limits,
        **{
            name: data.draw(st.just(size) | st.integers(0, size))
            for name in ("peak", "update", "ship")
            if (size := getattr(limits, name)) is not None
        },
        score=None if limits.score is None else limits.score + data.draw(st.sampled_from([0, 1])),
        **{
            name: data.draw(st.just(share) | st.floats(LEAST_SHARE, share))
            for name in SHARES
            if (share := getattr(limits, name)) is not None
        },
    )
    others = Others(*data.draw(st.tuples(records(FULL), records(FULL))))
    bounds = data.draw(own_bounds)
    tight = {
        name: Bound(bound=data.draw(st.floats(0, one.bound)), reason="r")
        for name, one in bounds.items()
    }
    milder, graver = (
        judge_case(
            LORA, old, replaced(new, budget=budget, bounds=own), devices=[BOARD], others=others
        )
        for budget, own in ((limits, bounds), (tighter, tight))
    )
    # Beyond a bound is better, too: that fails only a strict run.
    assert severity(milder) <= severity(graver)


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


@fuzz(observations(), observations(), shapes, shapes, examples=200)
def test_another_trained_set_never_makes_a_verdict_milder(old, new, before, after):
    old = replaced(old, trained=before)
    same, other = (judge_case(LORA, old, replaced(new, trained=now)) for now in (before, after))
    assert severity(same) <= severity(other)
    comparable = old.record.status == new.record.status == "ok" and (
        old.record.definition == new.record.definition
    )
    assert not (comparable and before != after) or severity(other) == 2


# --- symmetry -------------------------------------------------------------------------------

MIRRORED = {
    "regressed": {"improved", "regressed"},  # of what must stay the same both ways are worse
    "improved": {"regressed"},
    "unchanged": {"unchanged"},
}
BOUND_TO_THE_OLD_VALUE = ("bytes", "fingerprint", "accuracy")


@fuzz(metric_names, st.data(), examples=400)
def test_swapping_the_sides_mirrors_the_verdict(name, data):
    spec = METRICS[name]
    assume(spec.kind not in BOUND_TO_THE_OLD_VALUE or spec.unit == "fraction")
    one, other = (observe(make_record(LORA, {name: data.draw(metrics_of(name))})) for _ in "ab")
    there, back = (judge_case(LORA, *pair) for pair in ((one, other), (other, one)))
    assert back.verdict in MIRRORED[there.verdict]
    if spec.direction in ("lower", "higher"):
        assert (there.verdict == "regressed") == (back.verdict == "improved")


# --- runs -----------------------------------------------------------------------------------


@fuzz(runs(), runs(), st.sets(st.sampled_from(IDS)), examples=120)
def test_a_run_passes_only_if_every_expected_case_was_compared(old, new, expected):
    verdict = compare(observations_of(old, "old"), new, expected=expected)
    if verdict.exit_code == 0:
        assert new.selection.complete
        assert expected <= new.cases.keys()
        assert new.cases.keys() <= old.cases.keys()
        for name, record in new.cases.items():
            assert record.definition == old.cases[name].definition


@fuzz(runs(), runs(), st.randoms(use_true_random=False), examples=80)
def test_no_order_of_cases_metrics_or_invariants_matters(old, new, random):
    def shuffled(mapping):
        return dict(random.sample(sorted(mapping.items(), key=lambda item: item[0]), len(mapping)))

    other = make_run(
        *(
            msgspec.structs.replace(
                record, metrics=shuffled(record.metrics), invariants=shuffled(record.invariants)
            )
            for record in shuffled(new.cases).values()
        ),
        environment=shuffled(new.environment),
        machine=new.machine,
        selection=new.selection,
    )
    references = observations_of(old, "old")
    one = compare(references, new)
    assert one == compare(shuffled(references), other, expected=sorted(old.cases, reverse=True))
