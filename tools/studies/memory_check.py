"""Compare the peak of the step recorder with that of the CPU allocator in real training steps.

    python tools/studies/memory_check.py

Prints the difference between `peak_bytes` and the allocator's own peak, for each architecture and
method. The allocator counts every byte that somebody requests, including buffers inside an
operator. The step recorder does not see those. They depend on the machine and on the release of
oneDNN, and so does the table.
"""

import gc
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple

import torch
from named_steps import real_step, recorded
from torch._C._profiler import _EventType, _RecordFunctionFast
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

ARCHITECTURES: Final = (
    *("resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0"),
    *("shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "squeezenet1_1", "mnasnet1_0"),
    *("convnext_tiny", "regnet_y_400mf", "vit_b_16", "swin_t"),
)
METHODS: Final = ("full", "head", "lora-r4")

_MARK: Final = "recorder sees: "
_MEASURED: Final = "measured step"
# A Python number that takes part in an operator becomes a tensor of this size at most, in C++.
_NUMBER_BYTES: Final = 8


@dataclass(frozen=True, kw_only=True)
class AllocatorPeak:
    """The most that the CPU allocator had given out at one moment of a step, in bytes."""

    peak_bytes: int
    """Everything."""
    tensor_peak_bytes: int
    """The peak without the two below: what a step recorder can see."""
    own_bytes: Mapping[str, int]
    """By operator, what it allocates and frees before it returns; at the peak."""
    number_bytes: int
    """Python numbers that autograd has saved as tensors of 8 bytes or fewer; at the peak."""


class _Call(NamedTuple):
    """One operator call, as the profiler timed it."""

    operator: str
    start_ns: int


@dataclass(kw_only=True)
class _Block:
    """What one allocation takes, and the calls that it was allocated and freed in."""

    size_bytes: int
    born_ns: int
    born_in: _Call | None
    freed_ns: float = math.inf
    freed_in: _Call | None = None

    @property
    def unseen(self) -> str | None:
        """The operator that frees it as well, '' of a number; None if a recorder sees it."""
        if self.born_in is None:
            return "" if self.size_bytes <= _NUMBER_BYTES else None
        return self.born_in.operator if self.born_in == self.freed_in else None


class _Marks(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Mark in the profile what reaches a dispatch mode: the operators that a recorder sees."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        with _RecordFunctionFast(f"{_MARK}{func._overloadpacket}"):  # noqa: SLF001
            return func(*args, **(kwargs or {}))


def allocator_peak(make_step: Callable[[], Callable[[], object]]) -> AllocatorPeak:
    """Run a real training step twice, and measure the second one by the allocator's own events.

    Args:
        make_step: makes all that the step needs, model and data too, and returns the step. It runs
            under the profiler, so that the allocator's events cover everything that exists.
    """
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step = make_step()
        step()
        gc.collect()
        gc.disable()
        try:
            with _RecordFunctionFast(_MEASURED), _Marks():  # type: ignore[no-untyped-call]
                step()
        finally:
            gc.enable()
    del step
    roots = profiler.profiler.kineto_results.experimental_event_tree()
    return _peak(*_blocks(roots))


def _blocks(roots: Sequence[Any]) -> tuple[list[_Block], int]:
    """Return what the profiler's tree allocates, and when the measured step starts."""
    events: list[tuple[Any, _Call | None]] = []
    start_ns = 0
    waiting: list[tuple[Any, _Call | None]] = [(root, None) for root in roots]
    while waiting:
        node, call = waiting.pop()
        if node.tag == _EventType.Allocation:
            events.append((node, call))
        elif node.name == _MEASURED:
            start_ns = node.start_time_ns
        elif node.name.startswith(_MARK):
            call = _Call(node.name.removeprefix(_MARK), node.start_time_ns)
        waiting.extend((child, call) for child in node.children)
    blocks: list[_Block] = []
    alive: dict[int, _Block] = {}
    for node, call in sorted(events, key=lambda event: event[0].start_time_ns):
        time_ns, fields = node.start_time_ns, node.extra_fields
        size, address = fields.alloc_size, fields.ptr
        if size >= 0:
            alive[address] = _Block(size_bytes=size, born_ns=time_ns, born_in=call)
            blocks.append(alive[address])
        elif address in alive:  # else it was allocated before the first event
            block = alive.pop(address)
            block.freed_ns, block.freed_in = time_ns, call
    return blocks, start_ns


def _peak(blocks: Sequence[_Block], start_ns: int) -> AllocatorPeak:
    changes: list[tuple[float, int, str | None]] = []
    for block in blocks:
        unseen = block.unseen if block.born_ns >= start_ns else None
        changes.append((block.born_ns, block.size_bytes, unseen))
        changes.append((block.freed_ns, -block.size_bytes, unseen))
    total = tensors = peak = tensor_peak = 0
    held: Counter[str] = Counter()
    at_peak: Counter[str] = Counter()
    for time_ns, size, unseen in sorted(changes, key=lambda change: change[0]):
        total += size
        if unseen is None:
            tensors += size
        else:
            held[unseen] += size
        if time_ns < start_ns:
            peak, tensor_peak = total, tensors
        tensor_peak = max(tensor_peak, tensors)
        if total > peak:
            peak, at_peak = total, held.copy()
    return AllocatorPeak(
        peak_bytes=peak,
        tensor_peak_bytes=tensor_peak,
        own_bytes={name: size for name, size in at_peak.items() if name and size},
        number_bytes=at_peak[""],
    )


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print("| architecture | " + " | ".join(METHODS) + " |\n| --- |" + " ---: |" * len(METHODS))
    for name in ARCHITECTURES:
        shares = []
        for method in METHODS:
            case = f"{method}/{name}:2x3x224x224"
            # First: to import peft allocates a few tensors as well.
            predicted = recorded(case).at_batch(2).cost().peak_bytes
            shares.append(predicted / allocator_peak(partial(real_step, case)).peak_bytes - 1)
        print(f"| {name} | " + " | ".join(f"{100 * share:.2f} %" for share in shares) + " |")


if __name__ == "__main__":
    main()
