"""Programs that were planned and run before, and need not be again.

Exporting takes nine tenths of the time of a case. A program's costs, and what its run showed, are
kept in the user's cache folder under a key of all that they depend on (`key`). So cases whose
programs are equal, such as those of adapters that do nothing yet once they are merged, share them.

Also that a program is refused, which follows from the same key; a failure, for which there may have
been too little memory, is tried again.
"""

from __future__ import annotations

import contextlib
from functools import cached_property
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import msgspec

from peft_regress.errors import InputError
from peft_regress.files import cache_folder
from peft_regress.measure.edge.errors import UnsupportedProgramError
from peft_regress.measure.edge.key import program_key, run_key
from peft_regress.measure.edge.program import ProgramCost
from peft_regress.measure.invariants.facts import Fact  # noqa: TC001  (msgspec reads it)
from peft_regress.runs.kept import keep, mark_as_used, read_kept

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from peft_regress.measure.edge.export import Exported
    from peft_regress.measure.edge.program import Program

_MOST_FILES: Final = 2000
"""Files have some 10 KB; those of the edge matrix are 250."""


_Kept = TypeVar("_Kept", bound=msgspec.Struct)


class RunFacts(NamedTuple):
    """What running a program showed."""

    facts: dict[str, Fact]
    resident_bytes: int


class _KeptCost(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="planned"
):
    program_bytes: int
    planned_bytes: int
    plan: list[tuple[str, str, int]]
    calls: dict[str, int]
    without_kernel: list[str]
    draws: bool


class _KeptRun(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="ran"):
    facts: dict[str, Fact]
    resident_bytes: int


class _KeptRefusal(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="refused"
):
    message: str


class KnownProgram:
    """A program that is planned and run only if it was not before."""

    def __init__(self, exported: Exported) -> None:
        self._exported = exported
        self._key = program_key(exported)

    @cached_property
    def cost(self) -> ProgramCost:
        """Return what the program asks of a device; errors are those of `Exported.program`."""
        found = _known(_path(self._key), _KeptCost, self._planned)
        return ProgramCost(
            program_bytes=found.program_bytes,
            planned_bytes=found.planned_bytes,
            plan={(module, what): size for module, what, size in found.plan},
            calls=found.calls,
            without_kernel=tuple(found.without_kernel),
            draws=found.draws,
        )

    def _planned(self) -> _KeptCost:
        program = self._exported.program
        return _KeptCost(
            program_bytes=program.program_bytes,
            planned_bytes=program.planned_bytes,
            plan=[(module, what, size) for (module, what), size in program.plan.items()],
            calls=dict(program.calls),
            without_kernel=list(program.without_kernel),
            draws=program.draws,
        )

    def run(self, values: Iterable[object], run: Callable[[Program], RunFacts]) -> RunFacts:
        """Return what running the program shows; passes on what planning it and `run` raise.

        values: all that `run` uses beside the program.
        """

        def ran() -> _KeptRun:
            showed = run(self._exported.program)
            return _KeptRun(facts=showed.facts, resident_bytes=showed.resident_bytes)

        path = None if self._key is None else _path(run_key(self._key, values))
        found = _known(path, _KeptRun, ran)
        return RunFacts(found.facts, found.resident_bytes)


def _known(path: Path | None, kind: type[_Kept], find: Callable[[], _Kept]) -> _Kept:
    """Return what is kept in a file, or else find it and keep it; a refusal is raised again."""
    kept = _read(path, kind)
    if isinstance(kept, _KeptRefusal):
        raise UnsupportedProgramError(kept.message)
    if kept is not None:
        return kept
    try:
        found = find()
    except UnsupportedProgramError as error:
        _keep(path, _KeptRefusal(message=str(error)))
        raise
    _keep(path, found)
    return found


def _path(key: str | None) -> Path | None:
    """Return the file of a key; None if there is no key, or the user has no home folder."""
    with contextlib.suppress(InputError):
        return None if key is None else cache_folder() / "programs" / key
    return None


def _keep(path: Path | None, found: msgspec.Struct) -> None:
    if path is not None:
        keep(path, msgspec.json.encode(found), most=_MOST_FILES)


def _read(path: Path | None, kind: type[_Kept]) -> _Kept | _KeptRefusal | None:
    content = None if path is None else read_kept(path)
    if path is None or content is None:
        return None
    try:
        found: _Kept | _KeptRefusal = msgspec.json.decode(content, type=kind | _KeptRefusal)
    except ValueError:
        return None
    mark_as_used(path)
    return found
