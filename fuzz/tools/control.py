"""Let the fuzzer search adapters that are right by construction: it must find nothing.

    python fuzz/tools/control.py                  an hour on two cores
    python fuzz/tools/control.py --minutes 5      shorter
    python fuzz/tools/control.py --write          write the result into docs/fuzz-evidence.md
    python fuzz/tools/control.py --check          exit 1 if the page has another result

`reference_peft/` has LoRA, DoRA, LoHa, LoKr and (IA)^3 in plain torch, with the part of peft's
interface that a life needs. It takes the place of peft, and the search runs on it unchanged.
Whatever it finds is a false finding: an error of the checks, of the oracles, of what the fuzzer
takes for documented, or of the reference. Prints each, and keeps the number of lives in
`control_results.json`. Exit code 1 if there is one.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import queue
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

    from peft_fuzz.example import Example, Outcome
    from peft_fuzz.search.causes import Cause
    from peft_fuzz.search.messages import Found, Sought

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = ROOT / "fuzz" / "docs" / "fuzz-evidence.md"
REFERENCE: Final = Path(__file__).resolve().parent / "reference_peft"
RESULTS: Final = Path(__file__).resolve().with_name("control_results.json")
SLICE_SECONDS: Final = 15.0
SHRINK_SECONDS: Final = 20.0
_PATIENCE_SECONDS: Final = 30.0


class Controlled(msgspec.Struct, frozen=True, kw_only=True):
    """What a control brought.

    Attributes:
        lives, refused: By method; `refused` ended with a refusal.
        findings: Their names: none, if all is well.

    """

    minutes: float
    jobs: int
    lives: dict[str, int]
    refused: dict[str, int]
    findings: list[str]

    @property
    def sentence(self) -> str:
        """Say it in one sentence."""
        found = f"**{', '.join(self.findings)}**" if self.findings else "nothing"
        by_method = ", ".join(f"{name} {number:,}" for name, number in sorted(self.lives.items()))
        return (
            f"In {sum(self.lives.values()):,} lives ({by_method}) it found {found}; "
            f"{sum(self.refused.values()):,} of them ended early with a refusal. It ran for "
            f"{self.minutes:.0f} minutes in {self.jobs} processes."
        )


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
    from peft_fuzz.search.search import Search

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
    from peft_fuzz.run import run

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


def _answers(processes: Sequence[Any], answers: Any) -> Iterator[Sought]:
    """Yield what the processes found, until each has ended by itself or was ended."""
    working = len(processes)
    while working:
        try:
            sought = answers.get(timeout=_PATIENCE_SECONDS)
        except queue.Empty:
            if not any(process.is_alive() for process in processes):
                return
            continue
        if sought is None:
            working -= 1
        else:
            yield sought


def control(*, minutes: float, jobs: int, seed: int) -> Controlled:
    """Search in processes of their own, and print what is found.

    Raises `SystemExit` if one of them fails.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    processes = [
        context.Process(target=_work, args=(job, seed, 60 * minutes, answers))
        for job in range(jobs)
    ]
    for process in processes:
        process.start()
    lives: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    findings: list[str] = []
    started = time.monotonic()
    try:
        for sought in _answers(processes, answers):
            lives.update(sought.counts.lives)
            refused.update(sought.counts.refused)
            if sought.found is not None:
                findings.append(sought.found.cause.name)
                print(described(sought.found), flush=True)
    except KeyboardInterrupt:
        print("interrupted: the result is of the time until now", flush=True)
        for process in processes:
            process.terminate()
    else:
        for process in processes:
            process.join()
        if any(process.exitcode for process in processes):
            sys.exit("a process failed; what it printed is above")
    return Controlled(
        minutes=(time.monotonic() - started) / 60,
        jobs=jobs,
        lives=dict(lives),
        refused=dict(refused),
        findings=findings,
    )


def _read(path: Path) -> Controlled:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Controlled)
    except (OSError, msgspec.DecodeError) as error:
        sys.exit(f"{path}: {error}. Make it with `python fuzz/tools/control.py`.")


def _put(path: Path, *, writes: bool) -> int:
    sys.path.append(str(ROOT / "tools" / "docs"))
    from page_tables import check_or_write, put

    result = _read(path)
    page = put(PAGE.read_text(encoding="utf-8"), "fuzz-evidence", "control", result.sentence)
    return check_or_write(PAGE, page, writes=writes)


def main(arguments: Sequence[str] | None = None) -> int:
    """Search, print what is found and how much was tried; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--write", action="store_true", help="write the result into the page")
    mode.add_argument("--check", action="store_true", help="exit 1 if the page differs")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FILE")
    chosen = parser.parse_args(arguments)
    if chosen.write or chosen.check:
        return _put(chosen.results, writes=chosen.write)
    from peft_regress.files import write_atomic
    from peft_regress.interrupts import ending_signals_interrupt

    with ending_signals_interrupt():
        result = control(minutes=chosen.minutes, jobs=chosen.jobs, seed=chosen.seed)
    write_atomic(chosen.results, msgspec.json.format(msgspec.json.encode(result)) + b"\n")
    print(result.sentence)
    return int(bool(result.findings))


if __name__ == "__main__":
    sys.exit(main())
