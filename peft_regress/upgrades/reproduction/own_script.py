"""Write a script that measures an own case, for the people who know the project. No torch here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from peft_regress.cases import Case
from peft_regress.catalogue.own_cases import source_of
from peft_regress.upgrades.reproduction.sections import fill_in, source

NEEDS: Final = "the project and peft-regress"
"""What must be installed to run it."""

_SCRIPT: Final = '''\
"""$CASE, as the project defines it.

Run it in the folder of pyproject.toml: PYTHONPATH=. python reproduction.py
"""

from pathlib import Path

from $MODULE import $NAME
from peft_regress import FineTune
from peft_regress.measure import ProfileCache, Recipe, measure

found = [$NAME] if isinstance($NAME, FineTune) else $NAME
case = next(case for case in found if case.id == $ID)
record = measure(Recipe.of(case, Path("baselines")), profiles=ProfileCache(), timed=False).record
print("status:", record.status_text)
for name in $FACTS:
    if name in record.metrics:
        print(f"{name}: {record.metrics[name].value:.6g}")
    elif name in record.invariants:
        print(f"{name}: {record.invariants[name]}")
'''


def own_script(case: Case, facts: Iterable[str]) -> str | None:
    """Return a script that measures a case and prints metrics and invariants by name.

    None if the case is not the project's own, or was given by a suite and has no import path.
    Raises `InputError` for own cases that cannot be imported.
    """
    path = source_of(case)
    if path is None:
        return None
    module, _, name = path.partition(":")
    return fill_in(
        _SCRIPT,
        CASE=case.id,
        MODULE=module,
        NAME=name,
        ID=source(case.id),
        FACTS=source(tuple(sorted(facts))),
    )
