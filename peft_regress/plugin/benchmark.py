"""What pytest-benchmark reads and writes in a project with baselines."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from peft_regress.baselines.named_runs import check_output
from peft_regress.baselines.storage import baseline_files

_FILE: Final = "file://"
_THEIR_STORAGE: Final = "file://./.benchmarks"
"""Where pytest-benchmark looks if no storage is named."""


def set_up_benchmarks(config: pytest.Config, baselines: Path) -> None:
    """Let `--benchmark-compare` read the baselines; call it before pytest-benchmark begins.

    Raises `InputError` if pytest-benchmark would write into the baseline storage.
    """
    option, here = config.option, config.invocation_params.dir
    if option.benchmark_json is not None:
        check_output(here / option.benchmark_json, "--benchmark-json", storage=baselines)
    if option.benchmark_save or option.benchmark_autosave:
        storage = here / option.benchmark_storage.removeprefix(_FILE)
        check_output(storage, "--benchmark-storage", storage=baselines)
        return
    is_ours = option.benchmark_compare and option.benchmark_storage == _THEIR_STORAGE
    if is_ours and baseline_files(baselines):
        option.benchmark_storage = f"{_FILE}{baselines}"
