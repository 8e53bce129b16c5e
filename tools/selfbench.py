"""Measure how fast and how lean the tool itself is, as ratios within one run.

`tox run -e selfbench` prints a table of what is promised, what was measured, and whether it holds;
the exit code is 1 where it does not. Run it on an idle machine: every ratio pairs two measurements
that take turns, but a busy core can still tip one. `--matrix` also runs the whole matrix, which
takes some 15 minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_ROOT = Path(__file__).resolve().parent.parent
_BASELINES = _ROOT / "baselines"
_PAIRS = 3


@dataclass(frozen=True, kw_only=True)
class Promise:
    """One line of the table."""

    what: str
    promised: str
    measured: str
    holds: bool


def main() -> None:
    """Run the chosen parts and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--matrix", action="store_true", help="also run the whole matrix")
    chosen = parser.parse_args()
    promises = [*_commands(), *_profiles(), *_harness()]
    if chosen.matrix:
        promises += _matrix()
    print("| what | promised | measured | holds |\n| --- | --- | --- | --- |")
    for promise in promises:
        verdict = "yes" if promise.holds else "NO"
        print(f"| {promise.what} | {promise.promised} | {promise.measured} | {verdict} |")
    sys.exit(0 if all(promise.holds for promise in promises) else 1)


def _commands() -> list[Promise]:
    """Start the commands that must not import torch."""
    with tempfile.TemporaryDirectory() as folder:
        entries = sorted(_BASELINES.glob("*/[0-9]*.json"))
        run = str(entries[-1]) if entries else ""
        commands = {
            "peft-regress --help": ["-m", "peft_regress", "--help"],
            "peft-regress list": ["-m", "peft_regress", "list"],
            "pytest --collect-only benchmarks": [
                "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "benchmarks",
            ],
        }  # fmt: skip
        if run:
            commands["peft-regress compare"] = ["-m", "peft_regress", "compare", run, run]
        promises = []
        for name, command in commands.items():
            log = Path(folder) / "imports"
            with log.open("w") as stream:
                subprocess.run(
                    [sys.executable, "-X", "importtime", *command],
                    cwd=_ROOT, stdout=subprocess.DEVNULL, stderr=stream, check=True,
                )  # fmt: skip
            lines = log.read_text().splitlines()
            imported = {line.rpartition("|")[2].strip() for line in lines}
            promises.append(
                Promise(
                    what=f"`{name}`",
                    promised="imports no torch",
                    measured=f"{len(imported)} modules",
                    holds="torch" not in imported,
                )
            )
            if "pytest" in name:
                continue
            best = min(_seconds_of([sys.executable, *command]) for _ in range(_PAIRS))
            promises.append(
                Promise(
                    what=f"`{name}`",
                    promised="under 0.5 s",
                    measured=f"{best:.2f} s",
                    holds=best < 0.5,
                )
            )
    return promises


