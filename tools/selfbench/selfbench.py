"""Measure the time and memory of the tool itself, as ratios within one run.

`tox run -e selfbench` prints a table of promises, measurements, and whether each promise holds; the
exit code is 1 if one does not. Run it on an idle machine: the two measurements of a ratio take
turns, but a busy core can still spoil one. `--matrix` also runs the whole matrix, about 15 minutes.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from peft_regress.catalogue.matrix import matrix_cases

_ROOT = Path(__file__).resolve().parents[2]
_BASELINES = _ROOT / "baselines"
_PARTS = Path(__file__).resolve().parent / "selfbench_parts.py"
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
    promises = [
        *_commands(),
        *_profiles(),
        *_profile_of_own(),
        *_large_models(),
        *_cost_command(),
        *_many(),
        *_history(),
        *_harness(),
        *_first_rounds(),
        *_signals(["mobilenet_v3_small"]),
        *_fuzz(),
    ]
    if chosen.matrix:
        promises += _matrix()
        promises += _signals(sorted({case.architecture for case in matrix_cases()}))
    print("| what | promised | measured | holds |\n| --- | --- | --- | --- |")
    for promise in promises:
        verdict = "yes" if promise.holds else "NO"
        print(f"| {promise.what} | {promise.promised} | {promise.measured} | {verdict} |")
    sys.exit(0 if all(promise.holds for promise in promises) else 1)


def _commands() -> list[Promise]:
    """Run the commands that must not import torch."""
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
    """Compare a profile on fake tensors with the same recording on real tensors."""
    promises = []
    cases = (("full", None, "resnet18", 10.0, 20.0), ("lora", 4, "mobilenet_v2", 5.0, 15.0))
    for method, rank, architecture, promised, of_peers in cases:
        name = f"{method}{'' if rank is None else f' r={rank}'} {architecture}"
        result = _in_fresh_process("profile", method, str(rank or 0), architecture)
        ratio = result["real_seconds"] / result["fake_seconds"]
        promises += [
            Promise(
                what=f"profile of {name} at batch 32, against the same recording on real tensors",
                promised=f"{promised:.0f} times faster",
                measured=f"{ratio:.1f} times",
                holds=ratio >= promised,
            ),
            Promise(
                what=f"profile of {name} at batch 32, against a step under FlopCounterMode and two "
                "under MemTracker on real tensors",
                promised=f"{of_peers:.0f} times faster",
                measured=f"{result['peers_seconds'] / result['fake_seconds']:.1f} times",
                holds=result["peers_seconds"] / result["fake_seconds"] >= of_peers,
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


def _profile_of_own() -> list[Promise]:
    """Compare the profile of a case of one's own with the steps that it trains for."""
    result = _in_fresh_process("own_profile")
    return [
        Promise(
            what="profile of own/lora-r4/resnet18 at 32x3x224x224, forward passes included",
            promised="less than three of its steps",
            measured=f"{result['profile_seconds'] / result['step_seconds']:.2f} steps",
            holds=result["profile_seconds"] < 3 * result["step_seconds"],
        )
    ]


def _large_models() -> list[Promise]:
    """Profile models whose real step at this batch would take tens of gigabytes."""
    promises = []
    for architecture in ("resnet50", "vit_b_16", "convnext_tiny"):
        result = _in_fresh_process("large", architecture)
        allowed = result["parameter_megabytes"] + 300
        promises.append(
            Promise(
                what=f"profile of full {architecture} at batch 64: memory above the imports",
                promised=f"its parameters and 300 MB: {allowed:.0f} MB",
                measured=f"{result['megabytes']:.0f} MB",
                holds=result["megabytes"] <= allowed,
            )
        )
    return promises


def _cost_command() -> list[Promise]:
    """Compare `peft-regress cost` with the work that it must do."""
    pairing = ["--architecture", "resnet18", "--method", "lora", "--rank", "4"]
    command = [sys.executable, "-m", "peft_regress", "cost", *pairing]
    needed = [sys.executable, str(_PARTS), "needed"]
    ratios = []
    for _ in range(_PAIRS):
        ours, theirs = _seconds_of(command), _seconds_of(needed)
        ratios.append(ours / theirs)
    ratio = statistics.median(ratios)
    return [
        Promise(
            what="`peft-regress cost` of one case, against its imports and one profile",
            promised="at most 1.5 times",
            measured=f"{ratio:.2f} times",
            holds=ratio <= 1.5,
        )
    ]


