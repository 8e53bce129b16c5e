"""Let the fuzzer search adapters that are right by construction: it must find nothing.

    python tools/fuzz/control.py                  an hour on two cores
    python tools/fuzz/control.py --minutes 5      shorter

`reference_peft/` has LoRA, DoRA, LoHa, LoKr and (IA)^3 in plain torch, with the part of peft's
interface that a life needs. It takes the place of peft, and the search runs on it unchanged.
Whatever it finds is a false finding: an error of the checks, of the oracles, of what the fuzzer
takes for documented, or of the reference. Prints each, and the number of lives; exit code 1 if
there is one.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from peft_regress.fuzz.causes import Cause
    from peft_regress.fuzz.example import Example, Outcome
    from peft_regress.fuzz.messages import Found, Sought

REFERENCE: Final = Path(__file__).resolve().parent / "reference_peft"
SLICE_SECONDS: Final = 15.0
SHRINK_SECONDS: Final = 20.0


def use_reference() -> list[str]:
    """Put the reference in place of peft; return the methods that it has."""
    if "peft" in sys.modules:
        msg = "peft is imported already"
        raise RuntimeError(msg)
    sys.path.insert(0, str(REFERENCE))
    from peft_regress.fuzz.methods import available

    return list(available())


def searches(methods: Sequence[str], *, seed: int, job: int, seconds: float) -> Iterator[Sought]:
    """Search one slice after another until the time is over; yield what each brought."""
    from peft_regress.fuzz.draw.examples import examples
    from peft_regress.fuzz.search import Search

    known: list[Cause] = []
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:

        def lived(example: Example) -> Outcome:
            return _lived(example, Path(folder) / "life")

        for turn in count():
            left = end - time.monotonic()
            if left <= 0:
                return
            digest = hashlib.sha256(f"control {seed} {job} {turn}".encode()).digest()
            sought = Search(run=lived, known=known).seek(
                examples(methods),
                seed=int.from_bytes(digest[:8]),
                seconds=min(left, SLICE_SECONDS),
                shrink_seconds=SHRINK_SECONDS,
            )
            if sought.found is not None:
                known.append(sought.found.cause)
            yield sought


def _lived(example: Example, folder: Path) -> Outcome:
    from peft_regress.fuzz.run import run

    folder.mkdir()
    try:
        return run(example, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _work(job: int, seed: int, seconds: float, answers: Any) -> None:
    import torch

    torch.set_num_threads(1)
    methods = use_reference()
    try:
        for sought in searches(methods, seed=seed, job=job, seconds=seconds):
            answers.put(sought)
    finally:
        answers.put(None)


def described(found: Found) -> str:
    """Return a finding as text."""
    example = msgspec.json.encode(found.example).decode()
    return f"{found.cause.name}: {found.failure.message}\n  {found.cause}\n  {example}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Search, print what is found and how much was tried; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    started = time.monotonic()
    processes = [
        context.Process(target=_work, args=(job, chosen.seed, 60 * chosen.minutes, answers))
        for job in range(chosen.jobs)
    ]
    for process in processes:
        process.start()
    lives: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    findings, working = 0, len(processes)
    while working:
        sought = answers.get()
        if sought is None:
            working -= 1
            continue
        lives.update(sought.counts.lives)
        refused.update(sought.counts.refused)
        if sought.found is not None:
            findings += 1
            print(described(sought.found), flush=True)
    for process in processes:
        process.join()
    minutes = (time.monotonic() - started) / 60
    by_method = ", ".join(f"{name} {number:,}" for name, number in sorted(lives.items()))
    print(
        f"{findings or 'no'} findings in {sum(lives.values()):,} lives of the reference "
        f"({by_method}), of which {sum(refused.values()):,} ended with a refusal; "
        f"{minutes:.1f} minutes on {chosen.jobs} processes"
    )
    failed = any(process.exitcode for process in processes)
    return int(bool(findings) or failed)


if __name__ == "__main__":
    sys.exit(main())
