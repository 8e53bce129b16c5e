"""The metrics of a case, and how values are shown.

docs/metrics.md explains each metric. The kind decides how the gate judges it (see `gate.policy`).
Values are stored unscaled (bytes, FLOPs, fractions) and scaled only for display.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final, Literal

import msgspec

Unit = Literal["count", "flop", "byte", "second", "fraction", "nat", "ratio"]
Direction = Literal["lower", "higher", "same", "none"]
Kind = Literal["exact", "bytes", "fingerprint", "accuracy", "score", "seconds", "info"]

Numerics = Literal["usual", "bfloat16", "head", "bn_head", "hra"]
"""How strongly a training amplifies rounding: as most, as in bfloat16, as of the head alone, as of
BatchNorm statistics, or as HRA's chains of products. It decides the bounds on losses."""

Sample = float | list[float]

BATCH_SUFFIX = "_b32"
"""Suffix of a cost metric measured at batch 32; without it, at batch 1."""

OPERATOR_SHARE: Final = Fraction(1, 10)
"""What operators of PyTorch take for themselves, as a share of the tensors' peak."""


@dataclass(frozen=True)
class MetricSpec:
    """The unit of a metric, which direction is better, and how the gate judges it."""

    unit: Unit
    direction: Direction
    kind: Kind
    about: str = field(default="", compare=False)
    """What it is, in one sentence for people; empty where its record alone says what it is."""


