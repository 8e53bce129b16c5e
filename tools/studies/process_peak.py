"""Measure the most memory that processes take for real training steps, against the prediction.

    python tools/studies/process_peak.py               # cases of each network, method and batch
    python tools/studies/process_peak.py lora-r4/resnet18:8x3x96x96 ...
    python tools/studies/process_peak.py --usual ...   # without `ALLOCATOR`
    python tools/studies/process_peak.py --limit 768 lora-r4/resnet18:3x96x96 ...
    python tools/studies/process_peak.py --lean        # what `peft_regress.lean` saves

Each case is a process of its own, as a device would run it: one thread, nothing but the libraries
that its method needs, and the allocator set as the prediction wants it. It takes three real steps
and reads the peak of its memory in /proc, which counts Python, the libraries and their code. The
prediction is `process_bytes` of the room that `choose` says its tensors need. What the smallest
steps take beside their tensors is what `devices.RUNTIME_BYTES` says. Linux with glibc only; the
figures depend on the machine and on the releases.

Pages of files, which are the libraries' code, count as `CODE_BYTES`. How many of them are mapped
depends on the page cache (here 105 to 221 MiB), and the system drops them where memory is short.

`--limit` takes cases without a batch, and finds the largest that is predicted to fit into so many
MiB. A process under that limit must live, with a peak within 6 % of the prediction, and one with
half as many images more must be killed. Exit code 1 if one does otherwise, and 2 where no limit can
be set. The limit of the process's group is less `CODE_BYTES`: of files the system charges a group
only for pages that no process had read before.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import time
import timeit
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from named_steps import adaptation, real_step, recorded, shape_of

from peft_regress.metrics import OPERATOR_SHARE
from peft_regress.project.devices import ALLOCATOR, RUNTIME_BYTES, process_bytes, runtime_of

NETWORKS: Final = (
    "shufflenet_v2_x0_5",
    "mobilenet_v3_small",
    "mobilenet_v2",
    "efficientnet_lite0",
    "resnet18",
)
LEAN_NETWORKS: Final = (*NETWORKS, "resnet50")
METHODS: Final = ("full", "head", "lora-r4", "dora-r4", "galore-r4")
SHAPES: Final = ("1x3x96x96", "1x3x224x224", "8x3x160x160", "32x3x96x96", "32x3x128x128")
SMALLEST: Final = ("full/shufflenet_v2_x0_5:1x3x32x32", "lora-r4/shufflenet_v2_x0_5:1x3x32x32")
MIB: Final = 2**20
CODE_BYTES: Final = {"eager": 109 * MIB, "galore": 115 * MIB, "peft": 129 * MIB}
"""Pages of files that the smallest steps map, where the page cache maps the fewest."""
LIMIT_MIB: Final = 768
WITHIN: Final = 0.06
"""How far a peak under a limit may be from its prediction, relative to that."""
LEAN_SHAPE: Final = "32x3x96x96"
CGROUPS: Final = Path("/sys/fs/cgroup")
_STEPS: Final = 3
_PAIRS: Final = 20


class Peak(NamedTuple):
    """The peak of a case in bytes: the room that tensors need, and that of the process."""

    case: str
    tensors: int
    predicted: int
    measured: int

    @property
    def difference(self) -> float:
        """By how much the process took more than predicted, relative to the prediction."""
        return self.measured / self.predicted - 1


def peak_of(case: str, allocator: str = ALLOCATOR, *, group: Path | None = None) -> Peak:
    """Profile the step of a case, and run it in a process of its own.

    case: such as `lora-r4/resnet18:8x3x96x96`; allocator: its settings, as a shell has them; group:
    of `memory_group`. Raises `CalledProcessError` if the process fails or is killed.
    """
    tensors = recorded(case).at_batch(shape_of(case)[0]).room
    settings = dict(one.split("=") for one in allocator.split())
    enter = ("sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', group) if group else ()
    done = subprocess.run(
        [*enter, sys.executable, __file__, "--run", case],
        env={**os.environ, **settings, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        check=True,
    )
    runtime = runtime_of(adaptation(case).method)
    measured = int(done.stdout.split()[-1]) + CODE_BYTES[runtime]
    return Peak(case, tensors, process_bytes(tensors, runtime), measured)


def largest_batch(case: str, limit: int) -> int:
    """Return the most images that are predicted to fit into a limit in bytes; or 0.

    case: without a batch, such as `lora-r4/resnet18:3x96x96`.
    """
    left = limit - RUNTIME_BYTES[runtime_of(adaptation(case).method)]
    return recorded(case).largest_batch(int(left / (1 + OPERATOR_SHARE)))


def with_batch(case: str, size: int) -> str:
    """Return a case with as many images."""
    return case.replace(":", f":{size}x")


def peak_under(case: str, limit: int) -> Peak | None:
    """Return the peak of a process with a limit in bytes; None if it is killed."""
    try:
        with memory_group(limit - CODE_BYTES[runtime_of(adaptation(case).method)]) as group:
            return peak_of(case, group=group)
    except subprocess.CalledProcessError as error:
        if error.returncode != -signal.SIGKILL:
            raise
        return None


@contextmanager
def memory_group(limit: int) -> Iterator[Path]:
    """Limit a new control group to so many bytes without swap, and yield its folder.

    Exits with code 2 where the system has no such groups, or keeps them for another user.
    """
    sizes, parent = {"memory.max": limit, "memory.swap.max": 0}, CGROUPS
    if (CGROUPS / "memory").is_dir():  # the first version of control groups
        sizes, parent = {"memory.limit_in_bytes": limit}, CGROUPS / "memory"
    folder = parent / f"process-peak-{os.getpid()}"
    try:
        folder.mkdir()
        for name, size in sizes.items():
            with (folder / name).open("r+", encoding="ascii") as file:  # makes no file
                file.write(f"{size}")
        yield folder
    except OSError as error:
        what = f"{folder}: no limit of memory can be set here ({error.strerror})"
        print(f"{what}: run as root on Linux with control groups", file=sys.stderr)
        sys.exit(2)
    finally:
        if folder.is_dir():
            folder.rmdir()


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


def limited() -> list[str]:
    """Return two cases of each method and each network, without a batch."""
    return [
        f"{method}/{NETWORKS[(row + further) % len(NETWORKS)]}:{size}"
        for row, method in enumerate((*METHODS[:4], "lora-lean-r4"))
        for further, size in ((0, "3x96x96"), (2, "3x160x160"))
    ]


def print_peaks(cases: list[str], allocator: str) -> None:
    """Print the peaks of cases, or of the square with what the smallest take beside tensors."""
    print("| method | network | images | room, MiB | predicted, MiB | measured, MiB | % more |")
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


def print_limited(cases: list[str], limit: int) -> int:
    """Print what becomes of cases under a limit in bytes; return the exit code.

    The difference of a killed process is that of another, which has no limit.
    """
    with memory_group(limit):  # refuses before anything is counted
        pass
    print("| method | network | image | batch | lives | % more | 1.5 times | killed |")
    print("| --- | --- | --- | ---: | --- | ---: | ---: | --- |")
    is_wrong = False
    for case in cases:
        batch = largest_batch(case, limit)
        if not batch:
            raise SystemExit(f"{case}: one image takes more: give a limit above {limit // MIB} MiB")
        more = batch + (batch + 1) // 2
        peak, other = (peak_under(with_batch(case, size), limit) for size in (batch, more))
        own = 100 * (peak or peak_of(with_batch(case, batch))).difference
        is_wrong |= peak is None or abs(own) > 100 * WITHIN or other is not None
        lives, killed = ("yes" if is_so else "no" for is_so in (peak, not other))
        cells = (*case.replace(":", "/").split("/"), batch, lives, f"{own:+.1f}", more, killed)
        print(f"| {' | '.join(map(str, cells))} |", flush=True)
    return int(is_wrong)


def print_lean() -> None:
    """Print how much more a process takes than for the smallest step, plain and lean; and times."""
    print(f"| network, {LEAN_SHAPE} | `lora-r4`, MiB | `lora-lean-r4`, MiB | ratio | of times |")
    print("| --- | ---: | ---: | ---: | ---: |")
    smallest = peak_of(SMALLEST[1]).measured
    for network in LEAN_NETWORKS:
        cases = [f"{method}/{network}:{LEAN_SHAPE}" for method in ("lora-r4", "lora-lean-r4")]
        plain, lean = ((peak_of(case).measured - smallest) / MIB for case in cases)
        cells = (network, f"{plain:,.0f}", f"{lean:,.0f}", f"{lean / plain:.2f}")
        print(f"| {' | '.join(cells)} | {ratio_of_times(*cases):.2f} |", flush=True)


def ratio_of_times(*cases: str) -> float:
    """Return the median over pairs of steps of the second's processor time over the first's."""
    import torch

    torch.set_num_threads(1)
    timers = [timeit.Timer(real_step(case), timer=time.process_time) for case in cases]
    pairs = [[timer.timeit(1) for timer in timers] for _ in range(_PAIRS + 1)]
    return statistics.median(second / first for first, second in pairs[1:])  # the first allocate


def main(words: list[str]) -> int:
    """Print a table, or be the process of one case; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("cases", nargs="*", metavar="CASE")
    parser.add_argument("--usual", action="store_true", help="without the allocator's settings")
    parser.add_argument("--limit", nargs="?", type=int, const=LIMIT_MIB, metavar="MIB")
    parser.add_argument("--lean", action="store_true", help="plain and lean LoRA")
    parser.add_argument("--run", metavar="CASE", help=argparse.SUPPRESS)
    chosen = parser.parse_args(words)
    if chosen.run:
        take_steps(chosen.run)
    elif chosen.lean:
        print_lean()
    elif chosen.limit is not None:
        return print_limited(chosen.cases or limited(), chosen.limit * MIB)
    else:
        print_peaks(chosen.cases, "" if chosen.usual else ALLOCATOR)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
