"""Choose what judges each case, and which cases a run should hold."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from peft_regress.baselines.current import Contents, current_at, current_of, read_contents
from peft_regress.baselines.storage import read_while_still
from peft_regress.cases import Case
from peft_regress.catalogue.matrix import built_in_matrices, matrices_of
from peft_regress.gate.policy import DEFAULT_POLICY, Policy
from peft_regress.gate.verdicts import Observation
from peft_regress.runs.run_file import RunFile
from peft_regress.runs.schema import Selection


def references_with_drift(
    stored: Iterable[RunFile], *, policy: Policy = DEFAULT_POLICY
) -> dict[str, Observation]:
    """Return each case of the newest entry of role `baseline` that holds it, by id.

    stored: oldest first. Each case has the older entries that its drift counts from. A case that an
    entry retires is left out, unless a later entry holds it again.
    """
    contents = Contents(policy=policy)
    for entry in stored:
        contents.add(entry)
    return contents.references


def read_references(root: Path, *, drift: bool = False) -> dict[str, Observation]:
    """Return what judges each case of a storage, by id, with the ledgers of these records alone.

    It reads only the entries that `current.txt` names. drift: with the older entries that it counts
    from. Raises `RunFileError` for what is missing or was altered.
    """
    return read_while_still(root, lambda paths: current_at(root, paths).references(drift=drift))


def read_references_before(root: Path, newest: Collection[Path]) -> dict[str, Observation]:
    """Read what judged each case, by drift too, before the newest entries were accepted."""
    return current_of(root, read_contents(root, without=newest)).references(drift=True)


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
