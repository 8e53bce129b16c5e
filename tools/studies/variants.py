"""Run the matrix again under other numerics: only rounding may change, and nothing may fail.

    python tools/studies/variants.py                      all, into runs/variants/: most of an hour
    python tools/studies/variants.py avx2 sse             some of them
    python tools/studies/variation.py runs/bench.json runs/variants/*.json    compare them

Each is a whole `pytest` run of the matrix on the same commit. `variation.py` counts what the gate
would have judged, and how close to its bound each metric came: the figures in docs/evidence.md.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]

VARIANTS: Final[dict[str, dict[str, str]]] = {
    "two-threads": {"OMP_NUM_THREADS": "2"},
    # ATen without vector kernels, oneDNN and MKL limited to SSE4.
    "sse": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    },
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    },
    "hash-seed": {"PYTHONHASHSEED": "20250731"},
}
"""Environment variables, by the name of the variant."""


def main() -> int:
    """Run the named variants of the default matrix; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(VARIANTS))
    names = parser.parse_args().names or list(VARIANTS)
    for name in set(names) - set(VARIANTS):
        parser.error(f"no variant {name}: choose from {', '.join(VARIANTS)}")
    suites = [f"benchmarks/test_{name}.py" for name in ("distribution_shift", "unseen_classes")]
    failed = []
    for name in names:
        save = f"--regress-save={ROOT / 'runs' / 'variants' / name}.json"
        command = [sys.executable, "-m", "pytest", *suites, "-n", "2", "--benchmark-quiet", save]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **VARIANTS[name]}
        if subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode:
            failed.append(name)
    print(f"{len(names) - len(failed)} passed; failed: {', '.join(failed) or 'none'}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
