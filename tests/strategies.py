"""Hypothesis strategies for valid records and runs: whatever the reader would let through."""

from typing import Any, get_args

import builders
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peft_regress.metrics import METRICS
from peft_regress.project.budgets import SHARES, Bound
from peft_regress.runs import schema

SHARE = 10
"""The fast suite tries one example of so many; the nightly run tries twice as many, drawn anew."""


def fuzz(*drawn, examples):
    """Test a property with the same few examples in every run, and nightly with many new ones."""
    few = max(1, examples // SHARE)

    def decorate(check):
        @pytest.mark.parametrize(
            "number", [few, pytest.param(2 * examples, marks=pytest.mark.nightly)]
        )
        def test(number):
            how = settings(
                deadline=None,
                derandomize=number == few,
                max_examples=number,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
            )
            how(given(*drawn)(check))()

        test.__name__ = check.__name__
        return test

    return decorate


IDS = (builders.LORA, builders.UNSEEN_LORA, builders.FULL, builders.GALORE)
SEEDS = 3

metric_names = st.sampled_from(sorted(METRICS))
"""Any metric of the table."""

_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_counts = st.integers(0, 9) | st.integers(0, 2**63) | st.sampled_from([10**6, 10**12, 10**100])
_positive = st.sampled_from([0.0, 5e-324, 1e-9, 0.01, 0.3, 1.0, 2.0, 1e100]) | st.floats(0, 1e9)
_accuracies = st.sampled_from([0.0, 0.5, 0.55, 1.0]) | st.floats(0, 1)
_scores = st.sampled_from([-3.0, 0.0, 0.5, 40.0]) | st.floats(-100, 1e6)
_losses = st.sampled_from([0.0, -0.5, 0.009, 2.0]) | st.floats(-10, 1e6)
_mixed = schema.Machine(
    digest=schema.MIXED_MACHINES, cpu="several", cores=1, threads=1, instruction_set=""
)


def _seeds(item):
    return st.lists(item, min_size=SEEDS, max_size=SEEDS)


_BY_KIND: dict[str, st.SearchStrategy[Any]] = {
    "exact": _counts,
    "bytes": _counts,
    "fingerprint": _seeds(st.lists(_losses, min_size=4, max_size=4)),
    "seconds": _seeds(_positive),
    "info": _positive,
}


def metrics_of(name):
    spec = METRICS[name]
    if spec.kind == "score":
        values = _seeds(_scores)
    elif spec.kind == "accuracy":
        values = _seeds(_accuracies if spec.unit == "fraction" else _losses)
    else:
        values = _BY_KIND[spec.kind]
    return values.map(lambda value: builders.make_metric(name, value))


own_bounds = st.dictionaries(
    metric_names,
    st.sampled_from([0.0, 1e-5, 0.05, 1.0, 9.0]).map(lambda size: Bound(bound=size, reason="r")),
    max_size=3,
)
_shares = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(SHARES, st.sampled_from([1e-6, 0.5, 1.0, 2.0]))
)
budgets = st.builds(
    lambda shares, **limits: schema.Budget(
        **limits, **shares, of=builders.FULL if shares else None
    ),
    shares=_shares,
    peak=st.none() | _counts.map(lambda size: min(size, 2**60)),
    update=st.none() | st.integers(0, 10**13),
    ship=st.none() | st.integers(0, 9),
    score=st.none() | st.sampled_from([-2.0, 0.0, 0.5, 0.9]),
    device=st.none() | st.sampled_from(["board", "nowhere"]),
)
shapes = st.dictionaries(st.sampled_from("abc"), st.sampled_from([[1], [2, 3]]))
_tensors = st.dictionaries(
    st.sampled_from("ab"),
    st.builds(
        schema.TensorSummary,
        shape=st.sampled_from([[1], [2, 3]]),
        dtype=st.just("float32"),
        mean=st.sampled_from([0.0, 1e-9, 0.5]),
        norm=st.sampled_from([1.0, 1.0 + 1e-7, 2.0]),
    ),
    max_size=2,
)
inputs = st.builds(
    schema.Inputs,
    weights=_tensors,
    train=_tensors,
    optimizer=st.lists(st.dictionaries(st.just("lr"), st.sampled_from([0.1, 0.2])), max_size=2),
)
_defects = st.builds(
    schema.Defect,
    error=st.none() | st.builds(schema.Failure, type=st.sampled_from("EF"), message=_text),
    tensors=st.lists(st.sampled_from("abc"), unique=True),
    size=st.none() | st.sampled_from([0.0, 1e-5, 1e-3, 1e100]),
)
BOARD = builders.make_device("board", 10**6, 5)


@st.composite
def _keys_of_schema_2(draw):
    """Return some of the keys that a record may have; half the records have none."""
    if draw(st.booleans()):
        return {}
    keys = {
        "bounds": own_bounds,
        "budget": budgets,
        "inputs": inputs,
        "trained": shapes,
        "numerics": st.sampled_from(get_args(schema.Numerics)),
        "defects": st.dictionaries(st.sampled_from(["identity", "frozen", "merge"]), _defects),
    }
    chosen = draw(st.sets(st.sampled_from(sorted(keys))))
    return {name: draw(keys[name]) for name in sorted(chosen)}


@st.composite
def records(draw, identifier=builders.LORA):
    more = draw(_keys_of_schema_2())
    definition = draw(st.sampled_from(["sha256:a", "sha256:a", "sha256:a", "sha256:b"]))
    invariants = draw(
        st.dictionaries(
            st.sampled_from(["identity", "frozen", "merge"]), st.sampled_from([True, False, None])
        )
    )
    more |= {"definition": definition, "invariants": invariants}
    status = draw(st.sampled_from(["ok", "ok", "ok", "unsupported", "error"]))
    if status != "ok":
        failure = schema.Failure(type=draw(_text), message=draw(_text))
        return builders.make_record(identifier, status=status, error=failure, **more)
    names = draw(st.lists(metric_names, min_size=1, max_size=5, unique=True))
    ledger = draw(st.sampled_from([schema.Ledger(), builders.LEDGER, builders.SMALL_LEDGER]))
    metrics = builders.split_by(ledger, {name: draw(metrics_of(name)) for name in names})
    return builders.make_record(identifier, metrics, ledger=ledger, **more)


environments = st.dictionaries(
    st.sampled_from(["peft", "torch"]), st.sampled_from(["1.0", "2.0"]), max_size=2
)
machines = st.sampled_from([builders.MACHINE, builders.MACHINE, builders.OTHER_MACHINE, _mixed])


@st.composite
def observations(draw, identifier=builders.LORA):
    """Return a record of one case as the gate sees it, made anywhere."""
    return builders.observe(
        draw(records(identifier)), environment=draw(environments), machine=draw(machines)
    )


@st.composite
def runs(draw, *, ids=IDS):
    """Return a run of some of these cases, complete or not, accepted or not."""
    chosen = draw(st.lists(st.sampled_from(ids), min_size=1, unique=True))
    narrowed = draw(st.lists(_text, max_size=2))
    accepted = schema.Acceptance(
        reason=draw(_text), date=builders.DATE, role="baseline", entry="Linux/0001_x"
    )
    return builders.make_run(
        *(draw(records(name)) for name in sorted(chosen)),
        environment=draw(environments),
        machine=draw(machines),
        selection=schema.Selection(complete=not narrowed, narrowed_by=narrowed),
        accepted=draw(st.sampled_from([None, accepted])),
    )
