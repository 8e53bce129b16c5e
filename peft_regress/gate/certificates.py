"""Cases that were not trained, since they repeat another run's training: what judges them. Pure.

Such a record is certified: its `computation` equals that of a run that trained the case. Only the
record of an equal computation says what the training would have shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET

from peft_regress.gate.verdicts import Reason, Remark
from peft_regress.metrics import METRICS, NEED_TRAINING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from peft_regress.gate.verdicts import Observation
    from peft_regress.metrics import Metric, Sample
    from peft_regress.runs.schema import Computation, Record


def repeats(new: Record, old: Record) -> bool:
    """Return whether a record was not trained, and computes the very training of the older one."""
    return (
        new.is_certified
        and new.computation is not UNSET
        and new.computation.equals(old.computation)
    )


def repeatable(old: Observation | None) -> Computation | None:
    """Return the computation that a case need not train again if it has the same one.

    None if the older side did not train it itself, does not say what it computed, or if its
    training violated an invariant: a known defect is measured in each run.
    """
    if old is None or old.record.status != "ok" or old.record.is_certified:
        return None
    found, facts = old.record.computation, old.record.invariants
    if found is UNSET or any(facts.get(name) is False for name in NEED_TRAINING):
        return None
    return found


def trained_by(old: Observation) -> str:
    """Return the name of a run that trained a case, without the folders of this machine."""
    return old.run_name.rstrip("/").rpartition("/")[2] or old.run_name


def lacks_training(record: Record, name: str) -> bool:
    """Return whether a record has no metric of this name since the case was not trained."""
    is_own_metric = record.is_own and name not in METRICS
    needs_it = name in NEED_TRAINING or is_own_metric
    return record.is_certified and needs_it and name not in record.metrics


def is_of_training(record: Record, name: str) -> bool:
    """Return whether a metric would need the training that a certified case did not have.

    Its first losses are those of a few steps of one seed: a part of what a training has.
    """
    is_part = name == "first_losses" and record.is_certified
    return is_part or lacks_training(record, name)


def lacks_invariant(record: Record, name: str) -> bool:
    """Return whether a record has no invariant of this name since the case was not trained."""
    return record.is_certified and name in NEED_TRAINING and name not in record.invariants


def computation_findings(old: Record, new: Record) -> Iterator[Reason | Remark]:
    """Yield what stands for the training that a side lacks: a certificate, or that there is none.

    A certified record of another computation than the older side's says nothing of its accuracy;
    nor does an older side that was not trained say anything of a training.
    """
    if new.status != "ok" or not (new.is_certified or old.is_certified):
        return
    if repeats(new, old):
        yield Remark(kind="same computation", subject="training", text=new.repeated_run or "")
        return
    yield Reason(
        metric="computation",
        old=_shown(old, beside=new),
        new=_shown(new, beside=old),
        verdict="incomparable",
    )


def _shown(record: Record, *, beside: Record) -> str | None:
    """Return what a side says of its training, in words; None if it says nothing."""
    here, there = record.computation, beside.computation
    if record.is_certified:
        return f"not trained, same computation as {record.repeated_run}"
    if here is UNSET:
        return None if record.status == "ok" else record.status
    if there is UNSET or not beside.is_certified or here.equals(there):
        return "trained"
    if here.torch != there.torch:
        return f"trained, digests of torch {here.torch}, not {there.torch}"
    differ = [name for name in ("graph", "state") if getattr(here, name) != getattr(there, name)]
    return f"trained, another {' and '.join(differ)}"


def in_common(metric: Metric, other: Metric) -> Metric:
    """Return a metric with as many losses as both have: of the first seed, the first steps.

    A certified record holds the losses of a few steps of seed 0 alone. Without a common step the
    metric is as it was, and so cannot be compared.
    """
    mine, others = _of_first_seed(metric), _of_first_seed(other)
    steps = min(len(mine), len(others))
    if not steps:
        return metric
    samples: list[Sample] = [mine[:steps]]
    return msgspec.structs.replace(metric, samples=samples, value=mine[0])


def _of_first_seed(metric: Metric) -> list[float]:
    first = metric.samples[0] if metric.samples else []
    return first if isinstance(first, list) else [first]


def with_training_of(record: Record, trained: Record) -> Record:
    """Return a certified record with the training of a record of the same computation.

    Its own losses stay: those of the first steps of seed 0, which were measured.
    """
    metrics, computation = dict(trained.metrics), trained.computation
    kept = {name: one for name, one in metrics.items() if lacks_training(record, name)}
    facts = {
        name: fact for name, fact in trained.invariants.items() if lacks_invariant(record, name)
    }
    mine, whole = record.metrics.get("first_losses"), metrics.get("first_losses")
    if mine is not None and whole is not None:
        kept["first_losses"] = _with_first_seed(whole, _of_first_seed(mine))
    return msgspec.structs.replace(
        record,
        metrics={**record.metrics, **kept},
        invariants={**record.invariants, **facts},
        computation=computation,
    )


def _with_first_seed(metric: Metric, losses: list[float]) -> Metric:
    """Return first losses whose first seed begins with other ones."""
    first, *others = metric.samples or [[]]
    rest = first[len(losses) :] if isinstance(first, list) else []
    samples: list[Sample] = [[*losses, *rest], *others]
    heads = [one[0] if isinstance(one, list) else one for one in samples if one != []]
    value = sum(heads) / len(heads) if heads else metric.value
    return msgspec.structs.replace(metric, samples=samples, value=value)
