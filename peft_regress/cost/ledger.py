"""One dispatch mode that writes down what a training step computes and holds.

The log is append-only; what it means is read off afterwards, by `memory.summarize_memory` and by
sums over the FLOP entries. Categories follow `torch.distributed._tools.mem_tracker.MemTracker`,
which itself cannot follow a model with frozen parameters.
"""

from __future__ import annotations

import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from peft_regress.cost.attribution import ModuleTrail, module_names
from peft_regress.cost.formulas import UncountedOperatorError, checked_flops, place_of
from peft_regress.cost.memory import Category, MemoryEvent
from peft_regress.cost.operators import Operator, describe
from peft_regress.cost.refusals import UnprofilableModelError
from peft_regress.cost.storages import storages_of, tensors_in

if TYPE_CHECKING:
    from torch import UntypedStorage, nn

__all__ = ["FlopEvent", "Ledger", "Phase"]

Phase = Literal["forward", "backward", "optimizer", "projection"]

_CATEGORY_OF_PHASE: dict[Phase, Category] = {
    "forward": "activation",
    "backward": "temp",
    "optimizer": "optimizer",
}

_CATEGORIES_OF_A_STEP = frozenset({"grad", *_CATEGORY_OF_PHASE.values()})

_NO_FOREACH = (
    "One kernel over many tensors says nothing of its parts: construct the optimizer with "
    "foreach=False and fused=False."
)


class FlopEvent(NamedTuple):
    """What one operator computed; module '' is outside any module."""

    phase: Phase
    module: str
    operator: str
    flops: int
    paper_flops: int


