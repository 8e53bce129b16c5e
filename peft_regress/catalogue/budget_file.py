"""The budgets of cases that state none themselves, from a TOML file of the project.

Each table of the file is a group: a `reason`, and under `cases` the limits by glob on case ids.
What a later glob says of a case goes before what an earlier one does.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from peft_regress.cases import Case
from peft_regress.catalogue.matrix import all_cases
from peft_regress.errors import InputError
from peft_regress.files import read_table, read_toml
from peft_regress.project.budgets import SHARES, Budget
from peft_regress.project.own_cases import settings_in_use

_FULL: Final = "_full"
_Limit = Literal[
    "peak", "update", "ship", "edge_train", "score",
    "peak_of_full", "peak_b32_of_full", "update_of_full", "ship_of_full",
]  # fmt: skip


class _Group(msgspec.Struct, frozen=True):
    reason: Annotated[str, msgspec.Meta(min_length=1)]
    cases: Annotated[dict[str, dict[_Limit, str | float]], msgspec.Meta(min_length=1)]


@dataclass(frozen=True, kw_only=True)
class BudgetFile:
    """Budgets by globs on case ids."""

    rows: tuple[tuple[str, Mapping[Any, Any]], ...] = ()
    """Each glob with its limits."""

    def budget_of(self, case: Case) -> Budget | None:
        """Return the budget of a case, its shares of full fine-tuning; None if no glob matches."""
        limits: dict[str, Any] = {}
        for glob, found in self.rows:
            if fnmatchcase(case.id, glob):
                limits |= found
        full = Case(task=case.task, method="full", architecture=case.architecture)
        return _budget(limits, of=full) if limits else None


def stated_budgets() -> BudgetFile:
    """Return the budgets of the project's file; none without a file."""
    file = settings_in_use().budgets
    return BudgetFile() if file is None else read_budgets(file)


def read_budgets(file: Path) -> BudgetFile:
    """Read a file of budgets."""
    groups = read_toml(file, remedy="check `budgets` in [tool.peft_regress] of pyproject.toml")
    names = [case.id for case in all_cases()]
    rows = (_rows(group, names, f"{file}: group {name!r}") for name, group in groups.items())
    return BudgetFile(rows=tuple(row for found in rows for row in found))


def _rows(group: Any, names: list[str], where: str) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    for glob, limits in read_table(group, _Group, where).cases.items():
        at = f"{where}, cases {glob!r}"
        try:
            _budget(limits, of=Case.parse("task/full/architecture"))
        except InputError as error:
            raise InputError(f"{at}: {error}") from None
        if not any(fnmatchcase(name, glob) for name in names):
            raise InputError(
                f"{at}: no case has such an id; `peft-regress list` prints those there are"
            )
        yield glob, limits


def _budget(limits: Mapping[Any, Any], *, of: Case) -> Budget:
    fields = {name.removesuffix(_FULL): value for name, value in limits.items()}
    return Budget(**fields, of=of.id if not fields.keys().isdisjoint(SHARES) else None)
