"""The budgets of cases that state none themselves, from a TOML file of the project.

Each table of the file is a group: a `reason`, and under `cases` the limits by glob on case ids.
What a later glob says of a case goes before what an earlier one does.
"""

from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from peft_regress.cases import Case
from peft_regress.catalogue.matrix import all_cases
from peft_regress.errors import InputError
from peft_regress.files import read_table, read_toml
from peft_regress.project.budgets import SHARES, Budget

_FULL: Final = "_full"
_Limit = Literal[
    "peak", "attainable", "update", "ship", "edge_train", "score",
    "peak_of_full", "peak_b32_of_full", "update_of_full", "ship_of_full",
]  # fmt: skip


class _Group(msgspec.Struct, frozen=True):
    reason: Annotated[str, msgspec.Meta(min_length=1)]
    cases: Annotated[dict[str, dict[_Limit, str | float]], msgspec.Meta(min_length=1)]


def read_budgets(file: Path | None) -> Callable[[Case], Budget | None]:
    """Return what gives the budget of a case; without a file or a glob that matches, it is None."""
    if file is None:
        return lambda _: None
    groups = read_toml(file, remedy="check `budgets` in [tool.peft_regress] of pyproject.toml")
    names = [case.id for case in all_cases()]
    found = (_rows(group, names, f"{file}: group {name!r}") for name, group in groups.items())
    rows = [row for group in found for row in group]

    def budget_of(case: Case) -> Budget | None:
        limits: dict[str, Any] = {}
        for glob, stated in rows:
            if fnmatchcase(case.id, glob):
                limits |= stated
        full = Case(task=case.task, method="full", architecture=case.architecture)
        return _budget(limits, of=full) if limits else None

    return budget_of


def _rows(group: Any, names: list[str], where: str) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    for glob, limits in read_table(group, _Group, where).cases.items():
        at = f"{where}, cases {glob!r}"
        try:
            _budget(limits, of=Case.parse("task/full/architecture"))
        except InputError as error:
            raise InputError(f"{at}: {error}") from None
        if not any(fnmatchcase(name, glob) for name in names):
            problem = f"{at}: no case has such an id; `peft-regress list` prints those there are"
            raise InputError(problem)
        yield glob, limits


def _budget(limits: Mapping[Any, Any], *, of: Case) -> Budget:
    fields = {name.removesuffix(_FULL): value for name, value in limits.items()}
    return Budget(**fields, of=of.id if not fields.keys().isdisjoint(SHARES) else None)
