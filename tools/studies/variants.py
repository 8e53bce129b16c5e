"""Run the matrix again under other numerics: only rounding may change, and nothing may fail.

    python tools/studies/variants.py --list
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

    what: str
    environment: Mapping[str, str] = field(default_factory=dict)
    options: Sequence[str] = _TWO_WORKERS


VARIANTS: Final = {
    "one-process": Variant(what="one process with one thread", options=()),
    "two-threads": Variant(what="two threads per process", environment={"OMP_NUM_THREADS": "2"}),
    "sse": Variant(
        what="ATen without vector kernels, oneDNN and MKL limited to SSE4",
        environment={
            "ATEN_CPU_CAPABILITY": "default",
            "ONEDNN_MAX_CPU_ISA": "SSE41",
            "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        },
    ),
    "avx2": Variant(
        what="ATen, oneDNN and MKL limited to AVX2",
        environment={
            "ATEN_CPU_CAPABILITY": "avx2",
            "ONEDNN_MAX_CPU_ISA": "AVX2",
            "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        },
    ),
    "hash-seed": Variant(what="another hash seed", environment={"PYTHONHASHSEED": "20250731"}),
    "shuffled": Variant(what="cases in another order", options=(*_TWO_WORKERS, "-p", "shuffled")),
}


def run(name: str, *, folder: Path, matrix: str, more: Sequence[str]) -> int:
    """Run one variant and keep its run file; return the exit code of pytest."""
    variant = VARIANTS[name]
    # `-p shuffled` is a module next to this one.
    here = str(Path(__file__).parent)
    path = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
    command = [
        *(sys.executable, "-m", "pytest", *_SUITES[matrix], *variant.options),
        *("--benchmark-quiet", f"--regress-matrix={matrix}"),
        *(f"--regress-save={folder / name}.json", *more),
    ]
    usual = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=ROOT, env={**usual, **variant.environment}, check=False
    ).returncode


def main() -> int:
    """Run the named variants; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="VARIANT", help="default: all of them")
    parser.add_argument("--list", action="store_true", help="print the variants, run none")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "variants")
    parser.add_argument("--matrix", choices=_SUITES, default="default")
    parser.add_argument("-k", dest="keyword", help="only these cases, as in pytest")
    chosen = parser.parse_args()
    unknown = sorted(set(chosen.names) - VARIANTS.keys())
    if unknown:
        parser.error(f"no such variant: {', '.join(unknown)}. Known: {', '.join(VARIANTS)}")
    if chosen.list:
        print("\n".join(f"{name}: {variant.what}" for name, variant in VARIANTS.items()))
        return 0
    more = ("-k", chosen.keyword) if chosen.keyword else ()
    folder = chosen.folder.resolve()
    codes = {
        name: run(name, folder=folder, matrix=chosen.matrix, more=more)
        for name in chosen.names or VARIANTS
    }
    print(
        "\n".join(f"{name}: {'passed' if code == 0 else 'FAILED'}" for name, code in codes.items())
    )
    return int(any(codes.values()))


if __name__ == "__main__":
    sys.exit(main())