def _many() -> list[Promise]:
    """Profile many methods and architectures in one process."""
    result = _in_fresh_process("many")
    growth = result["late_megabytes"] - result["early_megabytes"]
    return [
        Promise(
            what="memory after 200 profiles, against that after the first 20",
            promised="no growth (within 10 MB)",
            measured=f"{growth:+.1f} MB",
            holds=growth <= 10,
        )
    ]


def _history() -> list[Promise]:
    """Judge by a long history in memory, in which every metric with room changes."""
    entries = 10_000
    result = _in_fresh_process("history", str(entries))
    seconds = result["seconds"]
    return [
        Promise(
            what=f"the gate with a history of {entries:,} entries of a case, "
            f"{result['metrics']:.0f} metrics each, drift included",
            promised="under 1 s",
            measured=f"{seconds:.2f} s",
            holds=seconds < 1,
        )
    ]


def _harness() -> list[Promise]:
    """Compare a case with a bare loop that trains the same case."""
    promises = []
    for case_id in (
        "shift/lora-r4/mobilenet_v3_small",
        "shift/full/resnet18",
        "own/lora-r4/resnet18",
    ):
        result = _in_fresh_process("harness", case_id)
        extra = result["extra"]
        promises.append(
            Promise(
                what=f"harness of {case_id} (all but training loop, profile and signals)",
                promised="at most 5 %",
                measured=f"{100 * extra:+.1f} %",
                holds=extra <= 0.05,
            )
        )
    return promises


def _first_rounds() -> list[Promise]:
    """Compare the timed first round of cases, which must hold nothing but training, with others."""
    names = [
        f"shift/{name}"
        for name in (
            "lora-r4/resnet18", "full/resnet18", "lora-r4/shufflenet_v2_x0_5",
            "dora-r4/mobilenet_v3_small",
        )
    ]  # fmt: skip
    tests = "benchmarks/test_distribution_shift.py::test_distribution_shift"
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "rounds.json"
        subprocess.run(
            [
                sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--regress-full",
                "--benchmark-quiet", "--benchmark-timer=time.process_time",
                f"--benchmark-json={results}", *(f"{tests}[{name}]" for name in names),
            ],
            cwd=_ROOT, stdout=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        benchmarks = json.loads(results.read_bytes())["benchmarks"]
    rounds = {one["param"]: one["stats"]["data"] for one in benchmarks}
    ratios = {name: rounds[name][0] / statistics.median(rounds[name][1:]) for name in names}
    return [
        Promise(
            what=f"processor time of the first round of {name}, against the median of the others",
            promised="at most 1.1 times",
            measured=f"{ratio:.2f} times",
            holds=ratio <= 1.1,
        )
        for name, ratio in ratios.items()
    ]


def _signals(architectures: list[str]) -> list[Promise]:
    """Measure what invariants and filled losses add to the cases of the default matrix."""
    signals = rest = 0.0
    for architecture in architectures:
        result = _in_fresh_process("signals", architecture)
        signals += result["signals"]
        rest += result["all"] - result["signals"]
    return [
        Promise(
            what=f"signals of the default matrix's cases of {', '.join(architectures)}",
            promised="at most 25 % on top of the rest",
            measured=f"{100 * signals / rest:+.1f} %",
            holds=signals <= 0.25 * rest,
        )
    ]


def _fuzz() -> list[Promise]:
    """Search with two processes for half a minute, and replay the corpus."""
    script = Path(__file__).resolve().parent / "selfbench_fuzz.py"
    done = subprocess.run(
        [sys.executable, str(script)], cwd=_ROOT, stdout=subprocess.PIPE, check=True
    )
    found = json.loads(done.stdout)
    rate, seconds, size = (
        found[name] for name in ("lives_per_second", "corpus_seconds", "search_peak_bytes")
    )
    entries = f"{found['corpus_entries']} entries"
    return [
        Promise(
            what="`peft-regress fuzz`: LoRA",
            promised="at least 20 lives a second on two cores",
            measured=f"{rate:.0f}",
            holds=rate >= 20,
        ),
        Promise(
            what=f"`peft-regress fuzz --minutes 0`: {entries}",
            promised="under 60 s",
            measured=f"{seconds:.1f} s",
            holds=seconds < 60,
        ),
        Promise(
            what="`peft-regress fuzz`: all processes of a search with two jobs",
            promised="under 1 GB",
            measured=f"{size / 1e9:.2f} GB",
            holds=0 < size < 1e9,
        ),
    ]


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
    """Run one part in a new process, so that it shares no memory and no caches."""
    done = subprocess.run(
        [sys.executable, str(_PARTS), part, *arguments],
        cwd=_ROOT, stdout=subprocess.PIPE, check=True, text=True,
    )  # fmt: skip
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


if __name__ == "__main__":
    main()
