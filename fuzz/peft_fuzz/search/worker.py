"""A worker's own side: it runs examples."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

import msgspec

from peft_fuzz.example import Example, Outcome
from peft_fuzz.search.messages import Begin, Begun, Live, Lived, Seek, Sought

IN_PROGRESS: Final = "in_progress.json"
"""The example that runs, in the working folder: if it ends the process, this is what is left."""

_SCRATCH: Final = "life"
_PACKAGES: Final[tuple[str, ...]] = ("peft", "torch", "transformers")


def begin(request: Begin) -> Begun:
    """Import the libraries."""
    import logging
    import warnings

    # What a library tells a user is no outcome, and would fill the error stream.
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    import torch

    from peft_fuzz.methods import METHODS
    from peft_regress.runs.environment import installed_packages

    torch.set_num_threads(1)
    absent = [
        name for name in request.methods if name not in METHODS or not METHODS[name].available
    ]
    installed = installed_packages()
    packages = {name: installed[name] for name in (*_PACKAGES, "python") if name in installed}
    return Begun(absent=tuple(absent), packages=packages)


def seek(request: Seek) -> Sought:
    """Draw and run examples until one fails by a new cause, or the time is over."""
    from peft_fuzz.networks.build import runs
    from peft_fuzz.search.draw.examples import examples
    from peft_fuzz.search.search import Search

    return Search(run=_lived_noted, known=request.known, fits=lambda one: runs(one.network)).seek(
        examples(request.methods),
        seed=request.seed,
        seconds=request.seconds,
        shrink_seconds=request.shrink_seconds,
    )


def live(request: Live) -> Lived:
    """Run one example."""
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
