"""Run real training steps in processes that may hold little more than the predicted peak.

    python tools/studies/memory_limit.py

A process builds a case and takes one small step, so that code and kernels are loaded. Then the
system limits its private memory (RLIMIT_DATA) to what it holds plus what `peak_bytes` predicts
beyond that, times a factor, plus a fixed part; and it takes three real steps. The table has the
smallest factor that each case needs, by bisection: below it the step ends in an error of the
allocator. Linux only. The figures depend on the machine and on the release of torch.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any, Final

ARCHITECTURES: Final = ("resnet18", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x0_5")
METHODS: Final = ("full", "head", "lora-r4", "dora-r4", "galore-r4")
BATCHES: Final = (1, 32)
FIXED_BYTES: Final = 4 * 2**20
"""What a process gets beside the factor: Python's own objects, and the allocator's book-keeping."""

_CLASSES: Final = 10
_STEPS: Final = 3
_HIGHEST: Final = 6.0
_ACCURACY: Final = 0.02
_MEMORY_ERROR: Final = 3
# What the allocators of torch and of oneDNN say.
_NO_MEMORY: Final = ("memory", "could not create a primitive")
# Large blocks come from the system and go back to it at once, so that what is held is what is used.
_ALLOCATOR: Final = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}


def needed_factor(*setting: str) -> float:
    """Return the smallest factor under which the steps run, to `_ACCURACY`."""
    predicted = predicted_peak(*setting)
    low, high = 0.0, _HIGHEST
    while high - low > _ACCURACY:
        # Most need little more than what is predicted, so the search starts there.
        middle = 1.1 if high == _HIGHEST and low < 1.1 else (low + high) / 2
        done = subprocess.run(
            [sys.executable, __file__, "--limited", *setting, str(middle), str(predicted)],
            env={**os.environ, **_ALLOCATOR, "OMP_NUM_THREADS": "1"},
            check=False,
        )
        if done.returncode not in {0, _MEMORY_ERROR}:
            raise SystemExit(f"{setting}: exit code {done.returncode}")
        low, high = (middle, high) if done.returncode else (low, middle)
    return high


def limited(architecture: str, method: str, size: int, factor: float, predicted: int) -> int:
    """Take the steps in this process; return 3 if its memory does not suffice."""
    import torch

    torch.set_num_threads(1)
    model, step = _prepared(architecture, method)
    batch = torch.randn(size, 3, 224, 224), torch.zeros(size, dtype=torch.int64)
    step((torch.randn(1, 3, 56, 56), torch.zeros(1, dtype=torch.int64)))
    model.zero_grad(set_to_none=True)
    held = sum(t.nbytes for t in (*model.parameters(), *model.buffers(), *batch))
    # The optimizer's state is held since the small step, and is in the predicted peak.
    allowed = _private_bytes() + FIXED_BYTES + int(factor * (predicted - held))
    resource.setrlimit(resource.RLIMIT_DATA, (allowed, allowed))
    try:
        for _ in range(_STEPS):
            step(batch)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(one in str(error) for one in _NO_MEMORY):
            raise
        return _MEMORY_ERROR
    return 0


def _prepared(architecture: str, adapter: str) -> tuple[Any, Any]:
    """Return the adapted model, and a function that takes a step on a batch."""
    from peft_regress import registry
    from peft_regress.cases import split_adapter_name
    from peft_regress.catalogue.built_in import set_modes
    from peft_regress.measure.objective import Objective

    name, rank = split_adapter_name(adapter)
    method = registry.get("method", name)
    network = registry.get("architecture", architecture)
    base = network.build(num_classes=_CLASSES, seed=0)
    model = method.adapt(base, heads=(network.head,), rank=rank, seed=0)
    set_modes(model, batch_norm_statistics=method.trains_batch_norm_statistics)
    optimizer = method.make_optimizer(model, rank=rank)

    def step(batch: Any) -> None:
        optimizer.zero_grad(set_to_none=True)
        Objective().loss(model, batch).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return model, step


def predicted_peak(architecture: str, method: str, batch: str) -> int:
    """Ask another process once, since profiling leaves memory behind."""
    name, _, rank = method.partition("-r")
    command = [*(sys.executable, "-m", "peft_regress", "cost", "--format", "json")]
    command += ["--architecture", architecture, "--batch", batch, "--method", name]
    done = subprocess.run(
        [*command, *(["--rank", rank] if rank else [])], stdout=subprocess.PIPE, check=True
    )
    return int(json.loads(done.stdout)["metrics"]["peak_bytes"]["value"])


def _private_bytes() -> int:
    """Return what RLIMIT_DATA counts."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("/proc/self/status has no VmData")


def main() -> None:
    """Print the table, or be one of the limited processes."""
    if sys.argv[1:2] == ["--limited"]:
        architecture, method, batch, factor, predicted = sys.argv[2:]
        sys.exit(limited(architecture, method, int(batch), float(factor), int(predicted)))
    print("| method | architecture |", *(f"batch {size} |" for size in BATCHES))
    print("|---|---|" + "---:|" * len(BATCHES))
    for architecture, method in product(ARCHITECTURES, METHODS):
        cells = (needed_factor(architecture, method, str(size)) for size in BATCHES)
        print(f"| {method} | {architecture} |", *(f"{one:.2f} |" for one in cells), flush=True)


if __name__ == "__main__":
    main()
