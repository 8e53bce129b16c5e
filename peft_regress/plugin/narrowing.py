"""How a pytest run was narrowed, in the words that were typed, and where they were written."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from peft_regress.files import is_file

if TYPE_CHECKING:
    import pytest

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
        """Return what a run in continuous integration must not be narrowed by.

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
    """Return what measures nothing, or chooses the matrix, or what judges or stands for a case."""
    found = ["--regress-off"] if getattr(option, "regress_off", False) else []
    found += ["--collect-only"] if option.collectonly else []
    for name in ("baseline", "matrix", "resume"):
        value = getattr(option, f"regress_{name}", None)
        found += [] if value is None else [f"--regress-{name} {value}"]
    settings = option.override_ini or ()
    return found + [f"-o {setting}" for setting in settings if setting.startswith("regress_")]


def _before(option: Any) -> list[str]:
    """Return what keeps tests from being collected at all."""
    found = [f"--ignore {path}" for path in getattr(option, "ignore", None) or ()]
    found += [f"--ignore-glob {path}" for path in getattr(option, "ignore_glob", None) or ()]
    found += [f"--{name}" for name in ("lf", "stepwise") if getattr(option, name, False)]
    typed = map(str, option.file_or_dir)
    return found + [text for text in typed if "::" in text or is_file(Path(text))]


def _after(option: Any) -> list[str]:
    """Return what chooses among the collected tests."""
    found = [f"-k {option.keyword}"] if option.keyword else []
    found += [f"-m {option.markexpr}"] if option.markexpr else []
    found += [f"--deselect {prefix}" for prefix in option.deselect or ()]
    found += [f"--regress-cases {option.regress_cases}"] if option.regress_cases else []
    found += [f"--regress-shard {option.regress_shard}"] if option.regress_shard else []
    return found
