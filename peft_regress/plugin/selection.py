"""Which cases a run measures: what narrowed it, what was collected, what is missing."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from msgspec import UNSET

from peft_regress.baselines.storage import baseline_files
from peft_regress.errors import InputError
from peft_regress.files import is_file
from peft_regress.runs.schema import Selection

COMMAND_LINE: Final = "command line"


@dataclass(frozen=True, kw_only=True)
class Narrowing:
    """How a run was narrowed, in the words that were typed."""

    before_collection: tuple[str, ...] = ()
    """Kept tests from being collected at all: paths, `--ignore`, `--lf`."""
    after_collection: tuple[str, ...] = ()
    """Chose among the collected tests."""
    written_in: Mapping[str, str] = field(default_factory=dict)
    """Where the words stand that are not from the command line: PYTEST_ADDOPTS or an ini file."""

    @property
    def typed(self) -> list[str]:
        """All of it, as text that JSON can hold."""
        return [_as_text(how) for how in (*self.before_collection, *self.after_collection)]

    @property
    def places(self) -> list[str]:
        """For each item of `typed`, where it was written."""
        found = (*self.before_collection, *self.after_collection)
        return [self.written_in.get(how, COMMAND_LINE) for how in found]

    def problems(self) -> list[str]:
        """Return the options that must not narrow a run in continuous integration.

        Its command line stands in the workflow, which somebody reads; nobody reads the others.
        """
        return [
            f"{_as_text(how)} of {place} narrows the run; with CI set only the command line may"
            for how, place in self.written_in.items()
        ]


def _as_text(how: str) -> str:
    return how.encode("utf-8", "backslashreplace").decode()


def ci_problem(config: pytest.Config) -> str | None:
    """Return which option a run in continuous integration takes from elsewhere than it may.

    These are the options that measure nothing, or that choose the matrix, or what judges a case or
    stands for it.
    """
    found = _written_in(config, _choices) if is_ci() else {}
    how, place = next(iter(found.items()), (None, ""))
    if how is None:
        return None
    return f"{_as_text(how)} of {place}: with CI set only the command line may have it"


def has_typed_suites(config: pytest.Config) -> bool:
    """Return whether the command line itself names the folders of cases."""
    _, words = next(option_sources(config))
    return any(how.startswith("-o regress_suites=") for how in _choices(_parsed(config, words)))


def is_ci() -> bool:
    """Return whether this is continuous integration, whose services all set CI."""
    return os.environ.get("CI", "").lower() not in {"", "0", "false"}


def narrowing_of(config: pytest.Config) -> Narrowing:
    """Read from a pytest run how it was narrowed."""
    return Narrowing(
        before_collection=tuple(_before(config.option)),
        after_collection=tuple(_after(config.option)),
        written_in=_written_in(config, lambda option: [*_before(option), *_after(option)]),
    )


def _written_in(config: pytest.Config, read: Callable[[Any], list[str]]) -> dict[str, str]:
    """Return where those of a run's options stand that are not from the command line."""
    typed: set[str] = set()
    found: dict[str, str] = {}
    for place, words in option_sources(config):
        items = set(read(_parsed(config, words)))
        if place == COMMAND_LINE:
            typed = items
        else:
            found = dict.fromkeys(items - typed, place) | found
    return {how: found[how] for how in read(config.option) if how in found}


def _parsed(config: pytest.Config, words: list[str]) -> Any:
    return config._parser.parse_known_args(words)  # noqa: SLF001  (nothing public tells sources apart)


def option_sources(config: pytest.Config) -> Iterator[tuple[str, list[str]]]:
    """Yield where pytest takes options from, the first that counts first."""
    yield COMMAND_LINE, [str(word) for word in config.invocation_params.args]
    yield "PYTEST_ADDOPTS", shlex.split(os.environ.get("PYTEST_ADDOPTS", ""))
    file = "an ini file" if config.inipath is None else config.inipath.name
    yield f"addopts of {file}", list(config.getini("addopts"))


def _choices(option: Any) -> list[str]:
    """Return the options that measure nothing, or choose matrix, baseline or resumed run."""
    found = ["--regress-off"] if getattr(option, "regress_off", False) else []
    found += ["--collect-only"] if option.collectonly else []
    for name in ("baseline", "matrix", "resume"):
        value = getattr(option, f"regress_{name}", None)
        found += [] if value is None else [f"--regress-{name} {value}"]
    settings = option.override_ini or ()
    return found + [f"-o {setting}" for setting in settings if setting.startswith("regress_")]


