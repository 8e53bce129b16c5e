"""Judge the metrics of both sides: how far each changed and may, in one step and over many. Pure.

Changes within a metric's bound pass one by one, and each accepted entry would make them normal. So
a metric is also compared with its origin: the oldest entry since which the gate has not reported a
change. The bound is the same, since noise does not add up: two runs of the same code differ as much
after a hundred entries as after one. When the gate reports a change, a user accepts it with a
reason, and the accepted entry is the new origin.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final, Literal, NamedTuple

import msgspec
from msgspec import UNSET

from peft_regress import metrics
from peft_regress.gate.inputs import OF_INPUTS, telling_difference
from peft_regress.gate.policy import DEFAULT_POLICY, bounds_on, floor_of, rounding_of
from peft_regress.gate.referees import referee_of
from peft_regress.gate.repeats import are_rounding, lacks_seeds
from peft_regress.gate.verdicts import Change, Observation, Obstacle, Origin, Reason, Remark
from peft_regress.metrics import BATCH_SUFFIX, METRICS, Kind, Metric, MetricSpec, Unit, metric_order
from peft_regress.project.budgets import Bound
from peft_regress.runs.schema import Record


def direction_of(change: Change, metric: Metric) -> Literal["worse", "better"] | None:
    """Return which way a metric changed beyond its bound; None if it did not."""
    signed = change.new - change.old if change.relative is None else change.relative
    # From zero to something no ratio says how far, so it is beyond every bound; and so is NaN.
    is_beyond = change.relative is None or not abs(change.relative) <= change.bound
    if not is_beyond or not signed:
        return None
    # Written so that NaN is worse.
    is_better = signed > 0 if metric.direction == "higher" else signed < 0
    return "better" if is_better and metric.direction != "same" else "worse"


def change_of(
    name: str, old: Metric, new: Metric, reference: Record, *, widens: float = 1.0
) -> Change:
    """Return how far a metric changed and how far it may, by its kind and by a reference.

    widens: how many times as far the first losses after the first one may be apart.
    """
    if old.kind == "fingerprint":
        return _fingerprint_change(name, old, new, reference, widens)
    (bound,) = bounds_on(name, old, reference)
    difference, size = new.value - old.value, abs(old.value)
    if old.kind in {"accuracy", "score"}:
        # Paired by seed: both sides start from the same bytes and draw the same batches.
        pairs = list(zip(_flat(old), _flat(new), strict=True))
        difference = sum(b - a for a, b in pairs) / len(pairs)
        if is_absolute(old):
            return Change(old.value, new.value, difference, bound)
        if abs(difference) <= rounding_of(name, reference):
            difference = 0.0
        size = max(size, floor_of(name, reference))
    return Change(old.value, new.value, relative(difference, size), bound)


def is_absolute(metric: Metric | MetricSpec) -> bool:
    """Return whether the change of a metric is a difference, and not relative to its value."""
    return metric.kind == "score" or (metric.kind == "accuracy" and metric.unit == "fraction")


def _fingerprint_change(
    name: str, old: Metric, new: Metric, reference: Record, widens: float
) -> Change:
    """Return the change of the loss, over all seeds and steps, that comes nearest to its bound.

    Training amplifies rounding, so each step has its own bound.
    """
    first, *others = bounds_on(name, old, reference)
    bounds = [first, *(bound * widens for bound in others)]
    floor, rounding = floor_of(name, reference), rounding_of(name, reference)
    nearest, of_bound = Change(old.value, new.value, 0.0, bounds[0]), 0.0
    for before, after in zip(old.by_seed, new.by_seed, strict=True):
        for a, b, bound in zip(before, after, bounds, strict=False):
            if a == b or abs(b - a) <= rounding:
                continue
            change = relative(b - a, max(abs(a), floor))
            # A bound of one's own may be 0.
            share = abs(change) / bound if change is not None and bound else math.inf
            if not share <= of_bound:
                of_bound = math.inf if math.isnan(share) else share
                nearest = Change(a, b, change, bound)
    return nearest


def relative(difference: float, size: float) -> float | None:
    """Return a difference relative to a size; None if that is zero or close to it."""
    if not difference:
        return 0.0
    change = difference / size if size else math.inf
    return None if math.isinf(change) else change


def value_of(metric: Metric) -> float:
    """Return the number that a metric is shown by: of seconds that of the fastest seed."""
    return min(_flat(metric)) if metric.kind == "seconds" else metric.value


def are_comparable(old: Metric, new: Metric) -> bool:
    """Return whether a metric is defined equally on both sides, with as many samples."""
    return old.spec == new.spec and _sizes(old) == _sizes(new)


def _sizes(metric: Metric) -> list[int]:
    """Return how many values each seed has; -1 stands for a single number."""
    return [len(seed) if isinstance(seed, list) else -1 for seed in metric.samples or ()]


def _flat(metric: Metric) -> list[float]:
    """Return a metric's samples in one list, or its value if it has none."""
    return [sample for seed in metric.by_seed for sample in seed]


