"""Choose what each case is judged by: the newest accepted baseline, or the one that was named."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path
from typing import TYPE_CHECKING

from peft_regress.errors import InputError
from peft_regress.gate import Observation, observations_of
from peft_regress.store import baseline_files, is_folder, read_run, read_runs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from peft_regress.store import StoredRun

__all__ = ["load_references", "newest_references"]


def load_references(root: Path, selector: str | None) -> dict[str, Observation]:
    """Return what each case is judged by.

    Without a selector: per case, the newest entry of role `baseline` in the storage `root`. With
    one: a run file, a folder of shards, another storage, or the name of an entry of `root`
    (`0003`, or `0003_peft-0.21.2`). Raises `InputError` where the selector fits nothing.
    """
    if selector is None:
        return newest_references(read_runs(root))
    path = Path(selector)
    if is_folder(path) and baseline_files(path):
        return newest_references(read_runs(path))
    if os.path.exists(path):  # noqa: PTH110  (`Path.exists` raises for too long a name)
        return observations_of(read_run(path).run, str(path))
    named = [
        file
        for file in baseline_files(root)
        if selector in (file.stem, file.name, file.stem.partition("_")[0])
    ]
    if len(named) == 1:
        return observations_of(read_run(named[0]).run, named[0].stem)
    known = ", ".join(file.stem for file in baseline_files(root)) or "none"
    what = "fits several entries" if named else "is no file and no entry"
    msg = f"--regress-baseline {selector!r} {what} of {root}. Entries: {known}."
    raise InputError(msg)


def newest_references(stored: Iterable[StoredRun]) -> dict[str, Observation]:
    """Return per case the newest entry of role `baseline`, by date of acceptance."""
    baselines = [
        entry
        for entry in stored
        if entry.run.accepted is not None and entry.run.accepted.role == "baseline"
    ]
    # A stable sort: of two accepted in the same second the later entry number wins.
    baselines.sort(key=_accepted_at)
    references: dict[str, Observation] = {}
    for entry in baselines:
        references.update(observations_of(entry.run, entry.path.stem))
    return references


def _accepted_at(entry: StoredRun) -> dt.datetime:
    # Reading checked the date; only accepted entries are asked for it.
    accepted = entry.run.accepted
    date = accepted.date if accepted else "0001-01-01T00:00:00+00:00"
    return dt.datetime.fromisoformat(date)
