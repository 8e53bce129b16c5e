"""Run examples on request: `python -m peft_fuzz.search.worker`; its messages."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import torch

from peft_fuzz.example import Example, Failure, Outcome
from peft_fuzz.networks.build import runs
from peft_fuzz.search.causes import Cause
from peft_regress.workers.serve import serve


class _Message(msgspec.Struct, frozen=True, kw_only=True):
    """One line of JSON."""


class Begin(_Message, frozen=True, kw_only=True, tag="begin"):
    """Import the libraries."""

    methods: tuple[str, ...]


class Begun(_Message, frozen=True, kw_only=True, tag="begun"):
    """The libraries can be imported."""

    absent: tuple[str, ...]
    """The methods of the request that this release does not have."""
    packages: dict[str, str]
    """The versions of what an outcome depends on."""
    file: str
    """Where peft comes from."""


class Seek(_Message, frozen=True, kw_only=True, tag="seek"):
    """Draw and run examples until one fails by a cause that is not known, or the time is over."""

    methods: tuple[str, ...]
    seed: int
    seconds: float
    shrink_seconds: float
    """How long a failing example may be made smaller, beyond `seconds`."""
    known: tuple[Cause, ...] = ()


class Counts(_Message, frozen=True, kw_only=True):
    """How many lives ended how, by method."""

    lives: dict[str, int] = {}
    """All of them, those included that were only lived to make an example smaller."""
    refused: dict[str, int] = {}
    absent: dict[str, int] = {}
    known: dict[str, int] = {}
    """Failures of known causes."""
    unsteady: dict[str, int] = {}
    """Failing examples that did not fail again."""
    unjudged: dict[str, int] = {}
    """Examples that the oracles cannot judge: a defect of this project."""

    def plus(self, other: Counts) -> Counts:
        """Return the sums."""
        sums = {}
        for name in self.__struct_fields__:
            one, two = getattr(self, name), getattr(other, name)
            sums[name] = {key: one.get(key, 0) + two.get(key, 0) for key in {**one, **two}}
        return Counts(**sums)


class Found(_Message, frozen=True, kw_only=True):
    """An example that fails by a new cause, as small as it could be made in the time."""

    cause: Cause
    example: Example
    failure: Failure


class Sought(_Message, frozen=True, kw_only=True, tag="sought"):
    """What a search found."""

    counts: Counts
    found: Found | None = None
    problem: str = ""
    """Why an example could not be judged."""


class Live(_Message, frozen=True, kw_only=True, tag="live"):
    """Run one example."""

    example: Example


class Lived(_Message, frozen=True, kw_only=True, tag="lived"):
    """How it ended."""

    outcome: Outcome


IN_PROGRESS: Final = "in_progress.json"
"""The example that runs, in the working folder: if it ends the process, this is what is left."""

_SCRATCH: Final = "life"
_PACKAGES: Final[tuple[str, ...]] = ("peft", "torch", "transformers")


def handlers() -> Mapping[type[msgspec.Struct], Callable[[Any], msgspec.Struct]]:
    """Return what answers each request."""
    return {Begin: _begin, Seek: _seek, Live: _live}


def _begin(request: Begin) -> Begun:
    import logging
    import warnings

    # What a library tells a user is no outcome, and would fill the error stream.
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    import peft

    from peft_fuzz.methods import METHODS
    from peft_regress.runs.environment import installed_packages

    torch.set_num_threads(1)
    absent = [
        name for name in request.methods if name not in METHODS or not METHODS[name].available
    ]
    installed = installed_packages()
    packages = {name: installed[name] for name in (*_PACKAGES, "python") if name in installed}
    return Begun(absent=tuple(absent), packages=packages, file=str(peft.__file__))


def _seek(request: Seek) -> Sought:
    from peft_fuzz.search.draw.examples import examples
    from peft_fuzz.search.search import Search

    return Search(run=_lived_noted, known=request.known, fits=lambda one: runs(one.network)).seek(
        examples(request.methods),
        seed=request.seed,
        seconds=request.seconds,
        shrink_seconds=request.shrink_seconds,
    )


def _live(request: Live) -> Lived:
    return Lived(outcome=_lived(request.example))


def _lived_noted(example: Example) -> Outcome:
    """Run an example that is written down before, in case it ends this process."""
    Path(IN_PROGRESS).write_bytes(msgspec.json.encode(example))
    return _lived(example)


def _lived(example: Example) -> Outcome:
    from peft_fuzz.run import run

    folder = Path(_SCRATCH)
    folder.mkdir(exist_ok=True)
    try:
        return run(example, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    serve(handlers())
