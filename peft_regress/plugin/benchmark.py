"""pytest-benchmark's options, files and `--benchmark-compare` in a run with cases.

A case is measured by `benchmark.pedantic`, one round for each seed, so options that choose rounds
do nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Final

import pytest

from peft_regress.baselines.named_runs import check_output, find_input
from peft_regress.errors import InputError
from peft_regress.plugin.selection import COMMAND_LINE, option_sources
from peft_regress.plugin.session import RegressSession
from peft_regress.report.terminal import line_in_log
from peft_regress.text import count_of

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
        check_output(here / option.benchmark_json, "--benchmark-json", storage=baselines)
    if option.benchmark_save or option.benchmark_autosave:
        check_output(benchmark_storage(config), "--benchmark-storage", storage=baselines)


def check_benchmark_options(config: pytest.Config) -> None:
    """Raise `InputError` for an option that does nothing in a run with cases."""
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


_THEIR_STORAGE: Final = "file://./.benchmarks"
"""Where pytest-benchmark looks if no storage is named."""


class StoredTimes:
    """Read the baselines for `--benchmark-compare`, once it is known whether there are cases."""

    def __init__(
        self,
        config: pytest.Config,
        session: RegressSession,
        case_of: Callable[[pytest.Item], str | None],
    ) -> None:
        """Take the option from pytest-benchmark, which would read before tests are collected."""
        self._config = config
        self._session = session
        self._case_of = case_of
        self._asked: Any = []
        baselines = session.options.baselines
        is_ours = config.option.benchmark_storage == _THEIR_STORAGE or (
            benchmark_storage(config).resolve() == baselines.resolve()
        )
        if is_ours:
            self._asked, config.option.benchmark_compare = config.option.benchmark_compare, []

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        """Read the times of the cases; without a case leave the option to pytest-benchmark."""
        theirs = self._config._benchmarksession  # type: ignore[attr-defined]  # noqa: SLF001  (it has no hook)
        if not self._asked or theirs.disabled or self._config.getoption("collectonly"):
            return
        tests = {name: item.nodeid for item in session.items if (name := self._case_of(item))}
        if not tests:
            theirs.compare = self._asked
            theirs.handle_loading()
            return
        try:
            for name in self._names(tests):
                self._compare_with(theirs, name, tests)
        except InputError as error:
            msg = f"--benchmark-compare: {error}"
            raise pytest.UsageError(line_in_log(msg)) from None

    def _names(self, cases: Collection[str]) -> list[str]:
        """Return the runs to compare with; without a name those that judge."""
        if self._asked is not True:
            return [self._asked]
        if self._session.options.baseline is not None:
            return [self._session.options.baseline]
        references = self._session.references()
        return sorted({references[case].run_name for case in cases if case in references})

    def _compare_with(self, theirs: Any, name: str, tests: dict[str, str]) -> None:
        """Let pytest-benchmark compare with a run, as `handle_loading` does."""
        baselines = self._session.options.baselines
        file = find_input(baselines, name).read()
        path = file.path
        path = path.relative_to(baselines) if path.is_relative_to(baselines) else path
        timed = {
            entry["extra_info"]["peft_regress"]["case_id"]: entry
            for entry in file.document["benchmarks"]
        }
        found = {test: timed[case] for case, test in tests.items() if case in timed}
        theirs.compared_mapping[path] = found
        is_here = file.run.machine == self._session.machine()
        where = "" if is_here else ", measured on another machine"
        what = f"{count_of(len(found), 'case')} with times{where}"
        said = f"Comparing against benchmarks from: {path} ({what})"
        theirs.logger.info(said, newline=False)
