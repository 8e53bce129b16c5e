"""Run a script of a report in an environment, alone in an empty folder."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from peft_regress.workers.process import variables

LONGEST_OUTPUT: Final = 4000
"""Characters of what a script prints that a report shows."""


def run_script(
    python: Path, script: str, *, seconds: float, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str] | None:
    """Run a script and return how it ended; None if it did not within `seconds`.

    environment: variables besides those of a worker.
    """
    with tempfile.TemporaryDirectory(prefix="peft-regress-") as folder:
        file = Path(folder) / "reproduction.py"
        file.write_text(script, encoding="utf-8")
        try:
            return subprocess.run(  # noqa: S603  (a script of our own)
                [str(python), "-W", "ignore", str(file)],
                cwd=folder,
                env={**variables(), **(environment or {})},
                capture_output=True,
                text=True,
                errors="replace",
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return None