class Metric(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """One measured number."""

    value: int | float
    """The mean of the samples, if there are any."""
    unit: Unit
    direction: Direction
    kind: Kind
    samples: list[Sample] | None = None
    """One item per seed: a number, or the first losses. Of a fingerprint that no seed decides, one
    item per fill or per tensor."""

    @property
    def spec(self) -> MetricSpec:
        """What the metric is, as its record says."""
        return MetricSpec(unit=self.unit, direction=self.direction, kind=self.kind)

    @property
    def by_seed(self) -> list[list[float]]:
        """The samples as one list for each seed; the value if there are no samples."""
        listed = [one if isinstance(one, list) else [one] for one in self.samples or ()]
        return listed if any(listed) else [[self.value]]


def _flops(about: str, kind: Kind = "exact") -> MetricSpec:
    direction: Direction = "none" if kind == "info" else "lower"
    return MetricSpec(unit="flop", direction=direction, kind=kind, about=about)


def _bytes(about: str, kind: Kind = "bytes") -> MetricSpec:
    return MetricSpec(unit="byte", direction="lower", kind=kind, about=about)


def _count(about: str, direction: Direction = "lower") -> MetricSpec:
    return MetricSpec(unit="count", direction=direction, kind="exact", about=about)


def _fingerprint(unit: Unit, about: str) -> MetricSpec:
    return MetricSpec(unit=unit, direction="same", kind="fingerprint", about=about)


COST_METRICS: dict[str, MetricSpec] = {
    "forward_flops": _flops("Matrix work of the forward pass and the loss."),
    "backward_flops": _flops("Matrix work of the backward pass."),
    "optimizer_flops": _flops("Work of the optimizer's step."),
    "projection_flops": _flops("Work of GaLore's SVDs at each refresh."),
    "paper_forward_flops": _flops("Forward work as the reference paper counts it.", "info"),
    "paper_backward_flops": _flops("Backward work as the reference paper counts it.", "info"),
    "peak_bytes": _bytes("The most memory in use at one moment of a training step."),
    "first_step_peak_bytes": _bytes(
        "The same of the first step, in which the optimizer makes its state."
    ),
    "peak_param_bytes": _bytes("The most memory that parameters take."),
    "peak_buffer_bytes": _bytes("The most memory that buffers take."),
    "peak_grad_bytes": _bytes("The most memory that accumulated gradients take."),
    "peak_activation_bytes": _bytes(
        "The most memory that the forward pass fills, the input included."
    ),
    "peak_temp_bytes": _bytes("The most memory that the backward pass fills for a while."),
    "peak_optimizer_bytes": _bytes(
        "The most memory in use in the optimizer's step, its state included."
    ),
    "optimizer_state_bytes": _bytes("What the optimizer keeps from one step to the next."),
    "category_sum_bytes": _bytes(
        "The sum of the six categories' own highs, which come at different moments."
    ),
    "attainable_bytes": _bytes("The peak without saved tensors that no gradient needs.", "info"),
    "aten_ops": _count("Operators that a step runs: a measure of overhead without noise."),
}
"""Metrics of one training step, at batch 1 and, with `BATCH_SUFFIX`, at batch 32."""

INFERENCE_METRICS: dict[str, MetricSpec] = {
    "inference_flops": _flops("Matrix work of a forward pass alone, the adapter attached."),
    "inference_peak_bytes": _bytes("The most memory in use at one moment of that pass."),
    "merged_inference_flops": _flops(
        "Matrix work of a forward pass alone, the adapter merged into the weights."
    ),
    "merged_inference_peak_bytes": _bytes(
        "The most memory in use at one moment of a forward pass, the adapter merged."
    ),
    "merged_bytes": _bytes("What a device stores of the merged model.", "exact"),
}
"""What running the adapted model costs, with the adapter attached and merged."""

EDGE_METRICS: dict[str, MetricSpec] = {
    "edge_train_bytes": _bytes(
        "The memory that an update needs in ExecuTorch's runtime, the optimizer's state included."
    ),
    "edge_train_planned_bytes": _bytes("The memory that the training program plans."),
    "edge_train_program_bytes": _bytes("The size of the training program, its weights included."),
    "edge_train_resident_bytes": _bytes(
        "By how much a process grows that trains with the program; shown, not judged.", "info"
    ),
    "edge_ops": _count("Operators that the training program calls in a step."),
    "edge_inference_planned_bytes": _bytes(
        "The memory that the inference program plans, the adapter attached."
    ),
    "edge_inference_program_bytes": _bytes(
        "The size of the inference program, its weights included, the adapter attached."
    ),
    "edge_merged_inference_planned_bytes": _bytes(
        "The memory that the inference program plans, the adapter merged."
    ),
    "edge_merged_inference_program_bytes": _bytes(
        "The size of the inference program, its weights included, the adapter merged."
    ),
}
"""What the programs of a case ask of a device that runs them in ExecuTorch."""

METRICS: dict[str, MetricSpec] = {
    # Another number of trained parameters is another function, whether larger or smaller.
    "trainable_params": _count("Numbers that training may change.", "same"),
    "total_params": _count("Numbers of the whole model, the adapter included."),
    "adapter_bytes": _bytes("What to send to a device that has the source model.", "exact"),
    **COST_METRICS,
    **{name + BATCH_SUFFIX: spec for name, spec in COST_METRICS.items()},
    **INFERENCE_METRICS,
    **EDGE_METRICS,
    "evaluation_peak_bytes": _bytes(
        "The most memory in use at one moment while the trained model is evaluated."
    ),
    "saving_peak_bytes": _bytes(
        "The most memory in use at one moment while the trained adapter is saved."
    ),
    "first_losses": _fingerprint(
        "nat", "The losses of the first steps of each seed; shown is their mean at step 1."
    ),
    "unclipped_norms": _fingerprint(
        "ratio", "Of a script: the norm of all gradients in each step, before they are clipped."
    ),
    "gradient_norms": _fingerprint(
        "ratio", "Of a script: the norm of all gradients in each step, as the optimizer gets them."
    ),
    "micro_batches": _count("Of a script: the backward passes of its second step.", "same"),
    "steps_before_event": _count(
        "Of a script with `until`: the optimizer steps before its first evaluation or epoch's end.",
        "same",
    ),
    "filled_losses": _fingerprint(
        "nat", "The loss of an adapter filled with seeded numbers: a fingerprint of its function."
    ),
    "wide_filled_loss": _fingerprint(
        "nat", "The loss of a filled adapter on an image of 224x224, computed by two threads."
    ),
    "optimizer_updates": _fingerprint(
        "ratio", "How far the optimizer moves three small tensors: a fingerprint of its function."
    ),
    "accuracy": MetricSpec(
        "fraction",
        "higher",
        "accuracy",
        "The share of test images classified right after training: the mean over the seeds.",
    ),
    "loss": MetricSpec(
        "nat", "lower", "accuracy", "Mean cross-entropy on the test images after training."
    ),
    "score": MetricSpec(
        "ratio", "higher", "score", "What the author of the case measures instead of accuracy."
    ),
    "step_seconds": MetricSpec(
        "second", "lower", "seconds", "Wall time of a training step, the fastest seed's median."
    ),
    "relative_step_seconds": MetricSpec(
        "ratio",
        "lower",
        "info",
        "The time of a step relative to that of full fine-tuning; shown, not judged.",
    ),
}

OF_ALL_SEEDS: frozenset[str] = frozenset({"accuracy", "loss", "score"})
"""The metrics, beside an own case's, that need every seed trained in full: a repeat lacks them."""

_POSITIONS = {name: position for position, name in enumerate(METRICS)}


def metric_order(name: str) -> tuple[int, str]:
    """Return the key that sorts metrics as in the table, those of one's own last, by name."""
    return _POSITIONS.get(name, len(_POSITIONS)), name


def make_metric(name: str, value: float, samples: list[Any] | None = None) -> Metric:
    """Return a metric of the table with its value; `samples` has one item per seed.

    Raises `KeyError` for a name that is not in the table.
    """
    spec = METRICS[name]
    return Metric(
        value=value, unit=spec.unit, direction=spec.direction, kind=spec.kind, samples=samples
    )


_STEPS: dict[str, tuple[tuple[float, str], ...]] = {
    "byte": ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B")),
    "flop": ((1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"), (1e3, "kFLOP"), (1, "FLOP")),
    "second": ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")),
}


def format_value(value: float, unit: Unit) -> str:
    """Format a stored value for people: 706,115,232 flop -> '706.1 MFLOP'."""
    if unit in _STEPS:
        for size, name in _STEPS[unit]:
            if abs(value) >= size:
                shown = f"{value:,.0f}" if size == 1 and unit != "second" else None
                return f"{shown or _significant(value / size)} {name}"
        smallest, name = _STEPS[unit][-1]
        return f"{value / smallest:.3g} {name}"
    if unit == "fraction":
        digits = 1 if abs(value) >= 0.01 or not value else 3  # noqa: PLR2004  (1 %)
        return f"{100 * value:.{digits}f} %"
    if unit == "count":
        return f"{value:,.0f}"
    if unit == "nat":
        return f"{value:.7g} nat"
    return f"{value:.3f}"


def unit_steps(unit: Unit) -> list[tuple[float, str]]:
    """Return the sizes and names that numbers of a unit are shown in, the largest first."""
    if unit == "fraction":
        return [(0.01, "%")]
    return list(_STEPS.get(unit, ((1.0, "nat" if unit == "nat" else ""),)))


def common_unit(values: Iterable[float], unit: Unit) -> tuple[float, str]:
    """Return one step of a unit for a column of values, such as (1048576, 'MiB').

    It is the largest in which the median is at least a half. Of a unit without steps, it is the
    unit itself; '' if values are shown with it, or have none.
    """
    steps = _STEPS.get(unit) or unit_steps("nat" if unit == "nat" else "ratio")
    positive = sorted(value for value in values if value > 0)
    if not positive:
        return steps[-1]
    median = positive[len(positive) // 2]
    return next((step for step in steps if median >= step[0] / 2), steps[-1])


def _significant(value: float) -> str:
    """Format with four significant digits and without an exponent: 3.854, 706.1, 1298."""
    whole = len(f"{abs(value):.0f}")
    return f"{value:.{max(4 - whole, 0)}f}"


def format_change(relative_change: float) -> str:
    """Format a relative change with its sign: 0.838 -> '+83.8 %', 3e-07 -> '+3.0e-07'."""
    if relative_change == 0:
        return "0 %"
    if abs(relative_change) < 1e-4:  # noqa: PLR2004  (a percentage would show +0.00 %)
        return f"{relative_change:+.1e}"
    return f"{100 * relative_change:+.4g} %"
