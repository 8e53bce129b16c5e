"""Every bound of the gate, with the evidence for it, and which of them judge a record. Pure.

A bound is a relative change unless its name says otherwise. docs/metrics.md repeats them for
readers; a test compares the two. "Seen" below is the largest difference between runs of the same
code, over all cases and seeds of the default matrix: on two processors with AVX-512, and on one of
them with ATen, oneDNN and MKL limited to AVX2 and to SSE4. `tools/studies/variants.py` makes these
runs and `tools/studies/variation.py` prints the differences. No bound with such evidence is wider
than ten times the largest difference seen.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

from msgspec import UNSET

from peft_regress.cases import BFLOAT16_SUFFIX
from peft_regress.metrics import Metric, Numerics
from peft_regress.runs.schema import Record


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How far a metric of each kind may change before the gate reports it.

    Counts and FLOPs have no bound: they are exact, so every change is reported.
    """

    bytes_bound: float = 0.001
    """Seen: 0, on every machine. A release of torch may keep or drop a few scalars."""

    fingerprint_bound: tuple[float, ...] = (4e-6, 5e-3, 0.1, 0.2)
    """First losses by step. Loss 1 is a forward pass (seen 4.6e-7). Later an activation within
    rounding of a kink (ReLU, max-pool) can send its gradient another way: seen 1.5e-3, 4.5e-2 and
    9.3e-2, in a single seed of a few cases; most cases change by 1e-6."""

    fingerprint_bounds: ClassVar[Mapping[Numerics, tuple[float, ...]]] = {
        "bn_head": (2e-5, 5e-5, 5e-5, 5e-4),
        "head": (4e-6, 9e-6, 9e-6, 9e-6),
        "hra": (5e-6, 0.1, 0.1, 0.2),
    }
    """By what the adapter is, if its bound is a different one. If all convolutions are frozen,
    nothing amplifies rounding. Seen: head 4.6e-7, 1.3e-6, 1.7e-6, 9.1e-7; bn_head, whose statistics
    are sums over a batch, 6.3e-6, 8.3e-6, 1.1e-5, 6.1e-5. HRA multiplies chains of n x n matrices:
    seen, on its four cases of the extended matrix between AVX-512 and AVX2, 5.9e-7, 1.9e-2, 2.5e-2,
    5.3e-2."""

    nearby_least: float = 4e-6
    """The bound on a first loss of an own case is how far the losses up to the next step move if
    each weight is moved by 1e-4 of it, but at least this, and at most the usual bound. Seen on ten
    own networks: rounding moves a loss by 1.1e-7 (tools/studies/own_networks.py --bounds)."""

    bfloat16_fingerprint_bound: tuple[float, ...] = (0.01, 0.15, 0.3, 0.3)
    """The same on a bfloat16 base, whose numbers have 8 bits: processors with and without bfloat16
    instructions sum differently. Seen on an AMD EPYC and, limited to AVX2, on the cases of
    shufflenet_v2_x0_5: 1.1e-3 (HRA; the others 2.7e-7), 4.7e-2, 8.5e-2, 6.6e-2."""

    filled_bound: float = 3e-5
    """Losses of a filled adapter, with any fill: forward passes, in float32 for every base. Seen
    3.8e-6, over all adapters of both matrices, limited to AVX2 and to SSE4."""

    wide_filled_bound: float = 1e-4
    """The same on an image of 224x224, whose sums are longer. Seen 1.7e-5, over 82 adapters of both
    matrices, limited to AVX2 and to SSE4."""

    update_bound: float = 3e-6
    """The norm of an optimizer's update of three small tensors. Seen 9.0e-7, over GaLore's ranks
    and eight optimizers of torch, limited to AVX2 and to SSE4."""

    gradient_bound: float = 1e-4
    """The norm of a script's gradients in its first step, before rounding has trained on."""

    update_floor: float = 0.1
    """Smaller updates are compared as if they were this large, relative to the weights: float32
    rounds a weight to 6e-8 of it, a fifth of the bound on such an update."""

    bfloat16_update_bound: float = 0.05
    """The same of bfloat16 tensors, whose sums round to 8 bits. Seen 7.7e-3, limited to SSE4."""

    curve_steps: int = 4
    """A curve that equals the reference's for so many losses can depart by rounding no more than
    `curve_rounding`. Seen between AVX-512, AVX2 and SSE: all 72 trainings of the catalogue depart
    by the third loss; small networks of one's own by the eighteenth, then in the last bits."""

    curve_rounding: float = 1e-6
    """How far rounding moves the first loss that departs so late, as a share of the largest loss
    before it. Seen 1.0e-7, over ten own networks (tools/studies/own_networks.py)."""

    referee_bound: float = 1e-9
    """Any number of a training in float64. Seen 4e-12 between AVX-512 and AVX2."""

    referee_factor: float = 100
    """It is wider where weights that are moved by 1e-13 of them move a number further than 1e-11:
    so many times as far. Seen 1."""

    referee_useful: float = 1e-5
    """Where the bound would be wider than this, a referee judges no further."""

    referee_widens: float = 10
    """Where the referees agree, the first losses after the first one may be so many times as far
    apart as their bounds allow: what is left is rounding. Seen on ARM 3.3."""

    bfloat16_curve_rounding: float = 0.02
    """The same in bfloat16, whose numbers have 8 bits: five of their last bits."""

    loss_floor: float = 0.001
    """A share of the largest of a case's first losses. Smaller losses, a test's too, are compared
    as if they were this large: there, rounding is not relative."""

    loss_rounding: float = 1e-7
    """Absolute: what float32 leaves of terms of size 1 that cancel out, as where a loss is the
    distance to the model that training starts from. A smaller difference of losses is none."""

    accuracy_margin: float = 0.05
    """Two-sided: the mean difference of paired seeds, as a fraction. Seen 0.037, with a standard
    deviation over the cases of 0.0087: a true change of 0.065 is found nineteen times in twenty."""

    accuracy_items: float = 2.5
    """How many answers on test items, over all seeds, may change whatever share they are: two may,
    three may not. So with fewer than 50 answers the margin is wider."""

    loss_margin: float = 0.15
    """Test loss, the mean difference of paired seeds. Seen 0.096."""

    time_effect: float = 0.10
    """`peft-regress time` must find a step that is slower by this: it calls a case the same only if
    the whole interval lies below, so such a step passes in at most one run of 40."""

    time_margin: float = 0.03
    """How much slower the whole interval must be for `slower`. Seen once: the same code was slower
    by 2.8 % in one process than in another, as long as both lived; no tool repeats it."""

    time_error_rate: float = 0.05
    """The chance that any interval of one `peft-regress time` misses its ratio, over all cases."""

    time_pairs: int = 60
    """Pairs of blocks for each case, four of each start of the workers (docs/upgrading.md)."""

    def fingerprint(self, metric: str, numerics: Numerics, *, step: int) -> float:
        """Return the bound on one number of a fingerprint; `step` counts from 0."""
        is_bfloat16 = numerics == "bfloat16"
        if metric == "filled_losses":
            return self.filled_bound
        if metric == "wide_filled_loss":
            return self.wide_filled_bound
        if metric == "optimizer_updates":
            return self.bfloat16_update_bound if is_bfloat16 else self.update_bound
        if metric in {"gradient_norms", "unclipped_norms"} and step == 0:
            return self.gradient_bound
        usual = self.bfloat16_fingerprint_bound if is_bfloat16 else self.fingerprint_bound
        bounds = self.fingerprint_bounds.get(numerics, usual)
        return bounds[min(step, len(bounds) - 1)]


