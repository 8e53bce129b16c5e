"""Run the matrix again under other numerics: only rounding may change, and nothing may fail.

    python tools/studies/variants.py                      all, into runs/variants/: most of an hour
    python tools/studies/variants.py avx2 shuffled        some of them
    python tools/studies/variation.py runs/bench.json runs/variants/*.json    compare them

Each is a whole `pytest` run of the matrix on the same commit. `variation.py` counts what the gate
would have judged, and how close to its bound each metric came: the figures in docs/evidence.md.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT: Final = Path(__file__).resolve().parents[2]
_SUITES: Final = {
    "default": ("benchmarks/test_distribution_shift.py", "benchmarks/test_unseen_classes.py"),
    "extended": ("benchmarks/test_extended_methods.py",),
}
_TWO_WORKERS: Final = ("-n", "2")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to compute the same: environment variables, and options of pytest."""

    environment: Mapping[str, str] = field(default_factory=dict)
    options: Sequence[str] = _TWO_WORKERS


VARIANTS: Final = {
    # One process with one thread.
    "one-process": Variant(options=()),
    "two-threads": Variant(environment={"OMP_NUM_THREADS": "2"}),
    # ATen without vector kernels, oneDNN and MKL limited to SSE4.
    "sse": Variant(
        environment={
            "ATEN_CPU_CAPABILITY": "default",
            "ONEDNN_MAX_CPU_ISA": "SSE41",
            "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        },
    ),
    "avx2": Variant(
        environment={
            "ATEN_CPU_CAPABILITY": "avx2",
            "ONEDNN_MAX_CPU_ISA": "AVX2",
            "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        },
    ),
    "hash-seed": Variant(environment={"PYTHONHASHSEED": "20250731"}),
    "shuffled": Variant(options=(*_TWO_WORKERS, "-p", "shuffled")),
}


def run(name: str, *, matrix: str = "default", more: Sequence[str] = ()) -> int:
    """Run one variant and keep its run file; return the exit code of pytest."""
    variant = VARIANTS[name]
    # `-p shuffled` is a module next to this one.
    here = str(Path(__file__).parent)
    path = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
    command = [
        *(sys.executable, "-m", "pytest", *_SUITES[matrix], *variant.options),
        *("--benchmark-quiet", f"--regress-matrix={matrix}"),
        *(f"--regress-save={ROOT / 'runs' / 'variants' / name}.json", *more),
    ]
    usual = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=ROOT, env={**usual, **variant.environment}, check=False
    ).returncode


def main() -> int:
    """Run the named variants; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="VARIANT", help=f"of {', '.join(VARIANTS)}")
    parser.add_argument("--matrix", choices=_SUITES, default="default")
    chosen, more = parser.parse_known_args()
    if unknown := sorted(set(chosen.names) - VARIANTS.keys()):
        parser.error(f"no such variant: {', '.join(unknown)}. Known: {', '.join(VARIANTS)}")
    codes = {name: run(name, matrix=chosen.matrix, more=more) for name in chosen.names or VARIANTS}
    for name, code in codes.items():
        print(f"{name}: {'passed' if code == 0 else 'FAILED'}")
    return int(any(codes.values()))


if __name__ == "__main__":
    sys.exit(main())