_CAN_DRIFT: frozenset[Kind] = frozenset({"bytes", "fingerprint", "accuracy", "score"})
"""The kinds that can change unreported; exact metrics can if their author states a bound."""


def next_origins(
    older: Mapping[str, Origin], before: tuple[str, Record] | None, here: tuple[str, Record]
) -> dict[str, Origin]:
    """Return the origins that are older than one more entry, `here`.

    `older` are those that are older than the entry before it; None is before the first entry. A
    metric without an older origin has the newest entry as its origin.
    """
    if before is None or before[1].definition != here[1].definition:
        return {}
    entry, old = before
    record = here[1]
    same_inputs, reference = telling_difference(old, record) is None, _reference(old, record)
    found = {}
    for name, metric in record.metrics.items():
        last = old.metrics.get(name)
        if last is None or not (_can_drift(name, last, old) and _can_drift(name, metric, record)):
            continue
        if not same_inputs and metric.kind in OF_INPUTS:
            continue  # what depends on the inputs was not compared
        origin = older.get(name) or Origin(last, entry)
        # An origin that is too far by the bounds of what comes next would be an alarm for ever.
        pairs = (last, reference), (origin.metric, reference), (origin.metric, record)
        if metric == last == origin.metric or (
            are_comparable(last, metric)
            and bounds_on(name, metric, reference)[0] < math.inf
            and not any(direction_of(change_of(name, a, metric, by), metric) for a, by in pairs)
        ):
            found[name] = origin
    return found


def _reference(old: Record, new: Record) -> Record:
    """Return a reference with the own bounds of the record that it judges."""
    return msgspec.structs.replace(old, bounds=new.bounds)


def _can_drift(name: str, metric: Metric, record: Record) -> bool:
    return metric.kind in _CAN_DRIFT or (metric.kind == "exact" and name in record.own_bounds)


class _Sides(NamedTuple):
    """Both sides of a case, and the record that has the bounds between them."""

    old: Observation
    new: Observation
    reference: Record
    same_inputs: bool
    """Whether both sides start from the same weights and data, as far as they recorded them."""
    widens: float
    """See `change_of`."""


def metric_findings(old: Observation, new: Observation) -> Iterator[Reason | Remark]:
    """Yield every reason and remark on the metrics, in the order of the table."""
    same_inputs = telling_difference(old.record, new.record) is None
    widens = DEFAULT_POLICY.referee_widens if are_rounding(old.record, new.record) else 1.0
    sides = _Sides(old, new, _reference(old.record, new.record), same_inputs, widens)
    before, after = old.record.metrics, new.record.metrics
    told = {name for name, one in before.items() if one.kind == "score" or one != after.get(name)}
    told |= (after.keys() - before.keys()) | old.drift_origins.keys() | new.record.own_bounds.keys()
    for name in sorted(told, key=metric_order):
        if lacks_seeds(old.record, name) or lacks_seeds(new.record, name):
            continue
        of_newest = tuple(_of_newest(sides, name))
        yield from of_newest
        # A change beyond its bound in one step is no drift.
        if not any(isinstance(one, Reason) for one in of_newest):
            yield from _drift(sides, name)
    yield from _attainable(sides)
    yield from _looser_bounds(sides)
    yield from _sensitivity(sides)


