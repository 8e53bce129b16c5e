"""What is asked of the process that runs a script, and what it saw."""

import math

from msgspec import Struct

from peft_regress.cost.step_cost import ByteSite, StepCost
from peft_regress.project.script import Event
from peft_regress.runs.schema import Failure, TensorSummary


class WatchRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which script to run, and for how long to watch it."""

    script: str
    """A file, or with `is_module` the name of a module as `python -m` takes it."""
    is_module: bool = False
    args: tuple[str, ...] = ()
    steps: int = 4
    """Optimizer steps after which the script is ended."""
    until: Event | None = None
    """Until which event it goes on after them."""
    nudge: float = 0.0
    """How far to move what trains after the first step, as a share: to see what rounding may do."""
    float64: bool = False
    """Whether to compute in float64, and record no operators."""
    kept_start: str | None = None
    """In float64: the file of `begin_alike`, which the first module begins with."""
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
    """The sum of what `backward` got, without a `GradScaler`'s factor; None if not of numbers."""
    divisor: float
    """By what the script divided the loss last, as for accumulation; 1 without a division."""
    inputs: dict[str, TensorSummary]
    """The tensors that the model was called with, by argument; of the first, with their rows."""
    digests: dict[str, str]
    """Of those that are whole numbers: a digest of their values, which no processor rounds."""


class Step(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One optimizer step, up to its end."""

    number: int
    """Which step of the script it is, from 1."""
    micro_batches: tuple[MicroBatch, ...]
    gradient_norm: float
    """Of all gradients together, as the optimizer gets them: after clipping."""
    unclipped_norm: float
    """The same as the backward pass left them."""
    rates: tuple[float, ...]
    """The learning rate of each parameter group."""
    seconds: float
    is_recorded: bool
    """Whether each operator was recorded, which takes time of its own."""

    @property
    def loss(self) -> float | None:
        """Return the mean over its micro-batches; None if one is no single number."""
        losses = [batch.loss for batch in self.micro_batches if batch.loss is not None]
        return sum(losses) / len(losses) if losses else None

    @property
    def accumulation(self) -> float:
        """Return by what each loss was divided, as there are so many micro-batches; else 1."""
        count = float(len(self.micro_batches))
        divisors = {round(batch.divisor, 6) for batch in self.micro_batches}
        return count if divisors == {count} else 1.0

    @property
    def not_finite(self) -> str:
        """Return the first of its numbers that is NaN or infinite, in words; '' if none is."""
        losses = [batch.loss for batch in self.micro_batches if batch.loss is not None]
        numbers = [("loss", one) for one in losses]
        numbers += [("learning rate", one) for one in self.rates]
        for name, one in (*numbers, ("norm of the gradients", self.gradient_norm)):
            if not math.isfinite(one):
                return f"the {name} is {one} in step {self.number}"
        return ""


class OptimizerSeen(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An optimizer, and the numbers of its parameter groups at its first step."""

    name: str
    groups: tuple[dict[str, float], ...]


class WatchedScript(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
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
    unseen: tuple[str, ...] = ()
    """What its steps cannot show, and what would."""
    steps_before: dict[Event, int] = {}
    """The optimizer steps before the first end of an epoch, and before the first evaluation."""
    less_precision: str = ""
    """In float64: the first operator that gave less, and its dtype; '' without one."""
    is_over: bool = False
    """Whether all that was asked for was seen."""
    ended: Failure | None = None
    """Why it was not: what ended the script."""
    written: tuple[str, ...] = ()
    """The files of its folder that appeared or changed while it ran; of a new folder its name."""

    @property
    def problem(self) -> Failure | None:
        """Return why these numbers are of no whole training; None if they are."""
        wrong = next(filter(None, (step.not_finite for step in self.steps)), None)
        return self.ended if wrong is None else Failure(type="NonFiniteError", message=wrong)

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
        ends = tuple(f"{phase}_flops" for phase in self.uncounted)
        costs = self.costs.metrics.items()
        return {name: value for name, value in costs if not name.endswith(ends)}
