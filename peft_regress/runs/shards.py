"""Read a run: from one file, or from a folder with the files of its shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from peft_regress.errors import InputError
from peft_regress.files import is_folder
from peft_regress.runs.environment import changed_packages
from peft_regress.runs.run_file import RunFile, read_run_file
from peft_regress.runs.schema import MIXED_MACHINES, SCHEMA_VERSION, Run, Selection


def read_run(path: Path) -> RunFile:
    """Read a run file, or the union of the run files of a folder (the shards of one run).

    Raises `InputError`, also if two files of the folder have the same case or their environments
    differ.
    """
    if not is_folder(path):
        return read_run_file(path)
    files = [read_run_file(file) for file in sorted(path.glob("*.json"))]
    if not files:
        raise InputError(f"{path}: the folder has no run file (*.json)")
    document = dict(files[0].document)
    document["benchmarks"] = [
        entry for file in files for entry in file.document.get("benchmarks", ())
    ]
    return RunFile(path=path, run=_union(path, files), document=document)


def _union(folder: Path, files: list[RunFile]) -> Run:
    first = files[0].run
    environment = dict(first.environment)
    cases: dict[str, Any] = {}
    file_of: dict[str, str] = {}
    for file in files:
        for package, (one, other) in changed_packages(environment, file.run.environment).items():
            if one is not None and other is not None:
                pair = f"{files[0].path.name} and {file.path.name}"
                raise InputError(
                    f"{folder}: {pair} are not shards of one run: {package} is {one} in one, "
                    f"{other} in the other"
                )
        # The cases of one shard may import what those of another do not.
        environment |= file.run.environment
        for name, record in file.run.cases.items():
            if name in cases:
                raise InputError(
                    f"{folder}: case {name} is in {file_of[name]} and in {file.path.name}; move "
                    "one of the files away"
                )
            cases[name] = record
            file_of[name] = file.path.name
    same_machine = all(file.run.machine == first.machine for file in files)
    mixed = msgspec.structs.replace(first.machine, digest=MIXED_MACHINES, cpu="several machines")
    return Run(
        schema_version=SCHEMA_VERSION,
        environment=dict(sorted(environment.items())),
        machine=first.machine if same_machine else mixed,
        selection=_union_selection([file.run for file in files], set(cases)),
        cases=dict(sorted(cases.items())),
        direct={name: digest for file in files for name, digest in file.run.direct.items()},
        metrics_known=_union_known([file.run for file in files]),
    )


def _union_known(runs: list[Run]) -> list[str]:
    """Return what every shard could measure; empty, as in schema 1, if no shard says it."""
    if not any(run.metrics_known for run in runs):
        return []
    return sorted(frozenset.intersection(*(run.known for run in runs)))


def _union_selection(runs: list[Run], present: set[str]) -> Selection:
    left_out = sorted({name for run in runs for name in run.selection.not_selected} - present)
    narrowed = sorted({how for run in runs for how in run.selection.narrowed_by})

    def is_whole(selection: Selection) -> bool:
        # Each shard is narrowed; together they are complete if nothing is left out. A run that is
        # incomplete without being narrowed was interrupted.
        how = selection.narrowed_by
        shard_only = bool(how) and all(text.startswith("--regress-shard") for text in how)
        return selection.complete or shard_only

    complete = not left_out and all(is_whole(run.selection) for run in runs)
    return Selection(
        complete=complete, narrowed_by=[] if complete else narrowed, not_selected=left_out
    )
