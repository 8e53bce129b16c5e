"""What the fuzzer promises: lives a second on two cores, the corpus in a minute, memory.

    python tools/selfbench/selfbench_fuzz.py [--seconds 30]

At least 20 lives a second of LoRA in float32 on two idle cores, drawn as the search draws them;
less than a gigabyte for all processes of a search with two jobs. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from peft_regress.fuzz.corpus import read_corpus
from peft_regress.fuzz.fuzz import FuzzSettings, fuzz
from peft_regress.fuzz.replay import replay

if TYPE_CHECKING:
    from collections.abc import Iterator

    from peft_regress.fuzz.example import Example, Outcome

_BASELINES: Final = Path(__file__).resolve().parents[2] / "baselines"
_JOBS: Final = 2
_METHOD: Final = "lora"
_SAMPLE_SECONDS: Final = 0.5
_PROC: Final = Path("/proc")


def measured(seconds: float) -> dict[str, float]:
    """Return lives a second of two processes, the corpus' seconds, and a search's memory."""
    started = time.perf_counter()
    corpus = read_corpus(_BASELINES)
    if corpus:
        replay(corpus, Path(sys.executable))
    replayed = time.perf_counter() - started
    return {
        "lives_per_second": lives_per_second(seconds),
        "corpus_entries": len(corpus),
        "corpus_seconds": replayed,
        "search_peak_bytes": search_peak_bytes(seconds),
    }


def lives_per_second(seconds: float) -> float:
    """Return how many lives of LoRA in float32 two processes live a second, drawing included."""
    os.environ["OMP_NUM_THREADS"] = "1"
    with multiprocessing.get_context("spawn").Pool(_JOBS) as pool:
        return sum(pool.starmap(_lived_a_second, [(seed, seconds) for seed in range(_JOBS)]))


def _lived_a_second(seed: int, seconds: float) -> float:
    """Search in this process as a worker does, but for findings: nothing counts as one.

    The libraries are imported before the time counts.
    """
    import torch

    from peft_regress.fuzz.draw.examples import examples
    from peft_regress.fuzz.example import Outcome
    from peft_regress.fuzz.methods import METHODS
    from peft_regress.fuzz.run import run
    from peft_regress.fuzz.search import Search

    torch.set_num_threads(1)
    if not METHODS[_METHOD].available:
        msg = f"the installed peft has no {_METHOD}"
        raise SystemExit(msg)
    drawn = examples([_METHOD]).filter(lambda one: one.network.dtype == "float32")
    with tempfile.TemporaryDirectory() as folder:

        def lived(example: Example) -> Outcome:
            with tempfile.TemporaryDirectory(dir=folder) as empty:
                run(example, Path(empty))
            return Outcome()  # so that no finding ends the search

        started = time.perf_counter()
        sought = Search(run=lived).seek(drawn, seed=seed, seconds=seconds, shrink_seconds=0.0)
        spent = time.perf_counter() - started
    return sum(sought.counts.lives.values()) / spent


def search_peak_bytes(seconds: float) -> int:
    """Return the most memory that all processes of a search of two jobs have at one time.

    This process, which is the first of them, included. It is the proportional set size: what
    several processes share is divided among them.
    """
    largest, is_over = 0, threading.Event()

    def watch() -> None:
        nonlocal largest
        while not is_over.wait(_SAMPLE_SECONDS):
            largest = max(largest, sum(map(_own_bytes, _family(os.getpid()))))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            settings = FuzzSettings(
                baselines=Path(folder) / "baselines",
                save=Path(folder) / "found",
                minutes=seconds / 60,
                jobs=_JOBS,
                with_ranges=False,
            )
            fuzz((), settings)
    finally:
        is_over.set()
        watching.join()
    return largest


def _family(process: int) -> Iterator[int]:
    """Yield a process and all that it has started, and these have started."""
    yield process
    for path in _PROC.glob(f"{process}/task/*/children"):
        try:
            children = path.read_text(encoding="ascii").split()
        except OSError:
            continue  # it has ended
        for child in children:
            yield from _family(int(child))


def _own_bytes(process: int) -> int:
    """Return the proportional set size of a process; 0 once it has ended."""
    try:
        lines = (_PROC / str(process) / "smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0)
    print(json.dumps(measured(parser.parse_args().seconds)))


if __name__ == "__main__":
    main()
