"""The table `[tool.peft_regress]` of pyproject.toml: cases, storage, bounds, budgets and so on."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from peft_regress.errors import InputError, UnknownNameError
from peft_regress.fine_tune import OWN_MATRIX, Bound
from peft_regress.text import printable

DEFAULT_MATRIX: Final = "default"
"""The built-in matrix of a project without cases of its own."""

_FILE: Final = "pyproject.toml"
_TABLE: Final = "peft_regress"
_STORAGE: Final = "baselines"
_BUDGETS: Final = "benchmarks/budgets.toml"
_BOUND_KEYS: Final = ("cases", "metric", "bound", "reason")


@dataclass(frozen=True, kw_only=True)
class BoundRule:
    """A bound of one's own for the metrics of many cases."""

    cases: str
    """A glob on case ids."""
    metric: str
    bound: Bound


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a project has written down once, so that nobody types it."""

    folder: Path
    """The folder of pyproject.toml; without a table, the folder where the search began."""
    file: Path | None = None
    """The pyproject.toml with the table; None if there is none."""
    cases: tuple[str, ...] = ()
    """Import paths `pkg.mod:NAME` of a FineTune or an iterable of them."""
    matrix: str = DEFAULT_MATRIX
    """The matrix that commands and tests take if none is typed."""
    baselines: Path
    """The baseline storage."""
    bounds: tuple[BoundRule, ...] = ()
    devices: Path | None = None
    """A TOML table of device classes of one's own."""
    budgets: Path | None = None
    """A TOML file with the budgets of cases that state none themselves."""
    data: tuple[str, ...] = ()
    """Globs of files that cases read beside their code: they are sent to the nodes of a cluster."""

    def bounds_of(self, case_id: str) -> dict[str, Bound]:
        """Return the bounds of a case by metric; a later rule wins."""
        return {rule.metric: rule.bound for rule in self.bounds if fnmatchcase(case_id, rule.cases)}


def read_settings(start: Path, *, root: Path | None = None) -> Settings:
    """Read the table from the nearest pyproject.toml that has it, in a folder or above.

    It names code that is imported, so no folder above the root of the git repository counts, and
    outside a repository of this user none but the folder itself: a table above is an error there.
    root: a folder that counts as such a root without git, for instance since its code runs anyway.
    Paths in the table are relative to the folder of the file. Raises `InputError` for a file that
    is no TOML, an unknown key, or a value of another type.
    """
    above = [start, *start.parents]
    ends = (at for at in above if at == root or os.path.lexists(at / ".git"))
    end = next(ends, None)
    is_inside = end == root or _is_of_user(end) if end else False
    for folder in above[: above.index(end) + 1] if end else above:
        file = folder / _FILE
        table = _table(file) if file.is_file() else None
        if table is None:
            continue
        if folder != start and not is_inside:
            msg = (
                f"{file} has [tool.{_TABLE}], and no git repository of yours holds it and {start}: "
                f"type the command in {folder}, or `git init` there"
            )
            raise InputError(printable(msg))
        return _parsed(file, table)
    return Settings(folder=start, baselines=start / _STORAGE, budgets=_usual_budgets(start))


def _is_of_user(repository: Path) -> bool:
    """Return whether this user or root made a repository, as git itself demands."""
    owners = {repository.lstat().st_uid, (repository / ".git").lstat().st_uid}
    return owners <= {os.getuid(), 0}


def _usual_budgets(folder: Path) -> Path | None:
    file = folder / _BUDGETS
    return file if file.is_file() else None


def _table(file: Path) -> Any | None:
    try:
        document = tomllib.loads(file.read_bytes().decode())
    except OSError as error:
        msg = f"{file}: cannot be read ({error.strerror or error})"
        raise InputError(printable(msg)) from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        msg = f"{file}: is not TOML ({error})"
        raise InputError(printable(msg)) from None
    tool = document.get("tool", {})
    return tool.get(_TABLE) if isinstance(tool, dict) else None


def _parsed(file: Path, table: Any) -> Settings:
    where = f"[tool.{_TABLE}] in {file}"
    if not isinstance(table, dict):
        msg = f"{where} is not a table"
        raise InputError(printable(msg))
    for key in table:
        if key not in _KEYS:
            raise UnknownNameError(printable(f"key of {where}"), key, _KEYS)
    values = {}
    for key, value in table.items():
        wanted, fits = _KEYS[key]
        if not fits(value):
            msg = f"{where}: {key} = {value!r} is not {wanted}"
            raise InputError(printable(msg))
        values[key] = value
    folder = file.parent
    cases = tuple(values.get("cases", ()))
    devices, budgets = values.get("devices"), values.get("budgets")
    return Settings(
        folder=folder,
        file=file,
        cases=cases,
        matrix=values.get("matrix", OWN_MATRIX if cases else DEFAULT_MATRIX),
        baselines=folder / values.get("baselines", _STORAGE),
        bounds=tuple(_bound_rule(where, rule) for rule in values.get("bounds", ())),
        devices=None if devices is None else folder / devices,
        budgets=_usual_budgets(folder) if budgets is None else folder / budgets,
        data=tuple(values.get("data", ())),
    )


def _bound_rule(where: str, rule: dict[str, Any]) -> BoundRule:
    for key in rule:
        if key not in _BOUND_KEYS:
            raise UnknownNameError(printable(f"key of a bound of {where}"), key, _BOUND_KEYS)
    for key in _BOUND_KEYS:
        if key not in rule:
            msg = f"{where}: the bound {rule} has no {key}"
            raise InputError(printable(msg))
    for key in ("cases", "metric"):
        if not _is_text(rule[key]):
            msg = f"{where}: {key} = {rule[key]!r} of a bound is not {_TEXT}"
            raise InputError(printable(msg))
    try:
        bound = Bound(rule["bound"], rule["reason"])
    except InputError as error:
        msg = f"{where}: {error}"
        raise InputError(printable(msg)) from None
    return BoundRule(cases=rule["cases"], metric=rule["metric"], bound=bound)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_path(value: Any) -> bool:
    return _is_text(value) and "\0" not in value


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value.isidentifier()


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_list_of_tables(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


_TEXT: Final = "a text that is not empty"
_KEYS: Final[dict[str, tuple[str, Callable[[Any], bool]]]] = {
    "cases": ('a list of import paths, such as ["pkg.gates:GATES"]', _is_list_of_texts),
    "matrix": ("the name of a matrix", _is_name),
    "baselines": ("the name of a folder", _is_path),
    "bounds": (f"a list of tables with {', '.join(_BOUND_KEYS)}", _is_list_of_tables),
    "devices": ("the name of a TOML file", _is_path),
    "budgets": ("the name of a TOML file", _is_path),
    "data": ('a list of globs of files, such as ["gates/images/*.png"]', _is_list_of_texts),
}
