"""Let the fuzzer look for the injected faults that concern adapters, without being told of them.

    python fuzz/tools/power.py                     every such fault, for up to a minute each
    python fuzz/tools/power.py --only 'dora-*'     the faults that match a glob
    python fuzz/tools/power.py --seconds 20        a shorter search

The faults are those of `tools/faults` that replace a function of peft. Each is injected in a
process of its own, where the fuzzer searches the method that the fault's case is about. A failing
example counts if it does not fail without the fault. The last line is that of
docs/fuzz-evidence.md. Exit code 1 if a fault is missed that `BEYOND` does not name, or found
although it does, unless by `BY_CHANCE`.
"""

import argparse
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final, Literal

import msgspec

sys.path.append(str(Path(__file__).resolve().parents[2] / "tools" / "faults"))

from control import lived
from fault_catalogue import FAULTS
from fault_catalogue.injection import BrokenFaultError, injected

from peft_fuzz.example import Example, Outcome

BEYOND: Final[Mapping[str, str]] = {
    "adalora-budget-never-falls": "lives are too short for a schedule to prune",
    "lora-a-gaussian": "the law of a random start is not checked",
    "lora-activations-kept-alive": "memory is not looked at",
    "lora-drawn-under-another-seed": "which numbers a seed gives is not checked",
    "lora-forgets-the-memory-format": "the layout of activations is not looked at",
    "lora-hook-leaked": "hooks are not looked at",
    "lora-refuses-convolutions": "a clear refusal while wrapping is no finding",
    "loraplus-ratio-ignored": "it is about an optimizer, and lives train with one of their own",
    "names-changed-on-both-sides": "a release reads its own files; `compat` is for other ones",
}
"""Why the fuzzer cannot find a fault. The gate finds all of them (docs/evidence.md)."""

BY_CHANCE: Final = frozenset({"lora-drawn-under-another-seed"})
"""Of those, what a search may find all the same: PiSSA's random start is drawn again by loading."""

UNFIT: Final = frozenset(
    {"lora-computed-in-float64", "saved-module-is-that-of-the-start", "trained-biases-not-saved"}
)
"""Faults whose replacement fits the gate's case alone: a life would find that."""

_OF_TRAININGS: Final = frozenset({"language model", "memory", "later steps", "some cases alone"})
"""The areas of faults of another model, or that a life is too short or too small to show."""

_METHODS: Final = ("adalora", "dora", "ia3", "loha", "lokr", "lora")
_LIMIT_SECONDS: Final = 120


