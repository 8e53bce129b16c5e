"""Show how often `peft-regress time` finds a slower step, and how often it is wrong.

    python tools/studies/time_study.py 20 0.1

Times one case 20 times: this interpreter against itself, and against itself with every step made
10 % slower (`slow_interpreter.py`).
"""

from __future__ import annotations

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
    repetitions, share = int(sys.argv[1]), float(sys.argv[2])
    case = parse_case_id("shift/head/shufflenet_v2_x0_5")
    with tempfile.TemporaryDirectory() as folder:
        slow = str(write_slow_interpreter(Path(folder), share=share))
        for side, candidate in (("A/A", sys.executable), ("slower", slow)):
            verdicts: Counter[str] = Counter()
            ratios: list[float] = []
            for _ in range(repetitions):
                (result,) = time_cases(
                    [case], base=sys.executable, candidate=candidate, baselines=_BASELINES
                ).cases
                if result.estimate is None:
                    sys.exit(f"{result.id}: {result.problem}")
                verdicts[result.verdict] += 1
                ratios.append(result.estimate.ratio)
            shown = ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items()))
            print(f"{side}: {shown}; ratio {min(ratios):.4f} to {max(ratios):.4f}", flush=True)


if __name__ == "__main__":
    main()
