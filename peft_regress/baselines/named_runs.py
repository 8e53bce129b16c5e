"""The paths that a user names: the one place that reads runs by name and refuses outputs.

A name is a run file, a journal, a folder of shards, a baseline storage, or an entry of it.
"""

import difflib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from peft_regress.baselines.references import read_references
from peft_regress.baselines.storage import baseline_files
from peft_regress.cases import split_case_id
from peft_regress.errors import AbsentError, InputError
from peft_regress.files import path_problem
from peft_regress.gate.repeats import whole
from peft_regress.gate.verdicts import Observation, observations_of
from peft_regress.runs.journal import partial_run, run_file_of
from peft_regress.runs.run_file import RunFile, read_run


class Named(NamedTuple):
    """What a name stands for; nothing is read yet."""

    path: Path
    """A run file, the journal of an interrupted run, a folder of shards, or a storage."""
    name: str
    """The name that reports show: of an entry `0003_peft-0.21.2`, else the path."""
    is_storage: bool
    root: Path
    """The storage whose trainings its cases may repeat."""

    def read(self) -> RunFile:
        """Read the one run. Raises `InputError` for a storage, which holds several."""
        path = self.of_one_run()
        return read_run(path) if run_file_of(path) == path else partial_run(path)

    def of_one_run(self) -> Path:
        """Return the path of the one run. Raises `InputError` for a storage."""
        if self.is_storage:
            problem = f"{self.name}: is a baseline storage. Name a run file or one entry of it."
            raise InputError(problem)
        return self.path

    def observations(self) -> dict[str, Observation]:
        """Return the cases by id, to compare others with.

        Of a storage each case's newest baseline; one that repeats a stored training has its scores.
        """
        if self.is_storage:
            return read_references(self.path)
        found = observations_of(self.read().run, self.name)
        repeating = [name for name, one in found.items() if one.record.is_repeat]
        stored = read_references(self.root) if repeating else {}
        return found | {name: whole(found[name], stored.get(name)) for name in repeating}


def find_named(root: Path, name: str) -> Named:
    """Find what a name stands for; an entry, such as `0003`, is one of the storage `root`.

    Raises `AbsentError` if the name is none of these, `InputError` if it is empty: as a path, an
    empty name would be the working directory.
    """
    if not name:
        raise InputError(f"the name is empty: name a run file, a folder or an entry of {root}")
    path = Path(name)
    if not path.name:
        path = path.absolute()  # `.`: what is kept beside a run is found by its name
    if os.path.exists(path):  # noqa: PTH110  (`Path.exists` raises for too long a name)
        return Named(path, str(path), is_storage=bool(baseline_files(path)), root=root)
    entries = baseline_files(root)
    fitting = [
        file for file in entries if name in (file.stem, file.name, file.stem.partition("_")[0])
    ]
    if len(fitting) == 1:
        return Named(fitting[0], fitting[0].stem, is_storage=False, root=root)
    known = ", ".join(file.stem for file in entries) or "none"
    problem = "fits several entries" if fitting else "is no file and no entry"
    raise AbsentError(
        f"{name!r} {problem} of {root}. Entries: {known}. "
        "Make a run file with `pytest SUITE --regress-save PATH`."
    )


def find_input(root: Path, name: str) -> Named:
    """Find what a name stands for, as `find_named` does; a name of nothing is an `InputError`."""
    try:
        return find_named(root, name)
    except AbsentError as error:
        raise InputError(*error.args) from None


def named_case(root: Path, name: str, case: str) -> Observation:
    """Return a case of what is named. Raises `InputError` for no id, `AbsentError` for no case."""
    split_case_id(case)
    cases = find_named(root, name).observations()
    if case not in cases:
        close = difflib.get_close_matches(case, sorted(cases), n=3) or sorted(cases)[:3]
        hint = f" There are: {', '.join(close)}." if close else ""
        raise AbsentError(f"{name} holds no case {case!r}; it holds {len(cases)}.{hint}")
    return cases[case]


def load_references(root: Path, name: str | None) -> dict[str, Observation]:
    """Return what judges each case, by id.

    Without a name: the newest entry of role `baseline` in the storage `root` that holds the case,
    with the older entries that its drift counts from. With a name: only what is named, without
    drift. Raises `InputError` if the name stands for nothing.
    """
    if name is None:
        return read_references(root, drift=True)
    try:
        return find_named(root, name).observations()
    except AbsentError as error:
        raise InputError(f"--regress-baseline {error}") from None


def check_output(
    path: Path,
    option: str,
    *,
    storage: Path,
    reads: Iterable[Path] = (),
    kind: str = "baseline storage",
) -> None:
    """Raise `InputError` for a file that a command must not, or cannot, write.

    It must not lie in a storage, nor be what the command reads, or a new shard of it, under
    whatever name. option: what named the file.
    """
    problem = "the name is empty" if path == Path() else path_problem(path)
    written = Path(os.path.realpath(path))  # unlike `Path.resolve`, it takes a loop of links
    if problem is None and written.is_relative_to(os.path.realpath(storage)):
        problem = f"lies in the {kind} {storage}, to which only `accept` adds"
    for read in map(os.path.realpath, reads if problem is None else ()):
        if written == Path(read) or (written.parent == Path(read) and written.suffix == ".json"):
            problem = "is the run that is read, or would be a shard of it"
    if problem is not None:
        raise InputError(f"{option} {path}: {problem}. Choose another path.")