class Tried(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What came of the search for one fault.

    Attributes:
        seconds: Until the first example that fails by the fault alone.
        lives: How many were lived until then, or in the whole search.
        check: What did not hold.
        message: What the failure says.

    """

    fault: str
    state: Literal["found", "missed", "broken"]
    seconds: float
    lives: int = 0
    check: str = ""
    message: str = ""


def chosen_faults(pattern: str = "*") -> list[str]:
    """Return the faults in peft whose name matches a glob. Raises `SystemExit` if none does."""
    found = [
        name
        for name, fault in FAULTS.items()
        if all(at.split(":")[0].split(".")[0] == "peft" for at in fault.at)
        and name not in UNFIT
        and fault.area not in _OF_TRAININGS
        and fnmatchcase(name, pattern)
    ]
    if not found:
        sys.exit(f"no fault of peft matches {pattern!r}")
    return found


def method_of(fault: str) -> str:
    """Return the fuzzer's method that a fault's case is about."""
    method = FAULTS[fault].case.split("/")[1]
    return next(name for name in _METHODS if name in method)


class _Lives:
    """Runs examples under a fault; a failure counts only if it is not there without the fault."""

    def __init__(self, fault: str) -> None:
        self._fault = FAULTS[fault]
        self._start = time.monotonic()
        self.lives = 0
        self.first: float | None = None

    def __call__(self, example: Example) -> Outcome:
        """Return how an example ends by the fault."""
        self.lives += 1
        with injected(self._fault) as injection:
            outcome = lived(example)
        if outcome.failure is None or injection.failure is not None:
            return msgspec.structs.replace(outcome, failure=None)
        if any(lived(one).failure is not None for one in self._without_the_fault(example)):
            return msgspec.structs.replace(outcome, failure=None)
        if self.first is None:
            self.first = time.monotonic() - self._start
        return outcome

    def _without_the_fault(self, example: Example) -> list[Example]:
        """Return what must not fail without the fault; half precision in float32, too.

        The wide bounds of half precision may hide a defect of the library until a fault draws other
        numbers.
        """
        network = msgspec.structs.replace(example.network, dtype="float32")
        in_float32 = msgspec.structs.replace(example, network=network)
        return [example] if in_float32 == example else [example, in_float32]


def tried(fault: str, *, seconds: float, seed: int) -> Tried:
    """Search the method of a fault under the fault, in this process."""
    import torch

    from peft_fuzz.search.draw.examples import examples
    from peft_fuzz.search.search import Search

    torch.set_num_threads(1)
    # The search's seconds are for lives, not for importing.
    import hypothesis  # noqa: F401
    import peft  # noqa: F401

    import peft_fuzz.run  # noqa: F401

    lives = _Lives(fault)
    try:
        sought = Search(run=lives).seek(
            examples((method_of(fault),)), seed=seed, seconds=seconds, shrink_seconds=2.0
        )
    except BrokenFaultError as error:
        return Tried(fault=fault, state="broken", seconds=0.0, message=str(error))
    if sought.found is None:
        return Tried(fault=fault, state="missed", seconds=seconds, lives=lives.lives)
    return Tried(
        fault=fault,
        state="found",
        seconds=round(lives.first or 0.0, 2),
        lives=lives.lives,
        check=sought.found.failure.check,
        message=sought.found.failure.message[:200],
    )


def try_all(faults: Sequence[str], *, seconds: float) -> list[Tried]:
    """Search each fault in a process of its own, two at a time; print one line for each."""
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["HF_HUB_OFFLINE"] = "1"
    results = []
    with multiprocessing.get_context("spawn").Pool(2, maxtasksperchild=1) as pool:
        waiting = [
            (one, pool.apply_async(tried, (one,), {"seconds": seconds, "seed": 0}))
            for one in faults
        ]
        for fault, result in waiting:
            try:
                results.append(result.get(timeout=len(faults) * (seconds + _LIMIT_SECONDS)))
            except multiprocessing.TimeoutError:
                message = "gave no answer"
                results.append(Tried(fault=fault, state="broken", seconds=0.0, message=message))
            print(line(results[-1]), flush=True)
    return results


def line(one: Tried) -> str:
    """Return one line for the terminal."""
    beyond = f" (expected: {BEYOND[one.fault]})" if one.fault in BEYOND else ""
    what = f"{one.check}: {one.message}" if one.check else one.message
    return f"{one.state:<8}{one.seconds:6.1f} s  {one.fault}{beyond}: {what}"


def complaints(results: Sequence[Tried]) -> list[str]:
    """Say what is not as it should be."""
    found = []
    for one in results:
        expected = "missed" if one.fault in BEYOND else "found"
        if one.state == "broken":
            found.append(f"{one.fault} is broken")
        elif one.state != expected and one.fault not in BY_CHANCE:
            found.append(f"{one.fault} is {one.state}, which is not expected")
    return found


def sentence(results: Sequence[Tried]) -> str:
    """Say how many were found, and how fast."""
    sought = [one for one in results if one.fault not in BEYOND]
    found = [one.seconds for one in sought if one.state == "found"]
    return (
        f"Found: {len(found)} of {len(sought)} faults, half of them within "
        f"{statistics.median(found or [0.0]):.1f} s of search. {len(results) - len(sought)} others "
        "are beyond the fuzzer."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Search the chosen faults; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="*", metavar="GLOB", help="faults by name")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each fault")
    chosen = parser.parse_args(arguments)
    results = try_all(chosen_faults(chosen.only), seconds=chosen.seconds)
    problems = complaints(results)
    print("\n".join(problems) or "as expected")
    print(sentence(results))
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
