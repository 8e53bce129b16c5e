"""Let the fuzzer search adapters that are right by construction: it must find nothing.

    python fuzz/tools/control.py                  an hour on two cores
    python fuzz/tools/control.py --minutes 5      shorter

`reference_peft/` has LoRA, DoRA, LoHa, LoKr and (IA)^3 in plain torch, with the part of peft's
interface that a life needs. It takes the place of peft, and the search runs on it unchanged.
Whatever it finds is a false finding: an error of the checks, of the oracles, of what the fuzzer
takes for documented, or of the reference. Prints each, and the sentence of docs/fuzz-evidence.md.
Exit code 1 if there is one.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from peft_fuzz.example import Example, Outcome
    from peft_fuzz.search.causes import Cause
    from peft_fuzz.search.sought import Counts, Found, Sought

REFERENCE: Final = Path(__file__).resolve().parent / "reference_peft"
SLICE_SECONDS: Final = 15.0
SHRINK_SECONDS: Final = 20.0


def use_reference() -> list[str]:
    """Put the reference in place of peft; return the methods that it has."""
    if "peft" in sys.modules:
        raise RuntimeError("peft is imported already")
    sys.path.insert(0, str(REFERENCE))
    from peft_fuzz.methods import METHODS

    return [name for name, method in METHODS.items() if method.available]


def searches(methods: Sequence[str], *, seed: int, job: int, seconds: float) -> Iterator[Sought]:
    """Search one slice after another until the time is over; yield what each brought."""
    from peft_fuzz.search.draw.examples import examples
    from peft_fuzz.search.parallel_search import seed_of
    from peft_fuzz.search.search import Search

    known: list[Cause] = []
    end = time.monotonic() + seconds
    for turn in count():
        left = end - time.monotonic()
        if left <= 0:
            return
        sought = Search(run=lived, known=known).seek(
            examples(methods),
            seed=seed_of(seed, f"control {job} {turn}"),
            seconds=min(left, SLICE_SECONDS),
            shrink_seconds=SHRINK_SECONDS,
        )
        if sought.found is not None:
            known.append(sought.found.cause)
        yield sought


def lived(example: Example) -> Outcome:
    """Run an example in a folder of its own."""
    from peft_fuzz.run import run

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        return run(example, Path(folder))


def described(found: Found) -> str:
    """Return a finding as text."""
    example = msgspec.json.encode(found.example).decode()
    return f"{found.cause.name}: {found.failure.message}\n  {found.cause}\n  {example}"


def _work(job: int, seconds: float) -> tuple[Counts, list[str]]:
    """Search in this process; return the counts, and the names of the findings it printed."""
    import torch

    from peft_fuzz.search.sought import Counts

    torch.set_num_threads(1)
    counts, findings = Counts(), []
    for sought in searches(use_reference(), seed=0, job=job, seconds=seconds):
        counts = counts.plus(sought.counts)
        if sought.found is not None:
            findings.append(sought.found.cause.name)
            print(described(sought.found), flush=True)
    return counts, findings


def main(arguments: Sequence[str] | None = None) -> int:
    """Search, print what is found and how much was tried; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--jobs", type=int, default=2, help="processes that search at once")
    chosen = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    with multiprocessing.get_context("spawn").Pool(chosen.jobs, maxtasksperchild=1) as pool:
        work = [(job, 60 * chosen.minutes) for job in range(chosen.jobs)]
        done = pool.starmap(_work, work)
    counts = done[0][0]
    for more, _ in done[1:]:
        counts = counts.plus(more)
    names = [name for _, found in done for name in found]
    by_method = ", ".join(f"{name} {number:,}" for name, number in sorted(counts.lives.items()))
    print(
        f"In {sum(counts.lives.values()):,} lives ({by_method}) it found "
        f"{', '.join(names) or 'nothing'}; {sum(counts.refused.values()):,} of them ended early "
        f"with a refusal. It ran for {chosen.minutes:g} minutes in {chosen.jobs} processes."
    )
    return int(bool(names))


if __name__ == "__main__":
    sys.exit(main())
