"""Judge the metrics of both sides: changes beyond their bounds, and drift. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from peft_regress.gate.changes import change_of, direction_of, drift_of, have_same_shape
from peft_regress.gate.inputs import OF_INPUTS
from peft_regress.gate.policy import Bounds, Policy
from peft_regress.gate.repeats import lacks_seeds
from peft_regress.gate.verdicts import Change, Observation, Reason, Remark, Verdict
from peft_regress.metrics import EDGE_METRICS, METRICS, Metric, metric_order


@dataclass(frozen=True, kw_only=True)
class MetricJudge:
    """Both sides of a case, and the bounds between them."""

    old: Observation
    new: Observation
    bounds: Bounds
    same_inputs: bool
    """Whether both sides start from the same weights and data, as far as they recorded them."""

    @classmethod
    def of(
        cls, old: Observation, new: Observation, *, policy: Policy, same_inputs: bool
    ) -> MetricJudge:
        """Return the judge of two observations."""
        bounds = Bounds.between(old.record, new.record, policy)
        return cls(old=old, new=new, bounds=bounds, same_inputs=same_inputs)

    def names(self) -> list[str]:
        """Return the metrics of either side, in the order of the table."""
        return sorted(
            self.old.record.metrics.keys() | self.new.record.metrics.keys(), key=metric_order
        )

    def findings(self) -> Iterator[Reason | Remark]:
        """Yield every reason and remark on the metrics."""
        for name in self.names():
            if self._lacks_seeds(name):
                continue
            of_newest = tuple(self._changes(name))
            yield from of_newest
            # A change beyond its bound in one step is no drift.
            if not any(isinstance(one, Reason) for one in of_newest):
                yield from self._drift(name)
        yield from self._looser_bounds()

    def _lacks_seeds(self, name: str) -> bool:
        return any(lacks_seeds(side.record, name) for side in (self.old, self.new))

    def _changes(self, name: str) -> Iterator[Reason | Remark]:
        old, new = (side.record.metrics.get(name) for side in (self.old, self.new))
        either = new or old
        if either is None or self._is_unchanged(name, old, new):
            return
        if old and new and old.spec != new.spec:
            # Checked before the kind excludes a metric: a side that says `info` must not hide it.
            shown = "{0.unit}, {0.direction}, {0.kind}".format
            yield Reason(metric=name, old=shown(old), new=shown(new), verdict="incomparable")
            return
        if old is None and not could_know(self.old, name):
            yield Remark(kind="new metric", subject=name, new=either.value, spec=either.spec)
            return
        if not self._is_judged(name, either):
            return
        if old is None or new is None:
            yield self._of_one_side(name, old, new)
        elif self.same_inputs or new.kind not in OF_INPUTS:
            yield from self._of_both_sides(name, old, new)

    def _of_one_side(self, name: str, old: Metric | None, new: Metric | None) -> Reason:
        if new is None:
            assert old is not None  # noqa: S101  (one of the sides has the metric)
            # What an older version of this project cannot measure is not gone: nobody looked.
            unknown = name in METRICS and name not in self.new.known
            lost: Verdict = "incomparable" if unknown else "regressed"
            return Reason(metric=name, old=old.value, new=None, verdict=lost, spec=old.spec)
        # New work, such as an SVD in `step()`, is worse; other metrics need a reference.
        appeared: Verdict = "regressed" if new.kind == "exact" else "incomparable"
        return Reason(metric=name, old=None, new=new.value, verdict=appeared, spec=new.spec)

    def _is_unchanged(self, name: str, old: Metric | None, new: Metric | None) -> bool:
        """Return whether both sides are equal and no remark can follow: so with most metrics.

        A score without a bound, and a bound of the author's, are remarked on even then.
        """
        if old is None or old != new:
            return False
        return old.kind != "score" and name not in self.bounds.own

    def _of_both_sides(self, name: str, old: Metric, new: Metric) -> Iterator[Reason | Remark]:
        if not have_same_shape(old, new):
            yield Reason(
                metric=f"{name}.samples",
                old=len(old.samples or ()),
                new=len(new.samples or ()),
                verdict="incomparable",
            )
        elif not self.bounds.judges(name, new):
            text = "it has no bound of its own"
            yield Remark(kind="not judged", subject=name, new=new.value, spec=new.spec, text=text)
        else:
            yield from self._beyond(name, change_of(name, old, new, self.bounds), new)
            yield from self._within_own_bound(name, old, new)

    def _is_judged(self, name: str, metric: Metric) -> bool:
        torches = (side.environment.get("torch") for side in (self.old, self.new))
        return not is_shown_only(metric) and can_compare(name, torches)

    def _beyond(
        self, name: str, change: Change, metric: Metric, *, since: str | None = None
    ) -> Iterator[Reason]:
        """Yield the reason if a metric changed beyond its bound."""
        direction = direction_of(change, metric)
        if direction is not None:
            verdict: Verdict = "regressed" if direction == "worse" else "improved"
            yield Reason.of(
                name,
                change,
                verdict,
                since=since,
                spec=metric.spec,
                bound_reason=self.bounds.reason_for(name),
            )

    def _within_own_bound(self, name: str, old: Metric, new: Metric) -> Iterator[Remark]:
        """Yield a remark if only the author's own bound allows a change."""
        if name not in self.bounds.own or direction_of(change_of(name, old, new, self.bounds), new):
            return
        usual = change_of(name, old, new, self.bounds.usual)
        if direction_of(usual, new):
            yield Remark(
                kind="within own bound",
                subject=name,
                old=usual.old,
                new=usual.new,
                spec=new.spec,
                text=self.bounds.reason_for(name),
            )

    def _drift(self, name: str) -> Iterator[Reason]:
        """Compare with the entry that the metric's drift counts from."""
        origin, metric = self.old.drift_origins.get(name), self.new.record.metrics.get(name)
        if origin is None or metric is None:
            return
        if not self.same_inputs and metric.kind in OF_INPUTS:
            return
        change = drift_of(name, origin, metric, self.bounds)
        yield from self._beyond(name, change, metric, since=origin.entry)

    def _looser_bounds(self) -> Iterator[Remark]:
        """Name each bound of the author's that is looser than the one the reference had."""
        before = Bounds.of(self.old.record, self.bounds.policy)
        for name in sorted(before.own.keys() | self.bounds.own.keys(), key=metric_order):
            metric = self.new.record.metrics.get(name)
            if metric is None or name not in self.old.record.metrics:
                continue
            was, now = before.on(name, metric), self.bounds.on(name, metric)
            pair = next(((a, b) for a, b in zip(was, now, strict=True) if b > a), None)
            if pair is not None:
                old, new = (None if bound == float("inf") else bound for bound in pair)
                text = self.bounds.reason_for(name)
                yield Remark(
                    kind="looser bound", subject=name, old=old, new=new, spec=metric.spec, text=text
                )


def could_know(side: Observation, name: str) -> bool:
    """Return whether the run of one side could have measured a metric of the table.

    What a program costs is measured where a case asks for it, which shows in its record.
    """
    if name == "optimizer_updates":
        return False  # older versions measured it for some optimizers only
    was_asked = name not in EDGE_METRICS or not EDGE_METRICS.keys().isdisjoint(side.record.metrics)
    return was_asked and name in side.known and name in METRICS


def is_shown_only(metric: Metric) -> bool:
    """Return whether no bound judges a metric."""
    # The wall time of one run is shown: a busy machine is no slower code.
    return metric.kind in {"info", "seconds"} or metric.direction == "none"


def can_compare(name: str, torches: Iterable[str | None]) -> bool:
    """Return whether a metric can be judged: another torch may use other operators."""
    return not name.startswith(("aten_ops", "edge_ops")) or len(set(torches)) == 1
