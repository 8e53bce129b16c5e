"""Search old releases with the fuzzer; go on where an earlier call was interrupted."""

from __future__ import annotations

import datetime as dt
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from peft_fuzz.methods import METHODS
from peft_fuzz.search.findings import Accepted, read_findings, write_finding
from peft_fuzz.search.fuzz import FuzzSettings, fuzz
from peft_fuzz.search.workers import LifeWorker
from peft_regress.environments.overlay.overlay import opened_overlay
from peft_regress.errors import InputError
from peft_regress.files import make_folder, write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from peft_fuzz.search.findings import Finding

__all__ = ["Replays", "SearchSettings", "SearchState", "Studied", "replayed", "search"]

_PIP_SECONDS: Final = 600.0
_T = TypeVar("_T", bound=msgspec.Struct)


class SearchState(msgspec.Struct, kw_only=True):
    """How far the search of one release is.

    Attributes:
        seconds: How long it was searched, in all calls together.
        calls: How many calls there were; each has a seed of its own.
        lives: How many lives were lived, those to make an example smaller included.
        found: When each finding was found, in seconds of search.
        packages: The versions of the environment.

    """

    seconds: float = 0.0
    calls: int = 0
    lives: int = 0
    found: dict[str, float] = {}
    packages: dict[str, str] = {}


class Studied:
    """The folder of one release: its state, its findings, and their replays on other releases."""

    def __init__(self, folder: Path, release: str) -> None:
        self.folder = folder / release
        self.release = release
        self.findings_folder = self.folder / "findings"

    def read_state(self) -> SearchState:
        """Return the state; a new one if there is none."""
        return _read(self.folder / "state.json", SearchState) or SearchState()

    def write_state(self, state: SearchState) -> None:
        """Keep the state."""
        _write(self.folder / "state.json", state)

    def findings(self) -> dict[str, Finding]:
        """Return what was found, by name."""
        if not self.findings_folder.is_dir():
            return {}
        every = [one for _, one in read_findings(self.findings_folder)]
        return {one.name: one for one in every if one.mended is None}


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """How each release is searched."""

    minutes: float
    jobs: int
    seed: int


def search(
    studied: Studied,
    requirements: Sequence[str],
    settings: SearchSettings,
    *,
    say: Callable[[str], None],
) -> bool:
    """Search a release until it had its minutes; return whether it has them.

    Findings and state are on disk while it goes on. False after an interrupt, or if the search
    ended early.
    """
    state = studied.read_state()
    seconds = 60 * settings.minutes
    left = seconds - state.seconds
    if left <= 0:
        return True
    make_folder(studied.findings_folder)
    known = _known_before(studied)
    # The environment is made before the clock starts; opening it again takes a second.
    with opened_overlay(requirements, replace_torch=False, pre=False, seconds=_PIP_SECONDS):
        before, start = state.seconds, time.monotonic()
        state.calls += 1

        def note(text: str) -> None:
            state.seconds = min(before + time.monotonic() - start, seconds)
            for path in studied.findings_folder.glob("*.json"):
                state.found.setdefault(path.stem, state.seconds)
            studied.write_state(state)
            say(f"peft {studied.release}: {text}")

        result = fuzz(
            requirements,
            FuzzSettings(
                corpus=known,
                save=studied.findings_folder,
                minutes=left / 60,
                jobs=settings.jobs,
                seed=settings.seed + 1000 * (state.calls - 1),
                ranges=False,
            ),
            progress=note,
        )
    state.seconds = before + result.seconds
    state.lives += sum(result.counts.lives.values())
    state.packages = result.packages
    there = studied.findings()
    state.found = {name: when for name, when in state.found.items() if name in there}
    studied.write_state(state)
    for problem in result.problems:
        say(f"peft {studied.release}: {problem}")
    return "interrupted" not in result.problems and state.seconds >= seconds - 1


def _known_before(studied: Studied) -> Path:
    """Return a corpus of what earlier calls found: no news to the next one."""
    folder = studied.folder / "known"
    shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder)
    date = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    accepted = Accepted(reason="found by an earlier call", date=date)
    for one in studied.findings().values():
        write_finding(folder, msgspec.structs.replace(one, accepted=accepted))
    return folder


class Replays(msgspec.Struct, kw_only=True):
    """How the findings of a release run on another one: by digest, '' if without a failure."""

    failures: dict[str, str] = {}


def replayed(
    studied: Studied, requirements: Sequence[str], *, release: str, say: Callable[[str], None]
) -> dict[str, str]:
    """Run each finding's example on another release; return how it fails there, by name.

    '' is no failure: the example runs, or is refused clearly. What was run before is not run again.
    """
    path = studied.folder / f"on-{release}.json"
    known = _read(path, Replays) or Replays()
    findings = studied.findings()
    missing = [one for one in findings.values() if one.content_digest not in known.failures]
    if missing:
        say(f"peft {studied.release}: {len(missing)} findings on {release}")
        with (
            opened_overlay(
                requirements, replace_torch=False, pre=False, seconds=_PIP_SECONDS
            ) as overlay,
            LifeWorker(overlay.python, tuple(METHODS)) as worker,
        ):
            worker.begin()
            for one in missing:
                failure = worker.live(one.example).failure
                said = "" if failure is None else f"{failure.check}: {failure.message}"
                known.failures[one.content_digest] = said
        _write(path, known)
    return {name: known.failures[one.content_digest] for name, one in findings.items()}


def _read(path: Path, kind: type[_T]) -> _T | None:
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except msgspec.DecodeError as error:
        raise InputError(f"{path}: {error}. Remove it to search this release again.") from error


def _write(path: Path, value: msgspec.Struct) -> None:
    make_folder(path.parent)
    write_atomic(path, msgspec.json.format(msgspec.json.encode(value)) + b"\n")