def _before(option: Any) -> list[str]:
    """Return the options that keep tests from being collected."""
    found = [f"--ignore {path}" for path in getattr(option, "ignore", None) or ()]
    found += [f"--ignore-glob {path}" for path in getattr(option, "ignore_glob", None) or ()]
    found += [f"--{name}" for name in ("lf", "stepwise") if getattr(option, name, False)]
    typed = map(str, option.file_or_dir)
    return found + [text for text in typed if "::" in text or is_file(Path(text))]


def _after(option: Any) -> list[str]:
    """Return the options that choose among the collected tests."""
    found = [f"-k {option.keyword}"] if option.keyword else []
    found += [f"-m {option.markexpr}"] if option.markexpr else []
    found += [f"--deselect {prefix}" for prefix in option.deselect or ()]
    found += [f"--regress-cases {option.regress_cases}"] if option.regress_cases else []
    found += [f"--regress-shard {option.regress_shard}"] if option.regress_shard else []
    return found


class Collected(msgspec.Struct, frozen=True, kw_only=True):
    """The case ids that a pytest process collected; `|` joins those of several processes."""

    cases: frozenset[str] = frozenset()
    """All of this run's matrix, before anything was deselected."""
    deselected: frozenset[str] = frozenset()
    """Left out on purpose: by `-k`, `-m`, `--deselect`, `--lf` or a shard."""
    selected: frozenset[str] = frozenset()
    """To be measured."""
    other_matrices: dict[str, int] = {}
    """How many cases belong to other matrices only, by matrix."""

    def __or__(self, other: Collected) -> Collected:
        """Join two processes: every worker of pytest-xdist collects everything."""
        return Collected(
            cases=self.cases | other.cases,
            deselected=self.deselected | other.deselected,
            selected=self.selected | other.selected,
            other_matrices={**self.other_matrices, **other.other_matrices},
        )


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """The expected and the measured cases of a run, by id."""

    known: frozenset[str]
    """Every case of the matrix and of its baselines."""
    measured: frozenset[str]
    collected: Collected
    narrowing: Narrowing
    was_interrupted: bool = False
    """Then nobody knows whether all was collected."""

    @property
    def not_selected(self) -> frozenset[str]:
        """The known cases that nothing selected."""
        return (self.known | self.collected.cases) - self.collected.selected - self.measured

    @property
    def selection(self) -> Selection:
        """The selection as the run file has it."""
        left_out = self.not_selected
        return Selection(
            complete=not self.was_interrupted
            and not left_out
            and self.collected.selected <= self.measured,
            narrowed_by=self.narrowing.typed if left_out else [],
            narrowed_from=self.narrowing.places if left_out and self.narrowing.typed else UNSET,
            not_selected=sorted(left_out),
        )

    @property
    def expected(self) -> frozenset[str]:
        """The cases that need a record: those selected, and those left out by nobody's wish."""
        return self.collected.selected | self._holes()

    def _holes(self) -> frozenset[str]:
        """Return the cases that were left out although the user did not ask for it.

        `-k`, `-m`, `--deselect` and a shard choose among collected cases. Only a path and the like
        explain why a case was not collected. Nothing explains a case that was collected and then
        vanished without being reported as deselected.
        """
        collected = self.collected
        vanished = collected.cases - collected.selected - collected.deselected - self.measured
        if self.narrowing.before_collection:
            return vanished
        lost = self.known - collected.cases - self.measured
        if self.narrowing.after_collection:
            return vanished | lost
        return vanished | lost | self.not_selected


def should_have_cases(config: pytest.Config, baselines: Path) -> bool:
    """Return whether baselines are there, and pytest was asked for a folder that holds cases.

    These are the folders of the ini option `regress_suites`; without it, every folder. A run of
    single files or tests, or one without some folder, need not have a case. With CI set, only the
    command line says any of that.
    """
    narrowing = narrowing_of(config)
    meant = set(narrowing.before_collection) - (narrowing.written_in.keys() if is_ci() else set())
    if meant or not _has_entries(baselines):
        return False
    is_named = not is_ci() or has_typed_suites(config)
    suites: list[Path] = config.getini("regress_suites") if is_named else []
    asked = [config.invocation_params.dir / argument for argument in config.args]
    return not suites or any(
        path.is_relative_to(suite) or suite.is_relative_to(path)
        for path in asked
        for suite in suites
    )


def _has_entries(baselines: Path) -> bool:
    # A folder of that name may be another tool's.
    with contextlib.suppress(InputError):
        return bool(baseline_files(baselines))
    return False
