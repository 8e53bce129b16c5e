"""Measure upgrades: an environment, the matrix against one run of the bench, a bisection.

    python tools/selfbench/upgrade_speed.py                       the cases of mobilenet_v3_small
    python tools/selfbench/upgrade_speed.py --architecture resnet18

Prints each promise with its measurement, as in docs/upgrading.md. The first use of an environment
downloads packages; run it twice to exclude that.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
_RELEASE: Final = "peft==0.20.0"
_DORA: Final = "shift/dora-r4/shufflenet_v2_x0_5"


def main() -> None:
    """Measure and print, one item after another."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--architecture", default="mobilenet_v3_small")
    architecture = parser.parse_args().architecture
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PEFT_REGRESS_CACHE"] = folder
        built, cached = (_overlay_seconds(_RELEASE) for _ in range(2))
        print(f"an environment for {_RELEASE}: {built:.1f} s (promised: under 15)")
        print(f"the same, kept: {cached:.2f} s (promised: under 1)")
        bench = _seconds("-m", "pytest", "benchmarks", "--benchmark-quiet", "-k", architecture)
        both = _seconds(
            "-m", "peft_regress", "upgrade", _RELEASE,
            "--base", "run", "--cases", f"*/{architecture}",
        )  # fmt: skip
        one = _seconds("-m", "peft_regress", "upgrade", _RELEASE, "--cases", f"*/{architecture}")
        print(f"upgrade, both sides measured: {both / bench:.2f} of one bench (promised: 2.2)")
        print(f"upgrade, against the stored baseline: {one / bench:.2f} of one bench")
        seconds = _seconds(
            "-m", "peft_regress", "bisect", "peft", "--good", "0.10.0", "--bad", "0.21.2",
            "--case", _DORA, "--metric", "forward_flops",
        )  # fmt: skip
        print(f"bisecting 22 releases by a cost: {seconds:.0f} s (promised: 300 s for 30)")


def _overlay_seconds(requirement: str) -> float:
    """Return the time from a requirement to an environment in use."""
    from peft_regress.environments.overlay.overlay import opened_overlay

    begun = time.monotonic()
    with opened_overlay([requirement]):
        return time.monotonic() - begun


def _seconds(*arguments: str) -> float:
    """Return the time of a command; 0 and 1 are verdicts, anything else ends the measurement."""
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode not in {0, 1}:
        sys.exit(f"{' '.join(arguments)}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return time.monotonic() - begun


if __name__ == "__main__":
    main()
