"""Measure the most memory that processes take for real training steps, against the prediction.

    python tools/studies/process_peak.py               # cases of each network, method and batch
    python tools/studies/process_peak.py lora-r4/resnet18:8x3x96x96 ...
    python tools/studies/process_peak.py --usual ...   # without `ALLOCATOR`

Each case is a process of its own, as a device would run it: one thread, nothing but the libraries
that its method needs, and the allocator set as the prediction wants it. It takes three real steps
and reads the peak of its memory in /proc, which counts Python, the libraries and their code. The
prediction is `process_bytes` of the step's `peak_bytes`. What the smallest steps take beside their
tensors is what `devices.RUNTIME_BYTES` says. Linux with glibc only; the figures depend on the
machine and on the releases.

Pages of files, which are the libraries' code, count as `CODE_BYTES`. How many of them are mapped
depends on the page cache (here 105 to 221 MiB), and the system drops them where memory is short.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from peft_regress.cases import Adaptation, split_adapter_name
from peft_regress.project.devices import ALLOCATOR, process_bytes, runtime_of

NETWORKS: Final = (
    "shufflenet_v2_x0_5",
    "mobilenet_v3_small",
    "mobilenet_v2",
    "efficientnet_lite0",
    "resnet18",
)
METHODS: Final = ("full", "head", "lora-r4", "dora-r4", "galore-r4")
SHAPES: Final = ("1x3x96x96", "1x3x224x224", "8x3x160x160", "32x3x96x96", "32x3x128x128")
SMALLEST: Final = ("full/shufflenet_v2_x0_5:1x3x32x32", "lora-r4/shufflenet_v2_x0_5:1x3x32x32")
MIB: Final = 2**20
CODE_BYTES: Final = {"eager": 109 * MIB, "galore": 115 * MIB, "peft": 129 * MIB}
"""Pages of files that the smallest steps map, where the page cache maps the fewest."""
_CLASSES: Final = 10
_STEPS: Final = 3


class Peak(NamedTuple):
    """The peak of a case in bytes: of the step's tensors, and of the process."""

    case: str
    tensors: int
    predicted: int
    measured: int

    @property
    def difference(self) -> float:
        """By how much the process took more than predicted, relative to the prediction."""
        return self.measured / self.predicted - 1


def peak_of(case: str, allocator: str = ALLOCATOR) -> Peak:
    """Profile the step of a case, and run it in a process of its own.

    case: such as `lora-r4/resnet18:8x3x96x96`; allocator: its settings, as a shell has them.
    """
    tensors = predicted_tensors(case)
    settings = dict(one.split("=") for one in allocator.split())
    done = subprocess.run(
        [sys.executable, __file__, "--run", case],
        env={**os.environ, **settings, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        check=True,
    )
    runtime = runtime_of(adaptation(case).method)
    measured = int(done.stdout.split()[-1]) + CODE_BYTES[runtime]
    return Peak(case, tensors, process_bytes(tensors, runtime), measured)


def predicted_tensors(case: str) -> int:
    """Return `peak_bytes` of the step of a case."""
    from peft_regress.measure.costs import CostSettings, adaptation_cost

    batch, _, resolution, _ = shape_of(case)
    settings = CostSettings(batch=batch, resolution=resolution, classes=_CLASSES)
    return adaptation_cost(adaptation(case), settings).step.peak_bytes


def adaptation(case: str) -> Adaptation:
    """Return the method on its network."""
    adapter, _, network = case.partition(":")[0].partition("/")
    method, rank = split_adapter_name(adapter)
    return Adaptation(method=method, architecture=network, rank=rank)


def shape_of(case: str) -> tuple[int, ...]:
    """Return the shape of the images."""
    return tuple(int(size) for size in case.partition(":")[2].split("x"))


def real_step(case: str) -> Callable[[], None]:
    """Make all that the step of a case needs, and return the step."""
    import torch

    from peft_regress import registry

    names, shape = adaptation(case), shape_of(case)
    network: Any = registry.get("architecture", names.architecture)
    method: Any = registry.get("method", names.method).at(names.rank, heads=(network.head,))
    model = method.adapt(network.build(num_classes=_CLASSES, seed=0), seed=0)
    method.set_mode(model)
    optimizer = method.make_optimizer(model)
    images, labels = torch.randn(shape), torch.zeros(shape[0], dtype=torch.int64)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def take_steps(case: str) -> None:
    """Take the steps in this process, and print the peak of its memory without pages of files."""
    import torch

    torch.set_num_threads(1)
    step = real_step(case)
    for _ in range(_STEPS):
        step()
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak, files = (int(status.partition(name)[2].split()[0]) for name in ("VmHWM:", "RssFile:"))
    print(1024 * (peak - files))


def square() -> list[str]:
    """Return each method on each network, so that each meets each shape once."""
    return [
        f"{method}/{network}:{SHAPES[(row + column) % len(SHAPES)]}"
        for row, method in enumerate(METHODS)
        for column, network in enumerate(NETWORKS)
    ]


def main(cases: list[str]) -> None:
    """Print the table, or be the process of one case."""
    if cases[:1] == ["--run"]:
        take_steps(cases[1])
        return
    allocator = "" if "--usual" in cases else ALLOCATOR
    cases = [case for case in cases if case != "--usual"]
    print("| method | network | images | tensors, MiB | predicted, MiB | measured, MiB | % more |")
    print("| --- | --- | --- | ---: | ---: | ---: | ---: |")
    for case in cases or square():
        peak = peak_of(case, allocator)
        sizes = (f"{size / MIB:,.0f}" for size in peak[1:])
        cells = (*case.replace(":", "/").split("/"), *sizes, f"{100 * peak.difference:+.1f}")
        print(f"| {' | '.join(cells)} |", flush=True)
    for case in () if cases else SMALLEST:
        peak = peak_of(case, allocator)
        rest = (peak.measured - peak.tensors) / MIB
        print(f"\n{case}: {rest:.0f} MiB beside the tensors", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
