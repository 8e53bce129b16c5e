"""What judges each case, which cases a run should hold, and which of them only repeat an entry."""

import dataclasses
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from peft_regress.baselines.current import read_contents
from peft_regress.cases import Case
from peft_regress.catalogue.matrix import built_in_matrices, matrices_of
from peft_regress.errors import InputError, RunFileError
from peft_regress.gate.judge import judge_case
from peft_regress.gate.repeats import lacks_seeds, whole
from peft_regress.gate.verdicts import Observation, observations_of
from peft_regress.runs.run_file import RunFile, read_run_file, with_ledgers_of
from peft_regress.runs.schema import Record, Run, Selection


def read_references(root: Path, *, drift: bool = False) -> dict[str, Observation]:
    """Return what judges each case of a storage, by id, with the ledgers of these records alone.

    drift: with the older entries it counts from. Raises `RunFileError` for a lost or altered part.
    """
    contents = read_contents(root)
    judges, paths = contents.judges, {link.stem: link.path(root) for link in contents.links}
    records = with_ledgers_of(
        {name: one.record for name, one in judges.items()},
        lambda name: paths[judges[name].run_name],
    )
    return {
        name: dataclasses.replace(
            one, record=records[name], drift_origins=one.drift_origins if drift else {}
        )
        for name, one in judges.items()
    }


def expected_cases(
    references: Mapping[str, Observation], matrix: str, cases: Collection[Case] | None
) -> set[str]:
    """Return the ids of the cases of a matrix, and of those stored cases that belong to no other.

    cases: those of the matrix; None to expect only what is stored, and import no own case.
    """
    matrices = built_in_matrices if cases is None else matrices_of
    expected = {case.id for case in cases or ()}
    return expected | {
        name
        for name, old in references.items()
        if matrix in (matrices(old.record.case) or {matrix})
    }


def is_complete(selection: Selection, pattern: str, expected: Collection[str]) -> bool:
    """Return whether a run has all that it was asked for of the cases that a glob matches.

    A case that was retired since is missing from no run, unless the run was narrowed: then nobody
    knows what else was left out.
    """
    left_out = any(
        fnmatchcase(name, pattern) and (selection.narrowed_by or name in expected)
        for name in selection.not_selected
    )
    return selection.complete or (bool(selection.not_selected) and not left_out)


_NEWS = frozenset({"new metric", "model"})
"""The remarks on what a reference does not hold."""


def split(run: Run, references: Mapping[str, Observation]) -> tuple[Run, dict[str, str]]:
    """Return a run with the cases that an entry must hold, and what the others repeat, by case.

    A case that repeats a training but differs otherwise, in a cost for instance, is held with the
    scores of that training. Raises `InputError` for a case that repeats what is not stored.
    """
    held: dict[str, Record] = {}
    repeats: dict[str, str] = {}
    for name, new in observations_of(run, "").items():
        old = references.get(name)
        full = whole(new, old)
        if full.record.is_repeat:
            raise InputError(
                f"{name} repeats {new.record.repeated_run}, which this storage does not hold, so "
                "that its scores are not known. Measure it with --regress-full."
            )
        if old and new.record.is_repeat and not _has_news(old, full):
            repeats[name] = old.run_name
        else:
            held[name] = full.record
    return msgspec.structs.replace(run, cases=held), repeats


def _has_news(old: Observation, new: Observation) -> bool:
    was, now = old.record, new.record
    verdict = judge_case(now.case.id, old, new)
    return (
        (was.budget, was.bounds, was.own_code, was.defects)
        != (now.budget, now.bounds, now.own_code, now.defects)
        or any(reason.verdict != "known_defect" for reason in verdict.reasons)
        or any(remark.kind in _NEWS for remark in verdict.remarks)
    )


def as_confirmed(record: Record, run_name: str) -> Record:
    """Return what an entry that confirms a case says of it: the same, without its own scores."""
    repeating = msgspec.structs.replace(record, repeats=run_name, metrics={})
    metrics = {
        name: metric for name, metric in record.metrics.items() if not lacks_seeds(repeating, name)
    }
    return msgspec.structs.replace(repeating, metrics=metrics)


def with_confirmed(made: RunFile) -> RunFile:
    """Return an entry, to be accepted once more, with the cases that it only confirms.

    Raises `RunFileError` if it does not lie in its storage. A run stays as it is.
    """
    accepted = made.run.accepted
    if accepted is None:
        return made
    wanted = set(accepted.repeats.values())
    repeated = {
        path.stem: read_run_file(path).run.cases
        for path in made.path.parent.parent.glob("*/*.json")
        if path.stem in wanted
    }
    cases = dict(made.run.cases)
    for name, entry in accepted.repeats.items():
        if name not in repeated.get(entry, {}):
            problem = f"{name}: the entry {entry}, which it repeats, is not there"
            remedy = "An entry is whole only inside its storage: accept it from there."
            raise RunFileError(made.path, problem, remedy)
        cases[name] = as_confirmed(repeated[entry][name], entry)
    return dataclasses.replace(made, run=msgspec.structs.replace(made.run, cases=cases))
