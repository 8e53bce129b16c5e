"""The table `[tool.peft_regress]` of pyproject.toml: cases, storage, bounds, budgets and so on."""

import os
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

from peft_regress.errors import InputError
from peft_regress.files import read_table, read_toml
from peft_regress.project.budgets import OWN_MATRIX, Bound

DEFAULT_MATRIX: Final = "default"
"""The built-in matrix of a project without cases of its own."""

_FILE: Final = "pyproject.toml"
_TABLE: Final = "peft_regress"
_STORAGE: Final = "baselines"
_Text = Annotated[str, msgspec.Meta(min_length=1)]


@dataclass(frozen=True)
class Pip:
    """How long one call of pip may take, and what it may install."""

    seconds: float = 1800.0
    pre: bool = False
    replace_torch: bool = False


class BoundRule(Bound, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A row of `bounds`: a bound, and what it is on."""

    cases: _Text
    """A glob on case ids."""
    metric: _Text
    reason: _Text


class _Table(msgspec.Struct, frozen=True, kw_only=True):
    """The table as it is written; `Settings` explains the keys."""

    cases: tuple[_Text, ...] = ()
    matrix: _Text | None = None
    baselines: _Text = _STORAGE
    bounds: tuple[BoundRule, ...] = ()
    devices: _Text | None = None
    budgets: _Text | None = None
    pip_time_limit: Annotated[float, msgspec.Meta(gt=0)] = Pip.seconds


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a project."""

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
    pip: Pip = Pip()

    def bounds_of(self, case_id: str) -> dict[str, Bound]:
        """Return the bounds of a case by metric; a later rule wins."""
        rules = (rule for rule in self.bounds if fnmatchcase(case_id, rule.cases))
        return {rule.metric: Bound(rule.bound, rule.reason) for rule in rules}


def read_settings(start: Path, *, root: Path | None = None) -> Settings:
    """Read the table from the nearest pyproject.toml that has it, in a folder or above.

    No folder above the root of a git repository counts. root: a folder that counts as such a root
    without git. Paths in the table are relative to the folder of the file. Raises `InputError` for
    a file that is no TOML, an unknown key, or a value of another type.
    """
    above = [start, *start.parents]
    end = next((at for at in above if at == root or os.path.lexists(at / ".git")), above[-1])
    for folder in above[: above.index(end) + 1]:
        file = folder / _FILE
        document = read_toml(file, remedy="make it readable") if os.path.lexists(file) else {}
        tool = document.get("tool")
        if isinstance(tool, dict) and tool.get(_TABLE) is not None:
            return _parsed(file, tool[_TABLE])
    return Settings(folder=start, baselines=start / _STORAGE)


def _parsed(file: Path, table: Any) -> Settings:
    where, folder = f"[tool.{_TABLE}] in {file}", file.parent
    found = msgspec.structs.asdict(read_table(table, _Table, where))
    found["matrix"] = found["matrix"] or (OWN_MATRIX if found["cases"] else DEFAULT_MATRIX)
    if not found["matrix"].isidentifier():
        raise InputError(f"{where}: matrix = {found['matrix']!r} is not the name of a matrix")
    for name in ("baselines", "devices", "budgets"):
        found[name] = found[name] and folder / found[name]
    pip = Pip(found.pop("pip_time_limit"))
    return Settings(folder=folder, file=file, pip=pip, **found)
