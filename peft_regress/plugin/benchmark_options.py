"""pytest-benchmark's own options in a run with cases: which are refused, and what they write.

A case is measured by `benchmark.pedantic`, one round for each seed, so options that choose rounds
do nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from peft_regress.baselines.outputs import check_outside
from peft_regress.errors import InputError
from peft_regress.plugin.narrowing import COMMAND_LINE, option_sources

if TYPE_CHECKING:
    import pytest

_FILE: Final = "file://"
_OF_ROUNDS: Final = frozenset(
    f"--benchmark-{name}"
    for name in (
        "calibration-precision",
        "confidence",
        "max-time",
        "min-rounds",
        "min-time",
        "precision",
        "warmup",
        "warmup-iterations",
    )
)
"""What pytest-benchmark ignores where the rounds are given."""


def check_benchmark_outputs(config: pytest.Config, baselines: Path) -> None:
    """Raise `InputError` if pytest-benchmark would write into the baseline storage."""
    option, here = config.option, config.invocation_params.dir
    if option.benchmark_json is not None:
        check_outside(here / option.benchmark_json, baselines, "--benchmark-json")
    if option.benchmark_save or option.benchmark_autosave:
        check_outside(benchmark_storage(config), baselines, "--benchmark-storage")


def check_benchmark_options(config: pytest.Config) -> None:
    """Raise `InputError` for an option that a run with cases cannot do what it says."""
    if config.getoption("benchmark_skip", default=False) and not config.option.benchmark_only:
        raise InputError(
            "--benchmark-skip measures no case: drop it, or skip the cases with --regress-off"
        )
    for place, words in option_sources(config):
        for word in words:
            option = word.partition("=")[0]
            if option in _OF_ROUNDS:
                where = "" if place == COMMAND_LINE else f" from {place}"
                raise InputError(f"a case has one round for each seed: drop {option}{where}")


def benchmark_storage(config: pytest.Config) -> Path:
    """Return the folder that pytest-benchmark saves in."""
    name: str = config.option.benchmark_storage
    return config.invocation_params.dir / name.removeprefix(_FILE)
