"""What the fuzzer promises: lives a second on two cores, the corpus in a minute, memory.

    python tools/selfbench/selfbench_fuzz.py [--seconds 30]

LoRA in float32, half precision and all layers, as the search draws it. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from peft_regress.fuzz.corpus import read_corpus
from peft_regress.fuzz.messages import Seek
from peft_regress.fuzz.replay import replay
from peft_regress.fuzz.workers import LifeWorker

if TYPE_CHECKING:
    from peft_regress.fuzz.causes import Cause

_BASELINES = Path(__file__).resolve().parents[2] / "baselines"
_JOBS = 2
_METHODS = ("lora",)


def measured(seconds: float) -> dict[str, float]:
    """Return lives a second of two processes, the corpus' seconds, and the largest process."""
    started = time.perf_counter()
    corpus = read_corpus(_BASELINES)
    if corpus:
        replay(corpus, Path(sys.executable))
    replayed = time.perf_counter() - started
    with ThreadPoolExecutor(_JOBS) as pool:
        found = list(pool.map(lambda seed: _search(seed, seconds), range(_JOBS)))
    return {
        "lives_per_second": sum(lives / spent for lives, spent, _ in found),
        "corpus_entries": len(corpus),
        "corpus_seconds": replayed,
        "largest_bytes": max(size for _, _, size in found),
    }


def _search(seed: int, seconds: float) -> tuple[int, float, int]:
    """Return how many lives a process lived, in how many seconds, and its largest size."""
    known: list[Cause] = []
    with LifeWorker(Path(sys.executable), _METHODS) as worker:
        worker.begin()
        started, lives = time.perf_counter(), 0
        while (spent := time.perf_counter() - started) < seconds:
            seek = Seek(
                methods=_METHODS,
                seed=seed + _JOBS * len(known),
                seconds=seconds - spent,
                shrink_seconds=5.0,
                known=tuple(known),
            )
            sought = worker.seek(seek)
            lives += sum(sought.counts.lives.values())
            known += [] if sought.found is None else [sought.found.cause]
        return lives, time.perf_counter() - started, worker.largest_bytes()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0)
    print(json.dumps(measured(parser.parse_args().seconds)))


if __name__ == "__main__":
    main()