class _Holding(weakref.ref["UntypedStorage"]):
    """A storage that is alive, and how it is accounted for."""

    __slots__ = ("category", "key", "module", "nbytes", "operator")
    key: int
    nbytes: int
    category: Category
    module: str
    operator: str


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Record FLOPs and memory by category and module while it is the innermost dispatch mode.

    Set `phase` as the step goes on. Tensors that are alive before it starts are made known with
    `hold`. Storages are followed by weak references, so the ledger keeps nothing alive.

    Raises:
        UncountedOperatorError: an operator does matrix work and has no formula.
        UnprofilableModelError: an operator multiplies tensors of different dtypes.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.phase: Phase = "forward"
        self.memory_events: list[MemoryEvent] = []
        self.flop_events: list[FlopEvent] = []
        self.aten_ops = 0
        self._last_module = ""
        self._trail = ModuleTrail()
        self._operators: dict[Any, Operator] = {}
        self._holdings: dict[int, _Holding] = {}
        self._parameters: list[tuple[weakref.ref[Tensor], str]] = []

    @property
    def place(self) -> str:
        """Say where in the step the last operator ran, for a message."""
        return place_of(self.phase, self._last_module)

    # --- What is known before the step ---

    def follow(self, model: nn.Module) -> None:
        """Make a model's tensors known and follow its modules' calls and its gradients.

        Tensors that a module keeps as plain attributes count as buffers: they stay as long.
        """
        names = module_names(model)
        for module, name in names.items():
            for parameter in module.parameters(recurse=False):
                self._hold_new(parameter, "param", name)
                self._parameters.append((weakref.ref(parameter), name))
                if parameter.requires_grad:
                    claim = partial(self._claim_gradient, name)
                    parameter.register_post_accumulate_grad_hook(claim)  # type: ignore[no-untyped-call]
        for module, name in names.items():
            for buffer in module.buffers(recurse=False):
                self._hold_new(buffer, "buffer", name)
        for module, name in names.items():
            for value in vars(module).values():
                for tensor in tensors_in(value):
                    self._hold_new(tensor, "buffer", name)
        self._trail.follow(names)

    def hold(self, tensor: Tensor, category: Category, module: str = "") -> None:
        """Account a tensor's storage to a category, whatever it was before."""
        for storage in storages_of(tensor):
            holding = self._holdings.get(id(storage))
            if holding is None:
                self._add(storage, category, module)
            elif (holding.category, holding.module) != (category, module):
                self._log(-holding.nbytes, holding)
                holding.category, holding.module = category, module
                if category not in _CATEGORIES_OF_A_STEP:
                    holding.operator = ""
                self._log(holding.nbytes, holding)

    def hold_parameters(self) -> None:
        """Account parameters' storages anew: an optimizer may put a new one under `p.data`."""
        for reference, name in self._parameters:
            parameter = reference()
            if parameter is not None:
                self.hold(parameter, "param", name)

    def start_step(self) -> None:
        """Begin a step: nodes of the last one are gone."""
        self._trail.forget_nodes()
        self.phase = "forward"

    def close(self) -> None:
        """Let go of the model's modules and stop listening for frees."""
        self._trail.clear()
        self._holdings.clear()

    def _claim_gradient(self, module: str, parameter: Tensor) -> None:
        if parameter.grad is not None:
            self.hold(parameter.grad, "grad", module)

    def _hold_new(self, tensor: Tensor, category: Category, module: str) -> None:
        for storage in storages_of(tensor):
            if id(storage) not in self._holdings:
                self._add(storage, category, module)

    # --- What happens in the step ---

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run one operator and write down what it computed and allocated."""
        kwargs = kwargs or {}
        operator = self._operators.get(func)
        if operator is None:
            operator = self._operators[func] = describe(func)
        if operator.is_composite and operator.formula is None:
            # Reaches the mode undivided where autograd is off; only its parts have formulas.
            with self:
                return func.decompose(*args, **kwargs)
        module = self._last_module = self._module(args)
        if operator.stops_the_count or (operator.is_foreach and self.phase == "optimizer"):
            raise UncountedOperatorError(
                operator=operator.name,
                module=module,
                phase=self.phase,
                remedy=_NO_FOREACH if operator.is_foreach else "",
            )
        if operator.formula is not None:
            self._check_dtypes(operator.name, args)
        out = func(*args, **kwargs)
        self.aten_ops += operator.is_counted_op
        if operator.formula is not None or (operator.is_pointwise and self.phase == "optimizer"):
            self._count(operator, module, args, kwargs, out)
        for tensor in tensors_in(out):
            self._see(tensor, module, operator.name)
        return out

    def _check_dtypes(self, operator: str, args: tuple[Any, ...]) -> None:
        """Raise for a product of two dtypes: real tensors would, and fake ones let it pass."""
        found = {t.dtype for t in args[:3] if isinstance(t, Tensor) and _is_inexact(t.dtype)}
        if operator.startswith("aten.") and len(found) > 1:
            dtypes = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in found))
            msg = (
                f"{operator}, reached in {self.place}, is given {dtypes}, which no real step could "
                "multiply: measure with the dtype of the model, or convert the model"
            )
            raise UnprofilableModelError(msg)

    def _count(
        self,
        operator: Operator,
        module: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        out: Any,
    ) -> None:
        kwargs = {**kwargs, "out": out}
        if operator.formula is None:
            flops = sum(tensor.numel() for tensor in tensors_in(out))
        else:
            flops = checked_flops(operator.formula(*args, **kwargs), operator.name, self.place)
        paper = operator.paper_formula
        paper_flops = paper(*args, **kwargs) if paper is not None else 0
        phase = self.phase
        if phase == "optimizer" and operator.is_svd:
            phase = "projection"
        if flops or paper_flops:
            self.flop_events.append(FlopEvent(phase, module, operator.name, flops, paper_flops))

    def _see(self, tensor: Tensor, module: str, operator: str) -> None:
        for storage in storages_of(tensor):
            holding = self._holdings.get(id(storage))
            if holding is None:
                self._add(storage, _CATEGORY_OF_PHASE[self.phase], module, operator)
            elif (nbytes := storage.nbytes()) != holding.nbytes:
                self._log(nbytes - holding.nbytes, holding)
                holding.nbytes = nbytes

    def _module(self, args: tuple[Any, ...]) -> str:
        if self.phase == "optimizer":
            return self._module_of_operands(args)
        # A module may run inside the backward pass: checkpointing computes activations anew.
        module = self._trail.current()
        if self.phase == "backward" and not module:
            node: Any = torch._C._current_autograd_node()  # noqa: SLF001
            if node is None:
                return ""
            parameter = getattr(node, "variable", None)
            if parameter is not None:  # AccumulateGrad, which has no place in the numbering
                return self._module_of_operands((parameter,))
            return self._trail.owner(node)
        return module

    def _module_of_operands(self, args: tuple[Any, ...]) -> str:
        """Name the module of the first operand that has one: state follows its parameter."""
        for tensor in tensors_in(args):
            for storage in storages_of(tensor):
                holding = self._holdings.get(id(storage))
                if holding is not None and holding.module:
                    return holding.module
        return ""

    # --- The log ---

    def _add(
        self, storage: UntypedStorage, category: Category, module: str, operator: str = ""
    ) -> None:
        holding = _Holding(storage, self._free)
        holding.key = id(storage)
        holding.nbytes = storage.nbytes()
        holding.category = category
        holding.module = module
        holding.operator = operator
        self._holdings[holding.key] = holding
        self._log(holding.nbytes, holding)

    def _free(self, holding: weakref.ref[UntypedStorage]) -> None:
        assert isinstance(holding, _Holding)  # noqa: S101 - narrows what weakref hands back
        self._holdings.pop(holding.key, None)
        self._log(-holding.nbytes, holding)

    def _log(self, delta_bytes: int, holding: _Holding) -> None:
        if delta_bytes:
            self.memory_events.append(
                MemoryEvent(delta_bytes, holding.category, holding.module, holding.operator)
            )


def _is_inexact(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point or dtype.is_complex
