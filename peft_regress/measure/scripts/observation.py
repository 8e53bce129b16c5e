"""What is asked of the process that runs a script, and what it saw."""

from __future__ import annotations

from msgspec import Struct

from peft_regress.cost.step_cost import ByteSite, StepCost
from peft_regress.runs.schema import TensorSummary


class WatchRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which script to run, and for how long to watch it."""

    script: str
    """A file, or with `is_module` the name of a module as `python -m` takes it."""
    is_module: bool = False
    args: tuple[str, ...] = ()
    steps: int = 4
    """Optimizer steps after which the script is ended."""
    nudge: float = 0.0
    """How far to move what trains after the first step, as a share of each number: the later losses
    show how far rounding may move them."""
    answer: str
    """The file that the observation is written to."""


class Parameter(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What trains: a tensor by its shape and dtype."""

    shape: tuple[int, ...]
    dtype: str
    itemsize: int
    """Bytes of one number."""


class MicroBatch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One call of `backward`: what it was given, and what the model was called with before."""

    loss: float | None
    """The sum of what `backward` was called on; None if that is not all single numbers."""
    inputs: dict[str, TensorSummary]
    """The tensors that the model was called with, by the argument's name; with the rows of the
    script's first micro-batch."""
    digests: dict[str, str]
    """Of those that are whole numbers: a digest of their values, which no processor rounds."""


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


class Observation(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was seen of a script."""

    steps: tuple[Step, ...]
    model: str = ""
    """The class of the module that owns what trains."""
    trained: dict[str, Parameter] = {}
    """The tensors that an optimizer has and that require a gradient, by their names in it."""
    frozen_params: int = 0
    weights: dict[str, TensorSummary] = {}
    """Each tensor of the model before the first step."""
    param_bytes: dict[str, int] = {}
    """The bytes of the model's parameters by dtype."""
    autocast: str = ""
    """The dtype of autocast in the forward pass; '' without."""
    optimizers: tuple[OptimizerSeen, ...] = ()
    costs: StepCost | None = None
    """Of the second step; None if the script took one step alone."""
    saved: tuple[ByteSite, ...] = ()
    """The activations alive when the first backward pass of that step began."""
    uncounted: dict[str, tuple[str, ...]] = {}
    """Operators without a FLOP formula by phase: the FLOPs of such a phase are unknown."""
    packages: dict[str, str] = {}
    """The versions of what the script imported, beyond this package's requirements."""
    loaded: frozenset[str] = frozenset()
    """The packages of which it has loaded a module."""
    failed: str = ""
    """Where the watcher itself failed, and by which exception; '' if it did not."""
    notes: tuple[str, ...] = ()
    """What is to be known about these numbers."""
    ended: str = ""
    """The exception that ended the script before its steps were over, in one line; '' if none."""
    written: tuple[str, ...] = ()
    """The files of its folder that appeared or changed while it ran; of a new folder its name."""

    @property
    def why_no_costs(self) -> str:
        """Return why the costs of the second step are unknown."""
        if self.failed:
            return f"{self.failed}: costs are absent"
        if not self.trained:
            return "nothing trains: no parameter that its optimizers hold requires a gradient"
        return "costs are those of the second step, and it took one optimizer step"

    def step_metrics(self) -> dict[str, int]:
        """Return the costs of the second step by their names in run files; unknown ones absent."""
        if self.costs is None:
            return {}
        return {
            name: value
            for name, value in self.costs.metrics.items()
            if not any(name.endswith(f"{phase}_flops") for phase in self.uncounted)
        }
