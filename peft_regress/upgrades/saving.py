"""Write what workers measured as a run file, beside it the adapters that they kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft_regress.baselines.run_adapters import adapters_of_run, prune_adapters
from peft_regress.runs.run_file import without_host, write_run_file
from peft_regress.runs.schema import Run


def save_run(path: Path, run: Run) -> None:
    """Write a run file, and remove the adapters beside it that are not this run's.

    Raises `InputError` if it cannot be written.
    """
    write_run_file(path, run, _document_base())
    prune_adapters(adapters_of_run(path), run)


def _document_base() -> dict[str, Any]:
    """Return what pytest-benchmark writes besides the cases: the machine, and no times."""
    import datetime as dt

    import pytest_benchmark
    from pytest_benchmark.plugin import pytest_benchmark_generate_machine_info
    from pytest_benchmark.utils import get_commit_info

    return {
        "machine_info": without_host(pytest_benchmark_generate_machine_info()),  # type: ignore[no-untyped-call]  # untyped there
        "commit_info": get_commit_info(),  # type: ignore[no-untyped-call]  # untyped there
        "benchmarks": [],
        "datetime": dt.datetime.now(dt.UTC).isoformat(),
        "version": pytest_benchmark.__version__,
    }