def _of_newest(sides: _Sides, name: str) -> Iterator[Reason | Remark]:
    old, new = (side.record.metrics.get(name) for side in sides[:2])
    either = new or old
    is_own = name in sides.new.record.own_bounds
    if either is None or (old == new and not is_own and either.kind != "score"):
        return  # most metrics; a score or a bound of the author's may be remarked on even then
    if new is None and name in sides.new.record.unseeded:
        return  # the inputs are the reason
    has_other_torch = len({side.environment.get("torch") for side in sides[:2]}) > 1
    if old and new and old.spec != new.spec:
        # Checked before the kind excludes a metric: a side that says `info` must not hide it.
        was, now = (f"{one.unit}, {one.direction}, {one.kind}" for one in (old, new))
        yield Reason(kind="metric", subject=name, old=was, new=now, obstacle="other meaning")
    elif old is None and not _could_know(sides.old, name):
        yield Remark(kind="new metric", subject=name, new=either.value, spec=either.spec)
    elif is_shown_only(either) or (name.startswith(OPERATORS) and has_other_torch):
        return
    elif old is None or new is None:
        obstacle: Obstacle | None = None
        # What an older version of this project cannot measure is not gone: nobody looked. Nor are
        # the FLOPs of operators without a formula, which a remark names.
        is_unknown = name in METRICS and name not in sides.new.known
        if new is None and (is_unknown or name in sides.new.record.uncounted):
            obstacle = "not measured"
        # New work, such as an SVD in `step()`, is worse; other metrics need a reference.
        elif old is None and either.kind != "exact":
            obstacle = "other meaning"
        yield Reason(
            kind="metric",
            subject=name,
            old=None if old is None else old.value,
            new=None if new is None else new.value,
            verdict="incomparable" if obstacle else "regressed",
            obstacle=obstacle,
            spec=either.spec,
        )
    elif sides.same_inputs or new.kind not in OF_INPUTS:
        yield from _of_both(name, old, new, sides)


def _of_both(name: str, old: Metric, new: Metric, sides: _Sides) -> Iterator[Reason | Remark]:
    reference = sides.reference
    if not are_comparable(old, new):
        was, now = (len(one.samples or ()) for one in (old, new))
        yield Reason(kind="samples", subject=name, old=was, new=now, obstacle="other meaning")
        return
    if bounds_on(name, new, reference)[0] == math.inf:
        text = "it has no bound of its own"
        yield Remark(kind="not judged", subject=name, new=new.value, spec=new.spec, text=text)
        return
    widens = sides.widens if name == "first_losses" else 1.0
    change = change_of(name, old, new, reference, widens=widens)
    own = reference.own_bounds.get(name)
    yield from _beyond(name, change, new, own)
    if own is None or direction_of(change, new):
        return
    usual = change_of(name, old, new, msgspec.structs.replace(reference, bounds=UNSET))
    if direction_of(usual, new):
        a, b, spec, text = usual.old, usual.new, new.spec, own.reason
        yield Remark(kind="within own bound", subject=name, old=a, new=b, spec=spec, text=text)


def _beyond(
    name: str, change: Change, metric: Metric, own: Bound | None, since: str | None = None
) -> Iterator[Reason]:
    direction = direction_of(change, metric)
    if direction is not None:
        # A ratio beyond the largest float has no JSON; the two values say enough.
        is_finite = change.relative is not None and math.isfinite(change.relative)
        yield Reason(
            kind="metric",
            subject=name,
            old=change.old,
            new=change.new,
            relative_change=change.relative if is_finite else None,
            bound=change.bound,
            verdict="regressed" if direction == "worse" else "improved",
            since=since,
            spec=metric.spec,
            bound_reason="" if own is None else own.reason,
        )


def _drift(sides: _Sides, name: str) -> Iterator[Reason]:
    origin, metric = sides.old.drift_origins.get(name), sides.new.record.metrics.get(name)
    if origin and metric and (sides.same_inputs or metric.kind not in OF_INPUTS):
        own = sides.reference.own_bounds
        widens = sides.widens if name == "first_losses" else 1.0
        change = change_of(name, origin.metric, metric, sides.reference, widens=widens)
        yield from _beyond(name, change, metric, own.get(name), origin.entry)


