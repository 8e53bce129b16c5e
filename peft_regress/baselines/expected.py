"""Which cases a run should hold that a storage judges, and whether it holds all of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase

from peft_regress.cases import Case
from peft_regress.catalogue.matrix import built_in_matrices, matrices_of
from peft_regress.gate.verdicts import Observation
from peft_regress.runs.schema import Selection


def expected_cases(
    references: Mapping[str, Observation], matrix: str, cases: Collection[Case] | None
) -> set[str]:
    """Return the ids of the cases of a matrix, and of those stored cases that belong to no other.

    cases: those of the matrix; None to expect only what is stored, and import no own case.
    """
    matrices = built_in_matrices if cases is None else matrices_of
    expected = {case.id for case in cases or ()}
    # A stored case that belongs to no matrix is expected too.
    return expected | {
        name
        for name, old in references.items()
        if matrix in (matrices(old.record.case) or {matrix})
    }


def is_complete(selection: Selection, patterns: Sequence[str], expected: Collection[str]) -> bool:
    """Return whether a run has all that it was asked for, as far as it is of these cases.

    A case that was retired since is missing from no run, unless the run was narrowed: then nobody
    knows what else was left out.
    """
    left_out = any(
        all(fnmatchcase(name, pattern) for pattern in patterns)
        and (selection.narrowed_by or name in expected)
        for name in selection.not_selected
    )
    return selection.complete or (bool(selection.not_selected) and not left_out)
