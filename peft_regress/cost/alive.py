"""Count the bytes of the tensors that are alive while code runs for real.

For code that no step recorder can follow, such as an evaluation: it counts, and judges nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor, UntypedStorage, nn
from torch.utils._python_dispatch import TorchDispatchMode

from peft_regress.cost.storages import Holding, has_parts, storages_of, tensors_in
from peft_regress.gc_pause import paused_gc

if TYPE_CHECKING:
    import weakref

    Result = TypeVar("Result")


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
        for tensor in tensors:
            for storage in storages_of(tensor):
                self._hold(storage)
        self.peak_bytes = max(self.peak_bytes, self._alive_bytes)

    def forget(self) -> None:
        self._holdings.clear()

    def _hold(self, storage: UntypedStorage) -> None:
        holding = self._holdings.get(id(storage))
        if holding is None:
            holding = self._holdings[id(storage)] = Holding(storage, self._free)
            holding.key, holding.nbytes = id(storage), 0
        nbytes = storage.nbytes()
        self._alive_bytes += nbytes - holding.nbytes
        holding.nbytes = nbytes

    def _free(self, holding: weakref.ref[UntypedStorage]) -> None:
        assert isinstance(holding, Holding)  # noqa: S101 - narrows what weakref hands back
        self._holdings.pop(holding.key, None)
        self._alive_bytes -= holding.nbytes

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if any(map(has_parts, types)):
            return NotImplemented  # its inner tensors are dispatched here one by one
        kwargs = kwargs or {}
        self.count(tensors_in((args, kwargs)))
        result = func(*args, **kwargs)
        self.count(tensors_in(result))
        return result
