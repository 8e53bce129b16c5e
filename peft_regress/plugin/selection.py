"""Which cases a run measures: what narrowed it, what was collected, what is missing."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from peft_regress.baselines.storage import baseline_files
from peft_regress.errors import InputError
from peft_regress.files import is_file
from peft_regress.runs.schema import Selection
from peft_regress.text import printable, redacted


def kept_from_collection(option: Any) -> list[str]:
    """Return the options that keep tests from being collected: paths, `--ignore`, `--lf`."""
    found = [f"--ignore {path}" for path in getattr(option, "ignore", None) or ()]
    found += [f"--ignore-glob {path}" for path in getattr(option, "ignore_glob", None) or ()]
    found += [f"--{name}" for name in ("lf", "stepwise") if getattr(option, name, False)]
    typed = map(str, option.file_or_dir)
    found += [text for text in typed if "::" in text or is_file(Path(text))]
    return [text.encode("utf-8", "backslashreplace").decode() for text in found]


def chosen_from_collected(option: Any) -> list[str]:
    """Return the options that choose among the collected tests."""
    found = [f"-k {option.keyword}"] if option.keyword else []
    found += [f"-m {option.markexpr}"] if option.markexpr else []
    found += [f"--deselect {prefix}" for prefix in option.deselect or ()]
    found += [f"--regress-cases {option.regress_cases}"] if option.regress_cases else []
    found += [f"--regress-shard {option.regress_shard}"] if option.regress_shard else []
    return [text.encode("utf-8", "backslashreplace").decode() for text in found]


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
    before_collection: list[str]
    """The options that kept tests from being collected."""
    after_collection: list[str]
    """The options that chose among the collected tests."""
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
        narrowed_by = (*self.before_collection, *self.after_collection)
        return Selection(
            complete=not self.was_interrupted
            and not left_out
            and self.collected.selected <= self.measured,
            # A path may hold bytes that are not UTF-8.
            narrowed_by=[redacted(printable(one)) for one in narrowed_by] if left_out else [],
            not_selected=sorted(left_out),
        )

    @property
    def expected(self) -> frozenset[str]:
        """The cases that need a record: those selected, and those left out by nobody's wish."""
        # `-k`, `-m`, `--deselect` and a shard choose among collected cases. Only a path and the
        # like explain why a case was not collected. Nothing explains a case that was collected and
        # then vanished without being reported as deselected.
        collected = self.collected
        expected = collected.selected | (collected.cases - collected.deselected - self.measured)
        if self.before_collection:
            return expected
        expected |= self.known - collected.cases - self.measured
        return expected if self.after_collection else expected | self.not_selected


def should_have_cases(config: pytest.Config, baselines: Path) -> bool:
    """Return whether baselines are there, and pytest was asked for a folder that holds cases.

    These are the folders of the ini option `regress_suites`; without it, every folder. A run of
    single files or tests, or one without some folder, need not have a case.
    """
    if kept_from_collection(config.option):
        return False
    with contextlib.suppress(InputError):  # a folder of that name may be another tool's
        suites: list[Path] = config.getini("regress_suites")
        asked = [config.invocation_params.dir / argument for argument in config.args]
        pairs = itertools.product(asked, suites)
        are_asked = any(a.is_relative_to(b) or b.is_relative_to(a) for a, b in pairs)
        return bool(baseline_files(baselines)) and (not suites or are_asked)
    return False
