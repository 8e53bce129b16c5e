"""The tensors that an operator takes or returns, their storages, and the bytes of those alive."""

import weakref
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

import torch
from torch import Tensor, UntypedStorage, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass

from peft_regress.cost.step_cost import Category, Use
from peft_regress.gc_pause import paused_gc

Result = TypeVar("Result")

_CONTAINERS = (list, tuple, dict)
_TENSORS_OR_CONTAINERS = (Tensor, *_CONTAINERS)

# Nearly every tensor of a step is of one of these, so they are told apart first.
_OF_ONE_STORAGE = frozenset({FakeTensor, Tensor, nn.Parameter})

_PARTS: Final = {
    torch.sparse_coo: ("_indices", "_values"),
    torch.sparse_csr: ("crow_indices", "col_indices", "values"),
    torch.sparse_csc: ("ccol_indices", "row_indices", "values"),
}
"""The methods that return the parts of a sparse tensor, by its layout."""


class Holding(weakref.ref["UntypedStorage"]):
    """A storage that is alive, and its account."""

    __slots__ = ("category", "key", "module", "nbytes", "operator", "used", "uses")
    key: int
    nbytes: int
    category: Category
    module: str
    operator: str
    used: int
    """After how many events of the log the forward pass has used it last."""
    uses: list[Use | None]
    """In the backward pass; None is one that needs it as it is."""


def tensors_in(value: Any) -> list[Tensor]:
    """Return a tensor, or the tensors in a container and in its containers."""
    found: list[Tensor] = []
    _add_tensors(value, found)
    return found


def _add_tensors(value: Any, found: list[Tensor]) -> None:
    if isinstance(value, Tensor):
        found.append(value)
    elif isinstance(value, _CONTAINERS):
        for item in value.values() if isinstance(value, dict) else value:
            # Most arguments are numbers.
            if isinstance(item, _TENSORS_OR_CONTAINERS):
                _add_tensors(item, found)


def storages_of(tensor: Tensor) -> Iterable[UntypedStorage]:
    """Return the storages of a tensor, or of the tensors that a subclass wraps."""
    if type(tensor) in _OF_ONE_STORAGE and tensor.layout is torch.strided:
        return (tensor.untyped_storage(),)
    wrapper: Any = tensor
    if is_traceable_wrapper_subclass(wrapper):
        names, _ = wrapper.__tensor_flatten__()
        return [s for name in names for s in storages_of(getattr(wrapper, name))]
    try:
        return (tensor.untyped_storage(),)
    except NotImplementedError:
        with torch._C._DisableTorchDispatch():  # noqa: SLF001
            parts = [getattr(tensor, name)() for name in _PARTS[tensor.layout]]
        return [part.untyped_storage() for part in parts]


def has_parts(cls: type[Tensor]) -> bool:
    """Return whether a subclass of Tensor computes with tensors that it wraps."""
    return cls is not FakeTensor and cls.__torch_dispatch__ is not Tensor.__torch_dispatch__


def peak_while(action: Callable[[], Result], model: nn.Module) -> tuple[Result, int | None]:
    """Run code, and return also the most bytes alive at one moment, those of the model included.

    What else existed before counts from its first use on. As with the step recorder, what an
    operator allocates for itself does not count. The code computes the same as without.

    The peak is None if the code cannot be watched: then it runs once more, unwatched.
    """
    watch = _AliveBytes()
    watch.count((*model.parameters(), *model.buffers()))
    try:
        with paused_gc(), watch:
            result = action()
    except Exception:  # noqa: BLE001  (an error of the code's own comes again)
        return action(), None
    finally:
        watch.forget()
    return result, watch.peak_bytes


class _AliveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operands and results while it is the active mode; keeps no tensor alive."""

    supports_higher_order_operators = True

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Let what is compiled stay so: else torch would never compile it again."""
        return True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak_bytes = 0
        self._alive_bytes = 0
        self._holdings: dict[int, Holding] = {}

    def count(self, tensors: Iterable[Tensor]) -> None:
        for storage in (one for tensor in tensors for one in storages_of(tensor)):
            holding = self._holdings.get(id(storage))
            if holding is None:
                holding = self._holdings[id(storage)] = Holding(storage, self._free)
                holding.key, holding.nbytes = id(storage), 0
            nbytes = storage.nbytes()
            self._alive_bytes += nbytes - holding.nbytes
            holding.nbytes = nbytes
        self.peak_bytes = max(self.peak_bytes, self._alive_bytes)

    def forget(self) -> None:
        self._holdings.clear()

    def _free(self, holding: weakref.ref[UntypedStorage]) -> None:
        assert isinstance(holding, Holding)  # noqa: S101 - narrows what weakref hands back
        self._holdings.pop(holding.key, None)
        self._alive_bytes -= holding.nbytes

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(map(has_parts, types)):
            return NotImplemented  # its inner tensors are dispatched here one by one
        kwargs = kwargs or {}
        self.count(tensors_in((args, kwargs)))
        result = func(*args, **kwargs)
        self.count(tensors_in(result))
        return result
