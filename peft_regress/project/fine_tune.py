"""A fine-tuning to measure: its model, data, adapter, optimizer, loss, score and budget.

Imports no torch, so that listing and collecting cases stay fast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from peft_regress.cases import Case, is_word
from peft_regress.errors import InputError, UnknownNameError
from peft_regress.invariants import INVARIANTS
from peft_regress.metrics import METRICS, Direction, Kind, Unit
from peft_regress.project.budgets import OWN_MATRIX, Bound, Budget

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

Mode = Literal["train", "eval"]

OWN_KINDS: Final = ("exact", "bytes", "accuracy", "score", "info")
"""The kinds that a metric of one's own can have; the others are this package's own metrics."""


@dataclass(frozen=True, kw_only=True)
class OwnMetric:
    """A metric of your own, measured after training, once for each seed."""

    measure: Callable[[nn.Module, Sequence[Any]], float]
    """Returns the number from the trained model, in eval mode, and the test batches."""
    unit: Unit
    direction: Direction
    kind: Kind = "info"
    """How the gate judges it: `exact`, `bytes`, `accuracy`, `score` (by your own bound), or
    `info` (shown, never judged)."""

    def __post_init__(self) -> None:
        """Raise `InputError` for a value that no metric can have."""
        allowed = {"unit": get_args(Unit), "direction": get_args(Direction), "kind": OWN_KINDS}
        for name, known in allowed.items():
            value = getattr(self, name)
            if value not in known:
                raise UnknownNameError(f"{name} of a metric", str(value), known)


@dataclass(frozen=True)
class NamedConfig:
    """A configuration of peft by its name, for an adapter that some releases do not have.

    It is made when its case is measured, so a module of cases need not import peft. Where the
    installed peft lacks it, or one of its settings, the case is `unsupported`.
    """

    name: str
    """Within `peft`: `"VeraConfig"`, `"tuners.lora.config.KasaConfig"`."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Its arguments; a value may be a `NamedConfig`. They define the case as they stand here."""


@dataclass(frozen=True)
class FineTune:
    """One fine-tuning that the gate measures and judges: your own, or a built-in one.

    Everything but the id is given by name. Each seed is set in torch, numpy and random before
    `model()`, the wrapping and the training. Construction imports and calls nothing.

    Raises `InputError` for values that no fine-tuning can have.
    """

    id: str
    """`<task>/<method>-r<rank>/<architecture>`, without `-r<rank>` if there is no rank."""
    _: KW_ONLY
    model: Callable[[], nn.Module]
    """Returns the model with its weights, unadapted."""
    data: Callable[[], tuple[Any, Any]]
    """Returns training and test data: each a Dataset, or a tuple or mapping of arrays or tensors of
    one length. A tuple gives tuples as batches, a mapping gives dicts."""
    adapter: Any
    """A `peft.PeftConfig`, or a `NamedConfig`; or the name of a built-in method, with its rank
    (`"lora-r4"`, `"full"`); or a callable that takes the model and returns the adapted one."""
    also_train: Sequence[str] = ()
    """Modules of the unadapted model that train in full, such as a new head."""
    optimizer: Callable[[nn.Module], Optimizer] | None = None
    """Returns the optimizer of the adapted model; by default the built-in method's, or AdamW with
    torch's settings and `foreach=False` over what trains."""
    schedule: Callable[[Optimizer], LRScheduler] | None = None
    """Returns a scheduler, stepped after each step; by default the rate is constant."""
    loss: Callable[[nn.Module, Any], Tensor] | None = None
    """Returns the scalar loss of a model and a batch; by default cross-entropy for a pair of inputs
    and labels, and `model(**batch).loss` for a mapping."""
    score: Callable[[nn.Module, Sequence[Any]], float] | None = None
    """Returns a number, higher is better, from the trained model and the test batches; by default
    the accuracy, for pairs whose model returns (batch, classes)."""
    collate: Callable[[list[Any]], Any] | None = None
    """Joins the items of a Dataset to a batch; by default torch's `default_collate`."""
    mode: Mode | Callable[[nn.Module], None] = "train"
    """How the model trains: in train mode (with dropout, BatchNorm updates), in eval mode, or as
    a callable sets it."""
    steps: int = 30
    batch: int = 32
    seeds: int = 3
    """How many seeds: 0, 1, ..."""
    matrix: str = OWN_MATRIX
    budget: Budget | None = None
    bounds: Mapping[str, Bound] | None = None
    """Your own bounds, by metric."""
    metrics: Mapping[str, OwnMetric] | None = None
    """Your own metrics, by name."""
    case: Case = field(init=False)
    """The parts of the id."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "case", Case.parse(self.id))
        for problem in (*_wrong_parts(self), *_wrong_names(self), *wrong_limits(self)):
            raise InputError(f"FineTune {self.id!r}: {problem}")


def _wrong_parts(given: FineTune) -> Iterator[str]:
    for name in ("model", "data", "optimizer", "schedule", "loss", "score", "collate"):
        value = getattr(given, name)
        if not callable(value) and (value is not None or name in {"model", "data"}):
            yield f"{name}={value!r} is not callable: give a function, such as {name}=build"
    if not callable(given.mode) and given.mode not in get_args(Mode):
        yield f"mode={given.mode!r} is neither 'train' nor 'eval' nor callable"
    is_config = isinstance(given.adapter, NamedConfig) or hasattr(given.adapter, "peft_type")
    if not (isinstance(given.adapter, str) or is_config or callable(given.adapter)):
        yield (
            f"adapter={given.adapter!r} is not a PeftConfig, the name of a built-in method such as "
            "'lora-r4', or a callable"
        )
    for name in ("steps", "batch", "seeds"):
        value = getattr(given, name)
        if not isinstance(value, int) or value < 1:
            yield f"{name}={value!r} is not a whole number from 1 on"
    also_train: Any = given.also_train
    if isinstance(also_train, str) or not isinstance(also_train, Sequence):
        yield f"also_train={also_train!r} is not a list of module names"


def _wrong_names(given: FineTune) -> Iterator[str]:
    own = given.metrics or {}
    for name in own:
        if name in METRICS or name in INVARIANTS:
            yield f"metrics[{name!r}] has the name of a metric that is measured anyway"
        elif not is_word(name):
            yield f"metrics[{name!r}] is not a name without blanks and without / * ? [ ]"
        if not isinstance(own[name], OwnMetric):
            yield f"metrics[{name!r}]={own[name]!r} is not an OwnMetric"


def wrong_limits(given: Any) -> Iterator[str]:
    """Yield what is wrong with the matrix, the budget and the bounds of an own case."""
    if not (isinstance(given.matrix, str) and given.matrix.isidentifier()):
        yield f"matrix={given.matrix!r} is not the name of a matrix"
    if not isinstance(given.budget, Budget | None):
        yield f"budget={given.budget!r} is not a Budget"
    known = [*METRICS, *(given.metrics or {})]
    for name, bound in (given.bounds or {}).items():
        if name not in known:
            yield f"bounds: {UnknownNameError('metric', str(name), known)}"
        elif not isinstance(bound, Bound):
            yield f"bounds[{name!r}]={bound!r} is not a Bound"
