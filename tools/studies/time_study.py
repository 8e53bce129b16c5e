"""Show how often `peft-regress time` finds a slower step, and how often it is wrong.

    python tools/studies/time_study.py --repetitions 20

Times one case again and again: this interpreter against itself, and against itself with every step
made slower (`slow_interpreter.py`). Prints each estimate and, at the end, the rates.
docs/upgrading.md has the results.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections import Counter
from pathlib import Path

from slow_interpreter import write_slow_interpreter

from peft_regress.catalogue.matrix import parse_case_id
from peft_regress.upgrades.timing import time_cases

_BASELINES = Path(__file__).resolve().parents[2] / "baselines"


def main() -> None:
    """Repeat both comparisons and print the rates."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--case", default="shift/head/shufflenet_v2_x0_5")
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--pairs", type=int)
    parser.add_argument("--share", type=float, default=0.1, help="0.1 is 10 %% slower")
    chosen = parser.parse_args()
    case = parse_case_id(chosen.case)
    with tempfile.TemporaryDirectory() as folder:
        slow = str(write_slow_interpreter(Path(folder), share=chosen.share))
        found: dict[str, list[tuple[str, float]]] = {sys.executable: [], slow: []}
        for number in range(chosen.repetitions):
            for candidate, results in found.items():
                (result,) = time_cases(
                    [case],
                    base=sys.executable,
                    candidate=candidate,
                    baselines=_BASELINES,
                    pairs=chosen.pairs,
                ).cases
                if result.estimate is None:
                    sys.exit(f"{result.id}: {result.problem}")
                estimate = result.estimate
                results.append((result.verdict, estimate.ratio))
                side = "slow" if candidate == slow else "same"
                print(
                    f"{number + 1} {side}: {result.verdict} {estimate.ratio:.4f} "
                    f"[{estimate.interval.low:.4f}, {estimate.interval.high:.4f}] "
                    f"load {os.getloadavg()[0]:.1f}",
                    flush=True,
                )
    for name, results in (("A/A", found[sys.executable]), ("slower", found[slow])):
        counts = Counter(verdict for verdict, _ in results)
        ratios = [ratio for _, ratio in results]
        shown = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
        print(
            f"{name}: {len(results)} runs: {shown}; ratio {min(ratios):.4f} to {max(ratios):.4f}, "
            f"median {statistics.median(ratios):.4f}"
        )


if __name__ == "__main__":
    main()
