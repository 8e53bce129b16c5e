"""Run examples on request: `python -m peft_fuzz.search.worker`; its messages."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import torch

from peft_fuzz.example import Example, Outcome
from peft_fuzz.networks.build import runs
from peft_fuzz.search.search import Message, Search, Seek, Sought
from peft_regress.workers.serve import serve


class Begin(Message, frozen=True, kw_only=True, tag="begin"):
    """Import the libraries."""

    methods: tuple[str, ...]


class Begun(Message, frozen=True, kw_only=True, tag="begun"):
    """The libraries can be imported."""

    absent: tuple[str, ...]
    """The methods of the request that this release does not have."""
    packages: dict[str, str]
    """The versions of what an outcome depends on."""
    file: str
    """Where peft comes from."""


class Live(Message, frozen=True, kw_only=True, tag="live"):
    """Run one example."""

    example: Example


class Lived(Message, frozen=True, kw_only=True, tag="lived"):
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
