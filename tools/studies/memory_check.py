"""Compare the peak of the step recorder with that of the CPU allocator in real training steps.

    python tools/studies/memory_check.py

Prints the difference between `peak_bytes` and the allocator's own peak, for each architecture and
method. The allocator counts every byte that somebody requests, including buffers inside an
operator. The step recorder does not see those. They depend on the machine and on the release of
oneDNN, and so does the table.
"""

import gc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple

import torch
from process_peak import predicted_tensors, real_step
from torch._C._profiler import _EventType, _RecordFunctionFast
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

ARCHITECTURES: Final = (
    "resnet18",
    "resnet50",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "shufflenet_v2_x0_5",
    "shufflenet_v2_x1_0",
    "squeezenet1_1",
    "mnasnet1_0",
    "convnext_tiny",
    "regnet_y_400mf",
    "vit_b_16",
    "swin_t",
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


class _Event(NamedTuple):
    """One allocation, or a free with negative bytes, and the call that it happened in."""

    time_ns: int
    delta_bytes: int
    address: int
    call: _Call | None


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
    return _peak(*_events(roots))


def _events(roots: Sequence[Any]) -> tuple[list[_Event], int]:
    """Flatten the profiler's tree: all allocator events in order, and how many come before."""
    events: list[_Event] = []
    start_ns = 0
    waiting: list[tuple[Any, _Call | None]] = [(root, None) for root in roots]
    while waiting:
        node, call = waiting.pop()
        if node.tag == _EventType.Allocation:
            fields = node.extra_fields
            events.append(_Event(node.start_time_ns, fields.alloc_size, fields.ptr, call))
        elif node.name == _MEASURED:
            start_ns = node.start_time_ns
        elif node.name.startswith(_MARK):
            call = _Call(node.name.removeprefix(_MARK), node.start_time_ns)
        waiting.extend((child, call) for child in node.children)
    events.sort(key=lambda event: event.time_ns)
    events = list(_without_older_memory(events))
    return events, sum(event.time_ns < start_ns for event in events)


def _without_older_memory(events: Iterable[_Event]) -> Iterator[_Event]:
    """Yield the events without frees of what was allocated before the first of them."""
    alive: set[int] = set()
    for event in events:
        if event.delta_bytes >= 0:
            alive.add(event.address)
        elif event.address not in alive:
            continue
        else:
            alive.remove(event.address)
        yield event


def _peak(events: Sequence[_Event], start: int) -> AllocatorPeak:
    unseen = dict(_unseen(events, start))
    total = sum(event.delta_bytes for event in events[:start])
    tensors = total
    peak = tensor_peak = total
    held: Counter[str] = Counter()
    at_peak: Counter[str] = Counter()
    for index, event in enumerate(events[start:], start):
        total += event.delta_bytes
        if index in unseen:
            held[unseen[index]] += event.delta_bytes
        else:
            tensors += event.delta_bytes
        tensor_peak = max(tensor_peak, tensors)
        if total > peak:
            peak, at_peak = total, held.copy()
    return AllocatorPeak(
        peak_bytes=peak,
        tensor_peak_bytes=tensor_peak,
        own_bytes={name: size for name, size in at_peak.items() if name and size},
        number_bytes=at_peak[""],
    )


def _unseen(events: Sequence[_Event], start: int) -> Iterator[tuple[int, str]]:
    """Find the events of the step that no recorder sees, with their operator; '' for numbers."""
    born: dict[int, int] = {}
    for index, event in enumerate(events[start:], start):
        if event.delta_bytes >= 0:
            born[event.address] = index
            if event.call is None and event.delta_bytes <= _NUMBER_BYTES:
                yield index, ""
            continue
        birth = born.pop(event.address, None)
        if birth is None:
            continue  # it existed before the step
        call = events[birth].call
        if call is None and -event.delta_bytes <= _NUMBER_BYTES:
            yield index, ""
        elif call is not None and call == event.call:
            yield birth, call.operator
            yield index, call.operator


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print("| architecture | " + " | ".join(METHODS) + " |\n| --- |" + " ---: |" * len(METHODS))
    for name in ARCHITECTURES:
        shares = []
        for method in METHODS:
            case = f"{method}/{name}:2x3x224x224"
            # First: to import peft allocates a few tensors as well.
            recorded = predicted_tensors(case)
            shares.append(recorded / allocator_peak(partial(real_step, case)).peak_bytes - 1)
        print(f"| {name} | " + " | ".join(f"{100 * share:.2f} %" for share in shares) + " |")


if __name__ == "__main__":
    main()
