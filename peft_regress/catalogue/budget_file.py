"""The budgets of cases that state none themselves, from a TOML file of the project.

Each table of the file is a group: a `reason`, and under `cases` the limits by glob on case ids.
What a later glob says of a case goes before what an earlier one does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from peft_regress.budgets import SHARES, Budget
from peft_regress.cases import Case
from peft_regress.catalogue.matrix import all_cases
from peft_regress.catalogue.own_cases import settings_in_use
from peft_regress.errors import InputError, UnknownNameError
from peft_regress.files import read_toml

_FULL: Final = "_full"
_KEYS: Final = ("reason", "cases")
_LIMITS: Final = ("peak", "update", "ship", "score", *(f"{share}{_FULL}" for share in SHARES))


@dataclass(frozen=True, kw_only=True)
class BudgetFile:
    """Budgets by globs on case ids."""

    rows: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    """Each glob with its limits."""

    def budget_of(self, case: Case) -> Budget | None:
        """Return the budget of a case; None if no glob matches it.

        Its shares are of full fine-tuning on the same task and architecture.
        """
        limits: dict[str, Any] = {}
        for glob, found in self.rows:
            if fnmatchcase(case.id, glob):
                limits |= found
        full = Case(task=case.task, method="full", architecture=case.architecture)
        return _budget(limits, of=full) if limits else None


def stated_budgets() -> BudgetFile:
    """Return the budgets of the project's file; none without a file.

    Raises `InputError` for a file that cannot be used.
    """
    file = settings_in_use().budgets
    return BudgetFile() if file is None else read_budgets(file)


def read_budgets(file: Path) -> BudgetFile:
    """Read a file of budgets.

    Raises `InputError` for what is no TOML, an unknown key, a wrong limit, a group without a
    reason, and a glob that matches no case.
    """
    groups = read_toml(file, remedy="check `budgets` in [tool.peft_regress] of pyproject.toml")
    names = [case.id for case in all_cases()]
    rows = [
        row
        for name, group in groups.items()
        for row in _rows(group, names, where=f"{file}: group {name!r}")
    ]
    return BudgetFile(rows=tuple(rows))


def _rows(group: Any, names: list[str], *, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if not isinstance(group, dict):
        raise InputError(f"{where} is {group!r}: write a table with a reason and cases")
    _check_keys(group, _KEYS, f"key of {where}")
    reason, cases = group.get("reason"), group.get("cases")
    if not (isinstance(reason, str) and reason.strip()):
        raise InputError(
            f'{where} has no reason: say why its limits are what they are, in reason = "..."'
        )
    if not (isinstance(cases, dict) and cases):
        raise InputError(
            f'{where} has no cases: add a line such as cases."*/lora-*/*" = {{peak = "64 MiB"}}'
        )
    for glob, limits in cases.items():
        at = f"{where}, cases {glob!r}"
        if not (isinstance(limits, dict) and limits):
            raise InputError(
                f"{at}: {limits!r} is no table of limits, such as {{peak_of_full = 0.85}}"
            )
        _check_keys(limits, _LIMITS, f"limit of {at}")
        for name, value in limits.items():
            try:
                _budget({name: value}, of=Case.parse("task/full/architecture"))
            except InputError as error:
                raise InputError(f"{at}, {name}: {error}") from None
        if not any(fnmatchcase(name, glob) for name in names):
            raise InputError(
                f"{at}: no case has such an id; `peft-regress list` prints those there are"
            )
        yield glob, limits


def _check_keys(table: dict[str, Any], known: tuple[str, ...], what: str) -> None:
    for key in table:
        if key not in known:
            raise UnknownNameError(what, key, known)


def _budget(limits: Mapping[str, Any], *, of: Case) -> Budget:
    fields = {name.removesuffix(_FULL): value for name, value in limits.items()}
    return Budget(**fields, of=of.id if not fields.keys().isdisjoint(SHARES) else None)
