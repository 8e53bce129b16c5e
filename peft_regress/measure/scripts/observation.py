"""What is asked of the process that runs a script, and what it saw. No torch."""

from __future__ import annotations

from msgspec import Struct


class WatchRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which script to run, and for how long to watch it."""

    script: str
    """A file, or with `is_module` the name of a module as `python -m` takes it."""
    is_module: bool = False
    args: tuple[str, ...] = ()
    steps: int = 4
    """Optimizer steps after which the script is ended."""
    answer: str
    """The file that the observation is written to."""


class Tensor(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Shape and dtype of a parameter."""

    shape: tuple[int, ...]
    dtype: str


class MicroBatch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One call of `backward`: what it was given, and what the model was called with before."""

    loss: float | None
    """None if what `backward` was called on is no single number."""
    inputs: dict[str, str]
    """A digest of each tensor that the model was called with, by the argument's name."""


class Step(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One optimizer step, up to its end."""

    micro_batches: tuple[MicroBatch, ...]
    gradient_norm: float
    """Of all gradients together, as the optimizer gets them: after clipping."""
    rates: tuple[float, ...]
    """The learning rate of each parameter group."""
    seconds: float
    is_recorded: bool
    """Whether each operator was recorded, which takes time of its own."""


class OptimizerSeen(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An optimizer, and the numbers of its parameter groups at its first step."""

    name: str
    groups: tuple[dict[str, float], ...]


class FlopsAt(Struct, frozen=True, array_like=True):
    """FLOPs of one operator in one module and phase."""

    phase: str
    module: str
    operator: str
    flops: int
    paper_flops: int


class BytesAt(Struct, frozen=True, array_like=True):
    """Bytes that one operator allocated for one module, by category."""

    category: str
    module: str
    operator: str
    bytes: int


class Costs(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one optimizer step costs: the second one; the metrics have the names of run files."""

    metrics: dict[str, int]
    flops: tuple[FlopsAt, ...]
    at_peak: tuple[BytesAt, ...]
    """What was alive at the first moment of the peak."""
    at_highs: tuple[BytesAt, ...]
    """What each category consisted of at its own high."""
    state: tuple[BytesAt, ...]
    """What the optimizer keeps."""
    peak_phase: str
    saved: tuple[BytesAt, ...]
    """The activations alive when the first backward pass of the step began."""
    uncounted: dict[str, tuple[str, ...]]
    """Operators without a FLOP formula by phase; the FLOPs of such a phase are absent."""


class Observation(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was seen of a script."""

    steps: tuple[Step, ...]
    model: str = ""
    """The class of the module that owns what trains."""
    trained: dict[str, Tensor] = {}
    """The tensors that an optimizer has and that require a gradient, by their names in it."""
    frozen_params: int = 0
    weights: dict[str, float] = {}
    """The norm of each tensor of the model before the first step."""
    param_bytes: dict[str, int] = {}
    """The bytes of the model's parameters by dtype."""
    autocast: str = ""
    """The dtype of autocast in the forward pass; '' without."""
    optimizers: tuple[OptimizerSeen, ...] = ()
    costs: Costs | None = None
    """None if the script took one step alone."""
    first_step_peak_bytes: int = 0
    notes: tuple[str, ...] = ()
    """What is to be known about these numbers."""
    ended: str = ""
    """The exception that ended the script before its steps were over, in one line; '' if none."""
