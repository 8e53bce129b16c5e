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

import hashlib
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from pages import EVIDENCE, mode_options, renew, search_options, write_results

if TYPE_CHECKING:
    from peft_fuzz.example import Example, Outcome
    from peft_fuzz.search.causes import Cause
    from peft_fuzz.search.messages import Counts, Found, Sought

PAGE: Final = EVIDENCE
REFERENCE: Final = Path(__file__).resolve().parent / "reference_peft"
RESULTS: Final = Path(__file__).resolve().with_name("control_results.json")
SLICE_SECONDS: Final = 15.0
SHRINK_SECONDS: Final = 20.0
_LIMIT_SECONDS: Final = 120
"""For what a process needs besides: its start, and the life that is not over yet."""


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
    for turn in count():
        left = end - time.monotonic()
        if left <= 0:
            return
        digest = hashlib.sha256(f"control {seed} {job} {turn}".encode()).digest()
        sought = Search(run=_lived, known=known).seek(
            examples(methods),
            seed=int.from_bytes(digest[:8]),
            seconds=min(left, SLICE_SECONDS),
            shrink_seconds=SHRINK_SECONDS,
        )
        if sought.found is not None:
            known.append(sought.found.cause)
        yield sought


def _lived(example: Example) -> Outcome:
    from peft_fuzz.run import run

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        return run(example, Path(folder))


def described(found: Found) -> str:
    """Return a finding as text."""
    example = msgspec.json.encode(found.example).decode()
    return f"{found.cause.name}: {found.failure.message}\n  {found.cause}\n  {example}"


def _work(job: int, seed: int, seconds: float) -> tuple[Counts, list[str]]:
    """Search in this process; return the counts, and the names of the findings it printed."""
    import torch

    from peft_fuzz.search.messages import Counts

    torch.set_num_threads(1)
    counts, findings = Counts(), []
    for sought in searches(use_reference(), seed=seed, job=job, seconds=seconds):
        counts = counts.plus(sought.counts)
        if sought.found is not None:
            findings.append(sought.found.cause.name)
            print(described(sought.found), flush=True)
    return counts, findings


def control(*, minutes: float, jobs: int, seed: int) -> Controlled:
    """Search in processes of their own, which print what they find; raise what one of them does."""
    os.environ["OMP_NUM_THREADS"] = "1"
    lives: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    findings: list[str] = []
    started = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(jobs, maxtasksperchild=1) as pool:
        working = [pool.apply_async(_work, (job, seed, 60 * minutes)) for job in range(jobs)]
        for one in working:
            counts, found = one.get(timeout=60 * minutes + _LIMIT_SECONDS)
            lives.update(counts.lives)
            refused.update(counts.refused)
            findings += found
    return Controlled(
        minutes=(time.monotonic() - started) / 60,
        jobs=jobs,
        lives=dict(lives),
        refused=dict(refused),
        findings=findings,
    )


def read_result(path: Path) -> Controlled:
    """Read what was kept; raise `SystemExit` if there is nothing."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Controlled)
    except (OSError, msgspec.DecodeError) as error:
        sys.exit(f"{path}: {error}. Make it with `python fuzz/tools/control.py`.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Search, print what is found and how much was tried; return the exit code."""
    parser, _ = mode_options(__doc__)
    search_options(parser, RESULTS)
    parser.add_argument("--minutes", type=float, default=60.0)
    chosen = parser.parse_args(arguments)
    if chosen.write or chosen.check:
        made = {"control": read_result(chosen.results).sentence}
        return renew(PAGE, "fuzz-evidence", made, writes=chosen.write)
    from peft_regress.interrupts import ending_signals_interrupt

    with ending_signals_interrupt():  # so that the processes end, too
        result = control(minutes=chosen.minutes, jobs=chosen.jobs, seed=chosen.seed)
    write_results(chosen.results, result)
    print(result.sentence)
    return int(bool(result.findings))


if __name__ == "__main__":
    sys.exit(main())
