"""How a pytest run was narrowed, in the words that were typed, and where they were written."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from peft_regress.files import is_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import pytest

COMMAND_LINE: Final = "command line"
_OFF: Final = "--regress-off"


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


def off_problem(config: pytest.Config) -> str | None:
    """Return what is wrong with `--regress-off` of a run in continuous integration."""
    place = narrowing_of(config).written_in.get(_OFF)
    if place is None or not is_ci():
        return None
    return f"{_OFF} of {place} measures nothing; with CI set only the command line may have it"


def is_ci() -> bool:
    """Return whether this is continuous integration, whose services all set CI."""
    return os.environ.get("CI", "").lower() not in {"", "0", "false"}


def narrowing_of(config: pytest.Config) -> Narrowing:
    """Read from a pytest run how it was narrowed."""
    paths = config.args if config.args_source is config.ArgsSource.ARGS else ()
    before, after = _before(config.option, paths), _after(config.option)
    typed: set[str] = set()
    written_in: dict[str, str] = {}
    for place, words in option_sources(config):
        given = config._parser.parse_known_args(words)  # noqa: SLF001  (nothing public tells them apart)
        items = {*_before(given, given.file_or_dir), *_after(given)}
        if place == COMMAND_LINE:
            typed = items
        else:
            written_in = dict.fromkeys(items - typed, place) | written_in
    return Narrowing(
        before_collection=tuple(before),
        after_collection=tuple(after),
        written_in={how: written_in[how] for how in (*before, *after) if how in written_in},
    )


def option_sources(config: pytest.Config) -> Iterator[tuple[str, list[str]]]:
    """Yield where pytest takes options from, the first that counts first."""
    yield COMMAND_LINE, [str(word) for word in config.invocation_params.args]
    yield "PYTEST_ADDOPTS", shlex.split(os.environ.get("PYTEST_ADDOPTS", ""))
    file = "an ini file" if config.inipath is None else config.inipath.name
    yield f"addopts of {file}", list(config.getini("addopts"))


def _before(option: Any, paths: Iterable[object]) -> list[str]:
    """Return what keeps tests from being collected at all."""
    found = [f"--ignore {path}" for path in getattr(option, "ignore", None) or ()]
    found += [f"--ignore-glob {path}" for path in getattr(option, "ignore_glob", None) or ()]
    found += [f"--{name}" for name in ("lf", "stepwise") if getattr(option, name, False)]
    found += [_OFF] if getattr(option, "regress_off", False) else []
    typed = map(str, paths)
    return found + [text for text in typed if "::" in text or is_file(Path(text))]


def _after(option: Any) -> list[str]:
    """Return what chooses among the collected tests."""
    found = [f"-k {option.keyword}"] if option.keyword else []
    found += [f"-m {option.markexpr}"] if option.markexpr else []
    found += [f"--deselect {prefix}" for prefix in option.deselect or ()]
    found += [f"--regress-cases {option.regress_cases}"] if option.regress_cases else []
    found += [f"--regress-shard {option.regress_shard}"] if option.regress_shard else []
    return found