def _attainable(sides: _Sides) -> Iterator[Remark]:
    """Remark on a higher peak of what a step could take; what it takes is judged."""
    for name in ("attainable_bytes", "attainable_bytes" + BATCH_SUFFIX):
        old, new = (side.record.metrics.get(name) for side in sides[:2])
        if old and new and new.value > old.value * (1 + DEFAULT_POLICY.bytes_bound):
            was, now = old.value, new.value
            yield Remark(kind="attainable", subject=name, old=was, new=now, spec=new.spec)


def _looser_bounds(sides: _Sides) -> Iterator[Remark]:
    old, own = sides.old.record, sides.reference.own_bounds
    for name in sorted(old.own_bounds.keys() | own.keys(), key=metric_order):
        metric = sides.new.record.metrics.get(name)
        if metric is None or name not in old.metrics:
            continue
        both = (bounds_on(name, metric, one) for one in (old, sides.reference))
        pair = next(((was, now) for was, now in zip(*both, strict=True) if now > was), None)
        if pair is not None:
            was, now = (None if math.isinf(bound) else bound for bound in pair)
            text, spec = own[name].reason if name in own else "", metric.spec
            yield Remark(kind="looser bound", subject=name, old=was, new=now, spec=spec, text=text)


def _sensitivity(sides: _Sides) -> Iterator[Remark]:
    """Say how small a change of an own case's losses fails it."""
    record = sides.new.record
    names = {"first_losses": "the first loss", "filled_losses": "the losses of a filled adapter"}
    bounds = [
        f"{bounds_on(name, record.metrics[name], sides.reference)[0]:.2g} of {words}"
        for name, words in names.items()
        if name in record.metrics
    ]
    if referee_of(sides.old.record.referee):
        bounds.append(f"{DEFAULT_POLICY.referee_bound:.2g} of a number of its referee")
    if record.is_own and bounds:
        yield Remark(kind="sensitivity", subject="training", text=", ".join(bounds))


def _could_know(side: Observation, name: str) -> bool:
    """Return whether the run of one side could have measured a metric of the table."""
    if name == "optimizer_updates" or name in (*side.record.unseeded, *side.record.uncounted):
        return False  # it varies; older versions measured updates for some optimizers only
    # What a program costs is measured where a case asks for it, which shows in its record.
    of_edge = metrics.EDGE_METRICS.keys()
    was_asked = name not in of_edge or not of_edge.isdisjoint(side.record.metrics)
    return was_asked and name in side.known and name in METRICS


def is_shown_only(metric: Metric) -> bool:
    """Return whether nothing judges the value of a metric."""
    # The wall time of one run is shown: a busy machine is no slower code.
    return metric.kind in {"info", "seconds"} or metric.direction == "none"


OPERATORS: Final = ("aten_ops", "edge_ops")
"""How the names of counts of operators start; another torch may use others."""


def with_share(reason: Reason, old: Record | None) -> Reason:
    """Return a reason with the share of its change, of FLOPs and bytes of all that a step takes."""
    if reason.kind != "metric" or reason.spec is None or reason.relative_change is None:
        return reason
    suffix = BATCH_SUFFIX if reason.subject.endswith(BATCH_SUFFIX) else ""
    is_of_step = reason.subject.removesuffix(BATCH_SUFFIX) in metrics.COST_METRICS
    parts = _WHOLES.get(reason.spec.unit, ()) if is_of_step else ()
    whole = sum(old.value_of(part + suffix) or 0 for part in parts) if old else 0
    old_value, new_value = reason.old, reason.new
    if whole and isinstance(old_value, int | float) and isinstance(new_value, int | float):
        return replace(reason, share=abs(new_value - old_value) / whole)
    return replace(reason, share=abs(reason.relative_change))


_WHOLES: Final[Mapping[Unit, tuple[str, ...]]] = {
    "flop": ("forward_flops", "backward_flops"),
    "byte": ("peak_bytes",),
}
