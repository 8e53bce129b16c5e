"""Which bounds judge a record: the policy's, by what its adapter is, or its author's own. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, cast

from msgspec import UNSET

from peft_regress.cases import BFLOAT16_SUFFIX
from peft_regress.gate.policy import DEFAULT_POLICY, Policy
from peft_regress.metrics import Metric, Numerics
from peft_regress.runs.schema import OwnBound, Record

_NAMED_LIKE_METHODS: Final = frozenset({"head", "bn_head", "hra"})


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What decides how far each metric of a record may change."""

    policy: Policy = DEFAULT_POLICY
    numerics: Numerics = "usual"
    own: Mapping[str, OwnBound] = field(default_factory=dict)
    """The author's own bounds, by metric."""
    loss_floor: float = 0.0
    """Smaller losses are compared as if they were this large."""
    nearby_changes: tuple[float, ...] = ()
    """Of an own case by step: how far nearby weights move the first losses."""
    test_items: float = math.inf
    """Infinite where nothing says how many there are."""

    @classmethod
    def of(cls, record: Record, policy: Policy = DEFAULT_POLICY) -> Bounds:
        """Return the bounds on the metrics of a record."""
        losses = (abs(loss) for seed in _first_losses(record) for loss in seed)
        loss_floor = policy.loss_floor * max(losses, default=0.0)
        return cls(
            policy=policy,
            numerics=numerics_of(record),
            own={} if record.bounds is UNSET else record.bounds,
            loss_floor=loss_floor,
            nearby_changes=_nearby_changes(record, loss_floor),
            test_items=math.inf if record.test_items is UNSET else record.test_items,
        )

    @classmethod
    def between(cls, old: Record, new: Record, policy: Policy = DEFAULT_POLICY) -> Bounds:
        """Return the bounds of a reference on a newer record, which may state others of its own."""
        return replace(cls.of(old, policy), own={} if new.bounds is UNSET else new.bounds)

    @property
    def usual(self) -> Bounds:
        """The same without the author's own."""
        return replace(self, own={}) if self.own else self

    def own_or(self, name: str, usual: float) -> float:
        """Return the author's bound on a metric, else the usual one."""
        own = self.own.get(name)
        return usual if own is None else own.bound

    def reason_for(self, name: str) -> str:
        """Return the evidence for the author's bound on a metric; empty if it has the usual one."""
        own = self.own.get(name)
        return "" if own is None else own.reason

    def on_fingerprint(self, name: str, step: int) -> float:
        """Return the bound on one loss of a fingerprint; `step` counts from 0."""
        policy = self.policy
        usual = policy.fingerprint(name, self.numerics, step=step)
        if name == "first_losses" and step < len(self.nearby_changes):
            usual = min(usual, max(self.nearby_changes[step], policy.nearby_least))
        return self.own_or(name, usual)

    def on_accuracy(self, seeds: int) -> float:
        """Return the bound on the mean accuracy of some seeds."""
        of_items = self.policy.accuracy_items / (self.test_items * seeds)
        return max(self.policy.accuracy_margin, of_items)

    def floor_of(self, name: str) -> float:
        """Return the size as which smaller losses, or updates, are compared."""
        return self.policy.update_floor if name == "optimizer_updates" else self.loss_floor

    def rounding_of(self, name: str) -> float:
        """Return the size of a difference of losses, or updates, that is none."""
        is_exact = name == "optimizer_updates" or name in self.own
        return 0.0 if is_exact else self.policy.loss_rounding

    def judges(self, name: str, metric: Metric) -> bool:
        """Return whether any change of the metric could be reported."""
        return self.on(name, metric)[0] < math.inf

    def on(self, name: str, metric: Metric) -> tuple[float, ...]:
        """Return the bound on a metric, of a fingerprint that of each step."""
        policy = self.policy
        if metric.kind == "fingerprint":
            steps = [len(one) if isinstance(one, list) else 1 for one in metric.samples or ()]
            return tuple(
                self.on_fingerprint(name, step) for step in range(max(steps, default=1) or 1)
            )
        usual = {
            "bytes": policy.bytes_bound,
            "accuracy": (
                self.on_accuracy(len(metric.samples or (metric.value,)))
                if metric.unit == "fraction"
                else policy.loss_margin
            ),
            # What a score means, and how much it varies, only its author knows.
            "score": math.inf,
            "seconds": policy.seconds_bound,
        }.get(metric.kind, 0.0)
        return (self.own_or(name, usual),)


def _first_losses(record: Record) -> list[list[float]]:
    metric = record.metrics.get("first_losses")
    return [] if metric is None else metric.by_seed


def _nearby_changes(record: Record, floor: float) -> tuple[float, ...]:
    """Return by step how far the first losses are from those of nearby weights, over all seeds."""
    if record.nearby_losses is UNSET or not floor or numerics_of(record) == "bfloat16":
        return ()  # bfloat16 has no weights as near as that
    shares = (
        [abs(b - a) / max(abs(a), floor) for a, b in zip(losses, others, strict=False)]
        for losses, others in zip(_first_losses(record), record.nearby_losses, strict=False)
    )
    return tuple(map(max, zip(*shares, strict=False)))


def numerics_of(record: Record) -> Numerics:
    """Return what decides the bounds on a record's losses; schema 1 has only the method's name."""
    if record.numerics is not UNSET:
        return record.numerics
    return numerics_of_method(record.case.method)


def numerics_of_method(method: str) -> Numerics:
    """Return what the built-in method of this name is."""
    if method.endswith(BFLOAT16_SUFFIX):
        return "bfloat16"
    return cast("Numerics", method) if method in _NAMED_LIKE_METHODS else "usual"