DEFAULT_POLICY = Policy()


def bounds_on(name: str, metric: Metric, reference: Record) -> tuple[float, ...]:
    """Return how far a metric may change, a fingerprint by step; infinite where nothing judges."""
    policy, own = DEFAULT_POLICY, reference.own_bounds.get(name)
    count = max(map(len, metric.by_seed)) if metric.kind == "fingerprint" else 1
    if own is not None:
        return (own.bound,) * count
    if metric.kind == "fingerprint":
        numerics = numerics_of(reference)
        usual = tuple(policy.fingerprint(name, numerics, step=step) for step in range(count))
        nearby = _nearby_changes(reference) if name == "first_losses" else ()
        least = (max(change, policy.nearby_least) for change in nearby)
        return (*map(min, usual, least), *usual[len(nearby) :])
    if metric.kind == "accuracy" and metric.unit == "fraction":
        items = math.inf if reference.test_items is UNSET else reference.test_items
        return (max(policy.accuracy_margin, policy.accuracy_items / (items * len(metric.by_seed))),)
    # What a score means, and how much it varies, only its author knows.
    unjudged = {"score": math.inf, "seconds": math.inf}
    by_kind = {"bytes": policy.bytes_bound, "accuracy": policy.loss_margin, **unjudged}
    return (by_kind.get(metric.kind, 0.0),)


def floor_of(name: str, reference: Record) -> float:
    """Return the size as which smaller losses, or updates, are compared."""
    if name == "optimizer_updates":
        return DEFAULT_POLICY.update_floor
    losses = (abs(loss) for seed in _first_losses(reference) for loss in seed)
    return DEFAULT_POLICY.loss_floor * max(losses, default=0.0)


def rounding_of(name: str, reference: Record) -> float:
    """Return the size of a difference of losses, or updates, that is none."""
    is_exact = name == "optimizer_updates" or name in reference.own_bounds
    return 0.0 if is_exact else DEFAULT_POLICY.loss_rounding


def _first_losses(record: Record) -> list[list[float]]:
    metric = record.metrics.get("first_losses")
    return [] if metric is None else metric.by_seed


def _nearby_changes(record: Record) -> tuple[float, ...]:
    """Return by step how far the first losses are from those of nearby weights, over all seeds.

    The largest up to the next step: rounding may amplify a step earlier than the nearby weights do.
    """
    floor = floor_of("first_losses", record)
    if record.nearby_losses is UNSET or not floor or numerics_of(record) == "bfloat16":
        return ()  # bfloat16 has no weights as near as that
    shares = (
        [abs(b - a) / max(abs(a), floor) for a, b in zip(losses, others, strict=False)]
        for losses, others in zip(_first_losses(record), record.nearby_losses, strict=False)
    )
    changes = [*map(max, zip(*shares, strict=False))]
    return tuple(max(changes[: step + 2]) for step in range(len(changes)))


def numerics_of(record: Record) -> Numerics:
    """Return the precision class of a record, which decides the bounds on its losses."""
    if record.numerics is not UNSET:
        return record.numerics
    return numerics_of_method(record.case.method)


def numerics_of_method(method: str) -> Numerics:
    """Return what the built-in method of this name is."""
    if method.endswith(BFLOAT16_SUFFIX):
        return "bfloat16"
    return cast("Numerics", method) if method in DEFAULT_POLICY.fingerprint_bounds else "usual"
