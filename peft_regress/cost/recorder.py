"""Record what a training step computes and allocates, by a torch dispatch mode.

The log is append-only; `step_cost` evaluates it afterwards. Categories follow
`torch.distributed._tools.mem_tracker.MemTracker`, which cannot follow a model with frozen
parameters.
"""

import weakref
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, UntypedStorage, nn
from torch._ops import HigherOrderOperator
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakTensorKeyDictionary

from peft_regress.cost.formulas import UncountedOperatorError, location_of
from peft_regress.cost.module_trail import ModuleTrail, module_names
from peft_regress.cost.operators import Operator, describe
from peft_regress.cost.refusals import NeedsValuesError, UnprofilableModelError
from peft_regress.cost.step_cost import ByteSite, Category, FlopSite, Mark, Phase, Spare, Use
from peft_regress.cost.storages import Holding, has_parts, storages_of, tensors_in

Args: TypeAlias = tuple[Any, ...]
Kwargs: TypeAlias = dict[str, Any]

_CATEGORY_OF_PHASE: dict[Phase, Category] = {
    "forward": "activation",
    "backward": "temp",
    "optimizer": "optimizer",
}

_CATEGORIES_OF_A_STEP = frozenset({"grad", *_CATEGORY_OF_PHASE.values()})


class StepRecorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Record FLOPs and memory by category and module while it is the innermost dispatch mode.

    Set `phase` as the step goes on. Announce tensors that are alive before the step with `hold`.
    The recorder follows storages by weak references, so it keeps nothing alive.

    Raises:
        UncountedOperatorError: an operator does matrix work and has no formula.
        NeedsValuesError: a tensor is sparse, and this is a step on fake tensors.
        UnprofilableModelError: a tensor is of another layout, or an operator hides the work of
            functions.
    """

    supports_higher_order_operators = True
    """They are dispatched here, which refuses them by name."""

    def __init__(self, mode: FakeTensorMode | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._mode = mode
        self.phase: Phase = "forward"
        self.memory_log: list[ByteSite] = []
        self.flop_log: list[FlopSite] = []
        self.spares: list[Spare] = []
        self.copies: dict[int, int] = {}
        self.aten_ops = 0
        self._last_module = ""
        self._trail = ModuleTrail()
        self._operators: dict[Any, Operator] = {}
        self._holdings: dict[int, Holding] = {}
        self._parameters: list[tuple[weakref.ref[Tensor], str]] = []
        self._constants = WeakTensorKeyDictionary()
        self._handles: list[RemovableHandle] = []

    @property
    def location(self) -> str:
        """Describe where in the step the last operator ran, for a message."""
        return location_of(self.phase, self._last_module)

    def mark(self) -> Mark:
        """Return the current end of the log."""
        return Mark(len(self.memory_log), len(self.flop_log), self.aten_ops)

    def follow(self, model: nn.Module) -> None:
        """Account for a model's tensors, and follow the calls of its modules and its gradients.

        Tensors that a module keeps as plain attributes count as buffers: they live as long.
        """
        names = module_names(model)
        for module, name in names.items():
            for parameter in module.parameters(recurse=False):
                self._hold_new(parameter, "param", name)
                self._parameters.append((weakref.ref(parameter), name))
                if parameter.requires_grad:
                    claim = partial(self._claim_gradient, name)
                    handle = parameter.register_post_accumulate_grad_hook(claim)  # type: ignore[no-untyped-call]
                    self._handles.append(handle)
        for module, name in names.items():
            for buffer in module.buffers(recurse=False):
                self._hold_new(buffer, "buffer", name)
        for module, name in names.items():
            for value in vars(module).values():
                for tensor in tensors_in(value):
                    self._hold_new(tensor, "buffer", name)
        self._follow_calls(names)

    def _follow_calls(self, names: dict[nn.Module, str]) -> None:
        self._trail.follow(names)

    def hold(self, tensor: Tensor, category: Category, module: str = "") -> None:
        """Account a tensor's storage to a category, whatever its category was before."""
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
        """Account for parameters again: an optimizer may put a new storage under `p.data`."""
        for reference, name in self._parameters:
            parameter = reference()
            if parameter is not None:
                self.hold(parameter, "param", name)

    def start_step(self) -> None:
        """Begin a step: the nodes of the last one are gone."""
        self._trail.clear_nodes()
        self.phase = "forward"

    def close(self) -> None:
        """Remove the hooks from the model and stop listening for frees."""
        self._trail.clear()
        for handle in self._handles:
            handle.remove()
        self._holdings.clear()
        self._constants.clear()

    def _claim_gradient(self, module: str, parameter: Tensor) -> None:
        if parameter.grad is not None:
            self.hold(parameter.grad, "grad", module)

    def _hold_new(self, tensor: Tensor, category: Category, module: str) -> None:
        for storage in storages_of(tensor):
            if id(storage) not in self._holdings:
                self._add(storage, category, module)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, HigherOrderOperator):
            raise UnprofilableModelError(
                f"{func}, reached in {self.location}, is a higher-order operator, such as "
                "torch.cond, which hides the work of its functions. Call them in Python instead"
            )
        if any(map(has_parts, types)):
            return NotImplemented  # its inner tensors are dispatched here one by one
        operator = self._operators.get(func)
        if operator is None:
            operator = self._operators[func] = describe(func)
        if operator.is_composite and operator.formula is None:
            # With autograd off it arrives undivided; only its parts have formulas.
            with self:
                return func.decompose(*args, **kwargs)
        module = self._before(operator, args, kwargs)
        out = func(*args, **kwargs)
        self._after(operator, module, args, kwargs, out)
        return out

    def _before(self, operator: Operator, args: Args, kwargs: Kwargs) -> str:
        """Return the module that an operator works for; account for its operands."""
        module = self._last_module = self._module(args)
        self._check(operator, module, args, kwargs)
        return module

    def _after(self, operator: Operator, module: str, args: Args, kwargs: Kwargs, out: Any) -> None:
        """Count the work of an operator that has run, and account for its results."""
        if operator.real_sizes is not None and self._mode is not None:
            for tensor, nbytes in operator.real_sizes(args, out):
                storage = tensor.untyped_storage()
                if tensor.device.type == "cpu" and storage.nbytes() < nbytes:
                    storage.resize_(nbytes)
        self.aten_ops += operator.is_counted_op
        is_update = self.phase == "optimizer"
        if operator.uses_operands and not (operator.is_view or is_update):
            self._note_uses(operator, module, args)
        parts = [(module, args, out)]
        if operator.is_over_many and is_update:
            tensors = next(arg for arg in args if isinstance(arg, list))
            parts = [
                (self._module_of_operands((one,)), ([one], *args[1:]), result)
                for one, result in zip(tensors, out or tensors, strict=True)
            ]
        for where, some, result in parts:
            if operator.formula is not None or (operator.is_pointwise and is_update):
                self._count(operator, where, some, kwargs, result)
            for tensor in tensors_in(result):
                self._check_layout(tensor, operator.name)
                self._hold_result(tensor, where, operator.name)
        if operator.copies is not None:
            self.copies[len(self.memory_log)] = operator.copies(args, out)

    def _note_uses(self, operator: Operator, module: str, args: Args) -> None:
        """Note which activations an operator uses, and how much of each would do."""
        enough = operator.enough
        sizes = enough.sizes(args) if enough is not None and self.phase == "backward" else {}
        for position, arg in enumerate(args):
            for tensor in tensors_in(arg):
                for storage in storages_of(tensor):
                    holding = self._holdings.get(id(storage))
                    if holding is None or not holding.operator:
                        continue
                    if self.phase == "forward":
                        holding.used = len(self.memory_log)
                    elif enough is not None and position in sizes:
                        size = sizes[position] * tensor.numel()
                        holding.uses.append(Use(module, enough.operator, size))
                    else:
                        holding.uses.append(None)

    def _check(self, operator: Operator, module: str, args: Args, kwargs: Kwargs) -> None:
        """Refuse what cannot be recorded; hold operands that existed before, as buffers."""
        for tensor in tensors_in((args, kwargs)) if operator.uses_operands else ():
            self._check_layout(tensor, operator.name)
            held = tensor
            if self._mode is not None and not isinstance(tensor, FakeTensor):
                # Such as a constant in a closure. Its stand-in must live as long as the tensor, or
                # every use would make a new one.
                held = self._constants[tensor] = self._mode.from_tensor(tensor)
            self._hold_new(held, "buffer", module)
        remedy = operator.many_tensors_remedy
        if operator.stops_the_count or (remedy and self.phase == "optimizer"):
            raise UncountedOperatorError(
                operator=operator.name, module=module, phase=self.phase, remedy=remedy
            )

    def _check_layout(self, tensor: Tensor, operator: str) -> None:
        """Refuse a tensor whose storages are not known."""
        if tensor.layout is torch.sparse_coo:
            if self._mode is not None:
                raise NeedsValuesError(
                    f"{operator}, reached in {self.location}, takes or makes a sparse tensor, "
                    "whose bytes depend on values. Pass fake=False to run the step for real."
                )
        elif tensor.is_nested or tensor.layout is not torch.strided:
            layout = "nested" if tensor.is_nested else tensor.layout
            raise UnprofilableModelError(
                f"{operator}, reached in {self.location}, takes or makes a tensor of the layout "
                f"{layout}, so its bytes and products are unknown: use a dense one"
            )

    def _count(self, operator: Operator, module: str, args: Args, kwargs: Kwargs, out: Any) -> None:
        kwargs = {**kwargs, "out": out}
        if operator.formula is None:
            flops = sum(tensor.numel() for tensor in tensors_in(out))
        else:
            flops = int(operator.formula(*args, **kwargs))
        paper = operator.paper_formula
        paper_flops = paper(*args, **kwargs) if paper is not None else 0
        phase = self.phase
        if phase == "optimizer" and operator.is_svd:
            phase = "projection"
        if flops or paper_flops:
            self.flop_log.append(FlopSite(phase, module, operator.name, flops, paper_flops))

    def _hold_result(self, tensor: Tensor, module: str, operator: str) -> None:
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
        # A module may run inside the backward pass: checkpointing computes activations again.
        module = self._trail.current()
        if self.phase == "backward" and not module:
            node: Any = torch._C._current_autograd_node()  # noqa: SLF001
            if node is None:
                return ""
            parameter = getattr(node, "variable", None)
            if parameter is not None:  # AccumulateGrad, which is not numbered
                return self._module_of_operands((parameter,))
            return self._trail.owner(node)
        return module

    def _module_of_operands(self, args: tuple[Any, ...]) -> str:
        """Return the module of the first operand that has one: state belongs to its parameter."""
        for tensor in tensors_in(args):
            for storage in storages_of(tensor):
                holding = self._holdings.get(id(storage))
                if holding is not None and holding.module:
                    return holding.module
        return ""

    def _add(
        self, storage: UntypedStorage, category: Category, module: str, operator: str = ""
    ) -> None:
        holding = Holding(storage, self._free)
        holding.key = id(storage)
        holding.nbytes = storage.nbytes()
        holding.category = category
        holding.module = module
        holding.operator = operator
        holding.used = len(self.memory_log) + 1
        holding.uses = []
        self._holdings[holding.key] = holding
        self._log(holding.nbytes, holding)

    def _free(self, holding: weakref.ref[UntypedStorage]) -> None:
        assert isinstance(holding, Holding)  # noqa: S101 - narrows what weakref hands back
        self._holdings.pop(holding.key, None)
        self._log(-holding.nbytes, holding)
        uses = [use for use in holding.uses if use is not None]
        # What lives on after the backward pass is kept by others.
        if len(uses) == len(holding.uses) > 0 and self.phase == "backward":
            freed = len(self.memory_log)
            self.spares.append(Spare(holding.used, freed, holding.nbytes, tuple(uses)))

    def _log(self, delta_bytes: int, holding: Holding) -> None:
        if delta_bytes:
            site = ByteSite(holding.category, holding.module, holding.operator, delta_bytes)
            self.memory_log.append(site)
