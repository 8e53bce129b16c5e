"""Measure a case with units of two releases of a package, in a fork of a process that has the rest.

A worker imports what does not import the package, then forks for each trial: what a trial imports
and breaks is gone with it.
"""

import contextlib
import importlib.metadata
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Final, TypeAlias

import msgspec
from msgspec import UNSET

from peft_regress.files import encoded
from peft_regress.mixing.mixture import VARIABLE, Calls, Mixture, mixture_in_use
from peft_regress.runner.measurer import CaseRequest, Measurer
from peft_regress.runs.schema import Failure, Record, canonical_digest

TRIED: Final = f"{__name__}:tried"
LOCATED: Final = f"{__name__}:located"
Value: TypeAlias = float | bool | str | None


class Named(msgspec.Struct, frozen=True):
    """A distribution to look up, by its normalized name."""

    distribution: str


class Located(msgspec.Struct, frozen=True):
    """Where an environment has a distribution."""

    modules: dict[str, str]
    """The folder that holds each top-level module in Python."""


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """A case to measure with a mixture."""

    request: CaseRequest
    mixture: Mixture
    in_full: bool
    """Whether it trains all its steps; else the first ones alone."""
    first: list[str]
    """Modules to import before, unless they import the package."""


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """What a trial measured."""

    values: dict[str, Value] = {}
    """Metrics, invariants, `status`, `trained` and `inputs`."""
    ran: Calls = {}
    """Of a traced trial."""
    loaded: list[str] = []
    """Modules that were imported, without those of the package."""
    problem: str = ""
    """Why there are no values."""


def located(request: Named) -> Located:
    """Return where a distribution is. Raises `PackageNotFoundError`; imports nothing of it."""
    found = importlib.metadata.distribution(request.distribution)
    tops = {Path(str(path)).parts[0] for path in found.files or () if path.suffix == ".py"}
    names = {top.removesuffix(".py") for top in tops} | {request.distribution.replace("-", "_")}
    specs = {name: find_spec(name) for name in sorted(names) if name.isidentifier()}
    origins = {name: Path(spec.origin or "") for name, spec in specs.items() if spec}
    return Located(
        {
            name: str(origin.parent.parent if origin.stem == "__init__" else origin.parent)
            for name, origin in origins.items()
            if origin.suffix == ".py"
        }
    )


def tried(trial: Trial) -> Tried:
    """Measure in a fork. What it raises, or that it was killed, is the answer's problem."""
    _import_apart(trial.first, trial.mixture.modules)
    found = _forked(lambda: _measured(trial))
    return Tried(problem="the process that tried it was killed") if found is None else found


def _import_apart(names: list[str], package: list[str]) -> None:
    """Import the modules that can be imported without the package; forks try them."""
    left = [name for name in names if name not in sys.modules]
    while left:
        tried = _forked(partial(_imported, left, package))
        apart = tried.loaded if tried else []
        for name in apart:
            import_module(name)
        # What comes after them is not apart, and neither is what stands beside it.
        rest = left[len(apart) :]
        left = [name for name in rest if name.partition(".")[0] != rest[0].partition(".")[0]]


def _imported(names: list[str], package: list[str]) -> Tried:
    """Import modules up to one that fails or imports the package; return those before it."""
    apart = []
    with contextlib.suppress(Exception):
        for name in names:
            import_module(name)
            if not sys.modules.keys().isdisjoint(package):
                break
            apart.append(name)
    return Tried(loaded=apart)


def _forked(make: Callable[[], Tried]) -> Tried | None:
    """Return what a fork of this process makes; None if it was killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.close(reading)
            try:
                answer = make()
            except BaseException as error:  # noqa: BLE001  (mixed code may raise anything)
                failure = Failure.of(error)
                answer = Tried(problem=f"{failure.type}: {failure.message}")
            with os.fdopen(writing, "wb") as stream:
                stream.write(msgspec.json.encode(answer))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        answered = stream.read()
    os.waitpid(child, 0)
    return msgspec.json.decode(answered, type=Tried) if answered else None


def _measured(trial: Trial) -> Tried:
    with tempfile.TemporaryDirectory() as scratch:
        traced = str(Path(scratch, "ran.json"))
        mixture = msgspec.structs.replace(trial.mixture, traced=trial.mixture.traced and traced)
        handed = Path(scratch, "mixture.json")
        handed.write_bytes(encoded(mixture))
        os.environ[VARIABLE] = str(handed)
        with mixture_in_use(mixture):
            record = Measurer().tried(trial.request, in_full=trial.in_full)
        ran = msgspec.json.decode(Path(traced).read_bytes()) if mixture.traced else {}
        tops = {*mixture.modules, "peft_regress", "__main__"}
        loaded = [name for name in sys.modules if name.partition(".")[0] not in tops]
        return Tried(values=values_of(record), ran=ran, loaded=loaded)


def values_of(record: Record) -> dict[str, Value]:
    """Return what a record says, by name."""
    error = record.error
    found: dict[str, Value] = {name: metric.value for name, metric in record.metrics.items()}
    found |= record.invariants
    # A mixture may fail in a way of its own where a release is wrong.
    for name, defect in () if record.defects is UNSET else record.defects.items():
        found[name] = canonical_digest(msgspec.to_builtins((defect.error, defect.tensors)))
    for name, part in (("trained", record.trained), ("inputs", record.inputs)):
        if part is not UNSET:
            found[name] = canonical_digest(msgspec.to_builtins(part))
    said = "" if error is None else f": {error.type}: {error.message}"
    found["status"] = record.status + said
    return found