def _seconds_of(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, cwd=_ROOT, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def _profiles() -> list[Promise]:
    """Profile on fake tensors against the same ledger on real ones."""
    promises = []
    cases = (("full", None, "resnet18", 10.0), ("lora", 4, "mobilenet_v2", 5.0))
    for method, rank, architecture, promised in cases:
        name = f"{method}{'' if rank is None else f' r={rank}'} {architecture}"
        result = _in_fresh_process("profile", method, str(rank or 0), architecture)
        ratio = result["real_seconds"] / result["fake_seconds"]
        promises += [
            Promise(
                what=f"profile of {name} at batch 32, against the same ledger on real tensors",
                promised=f"{promised:.0f} times faster",
                measured=f"{ratio:.1f} times",
                holds=ratio >= promised,
            ),
            Promise(
                what=f"profile of {name}: batch 32 against batch 1",
                promised="no more time (within 10 %)",
                measured=f"{result['batch_ratio']:.2f} times",
                holds=result["batch_ratio"] <= 1.1,
            ),
            Promise(
                what=f"profile of {name} at batch 32: memory above the imports",
                promised="under 500 MB",
                measured=f"{result['megabytes']:.0f} MB",
                holds=result["megabytes"] < 500,
            ),
        ]
    return promises


def _harness() -> list[Promise]:
    """Measure what a case takes beyond a bare loop that trains the same case."""
    promises = []
    for case_id in ("shift/lora-r4/mobilenet_v3_small", "shift/full/resnet18"):
        result = _in_fresh_process("harness", case_id)
        extra = result["extra"]
        promises.append(
            Promise(
                what=f"harness of {case_id} (all but training loop and profile)",
                promised="at most 5 %",
                measured=f"{100 * extra:+.1f} %",
                holds=extra <= 0.05,
            )
        )
    return promises


def _matrix() -> list[Promise]:
    """Run the whole matrix, serial and with two workers."""
    promises = []
    for options, minutes in (([], 15), (["-n", "2"], 8)):
        command = [sys.executable, "-m", "pytest", "benchmarks", "--benchmark-quiet", "-q"]
        seconds = _seconds_of([*command, "-p", "no:cacheprovider", *options])
        kilobytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        name = " ".join(["pytest benchmarks", *options])
        promises += [
            Promise(
                what=f"`{name}`",
                promised=f"at most {minutes} minutes",
                measured=f"{seconds / 60:.1f} minutes",
                holds=seconds <= 60 * minutes,
            ),
            Promise(
                what=f"`{name}`: largest process",
                promised="under 2 GB",
                measured=f"{kilobytes / 1e6:.2f} GB",
                holds=kilobytes < 2e6,
            ),
        ]
    return promises


def _in_fresh_process(part: str, *arguments: str) -> dict[str, float]:
    """Run one part where nothing else has been imported, so that memory and caches are its own."""
    done = subprocess.run(
        [sys.executable, __file__, f"--part-{part}", *arguments],
        cwd=_ROOT, stdout=subprocess.PIPE, check=True, text=True,
    )  # fmt: skip
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def _profile_part(method_name: str, rank_text: str, architecture_name: str) -> dict[str, float]:
    import torch

    from peft_regress import registry
    from peft_regress.cost import profile_step
    from peft_regress.finetune import set_modes

    torch.set_num_threads(1)
    rank = int(rank_text) or None
    method = registry.get("method", method_name)
    architecture = registry.get("architecture", architecture_name)

    def profile(*, batch: int, fake: bool) -> float:
        model = architecture.build(num_classes=10, seed=0)
        model = method.adapt(model, head=architecture.head, rank=rank, seed=0)
        set_modes(model, batch_norm_statistics=False)
        started = time.perf_counter()
        profile_step(
            model,
            lambda wrapped: method.make_optimizer(wrapped, rank=rank),
            input_shape=(batch, 3, 224, 224),
            num_classes=10,
            fake=fake,
        )
        return time.perf_counter() - started

    model = architecture.build(num_classes=10, seed=0)
    method.adapt(model, head=architecture.head, rank=rank, seed=0)
    imports = _resident_megabytes()
    profile(batch=32, fake=True)
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3 - imports
    ones, many = [], []
    for _ in range(_PAIRS):
        ones.append(profile(batch=1, fake=True))
        many.append(profile(batch=32, fake=True))
    return {
        "fake_seconds": min(many),
        "real_seconds": profile(batch=32, fake=False),
        "batch_ratio": min(many) / min(ones),
        "megabytes": megabytes,
    }


def _harness_part(case_id: str) -> dict[str, float]:
    """Compare what both do outside training and evaluation, whose own noise is larger than that."""
    from peft_regress import finetune, measure, registry
    from peft_regress.adaptation import ProfileCache
    from peft_regress.finetune import single_thread
    from peft_regress.matrix import parse_case_id
    from peft_regress.sources import build_source

    case = parse_case_id(case_id)
    method = registry.get("method", case.method)
    architecture = registry.get("architecture", case.architecture)
    task = registry.get("task", case.task)
    inside = [0.0]

    def clocked(action: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return action(*arguments, **options)
            finally:
                inside[0] += time.perf_counter() - started

        return call

    train, test = clocked(finetune.finetune), clocked(finetune.evaluate)
    vars(measure).update(finetune=train, evaluate=test)

    def bare() -> None:
        data = task.load()
        for seed in measure.SEEDS:
            model = build_source(_BASELINES, architecture)
            task.prepare(model, head=architecture.head, seed=seed)
            model = method.adapt(model, head=architecture.head, rank=case.rank, seed=seed)
            optimizer = method.make_optimizer(model, rank=case.rank)
            train(model, optimizer, data, seed=seed, first=measure.FIRST_LOSSES)
            test(model, data.test_images, data.test_labels)

    profiles = ProfileCache()

    def harnessed() -> None:
        measure.measure(case, baselines=_BASELINES, profiles=profiles)

    def outside_and_all(action: Callable[[], None]) -> tuple[float, float]:
        inside[0] = 0.0
        seconds = _seconds(action)
        return seconds - inside[0], seconds

    extras = []
    with single_thread():
        harnessed()  # fills the profile cache and every other cache
        for _ in range(_PAIRS):
            ours, _ = outside_and_all(harnessed)
            theirs, whole = outside_and_all(bare)
            extras.append((ours - theirs) / whole)
    return {"extra": statistics.median(extras)}


def _seconds(action: Callable[[], Any]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def _resident_megabytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] == "--part-profile":
        print(json.dumps(_profile_part(*sys.argv[2:])))
    elif len(sys.argv) > 1 and sys.argv[1] == "--part-harness":
        print(json.dumps(_harness_part(*sys.argv[2:])))
    else:
        main()
