"""Load an adapter in the environment of a release, by a worker there."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from peft_regress.errors import InputError, PeftRegressError
from peft_regress.text import printable
from peft_regress.upgrades.compat.messages import BaseMade, BaseModel, LoadAdapter, Loaded
from peft_regress.workers import process
from peft_regress.workers.pool import Environment, Pool, Seat, UnusableEnvironmentError

if TYPE_CHECKING:
    from peft_regress.upgrades.compat.base_model import Base

LOADING_SECONDS: Final = 600.0
"""How long the base model, or an adapter, may take to load."""

_LIBRARIES: Final = ("torch", "peft")
_LOADER: Final = f"{__name__}:Loader"


class BaseModelError(PeftRegressError):
    """A base model, or its inputs, that cannot be made in a release."""


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What one release made of one adapter."""

    packages: dict[str, str]
    base: BaseMade
    adapter: Loaded


def try_release(seat: Seat, environment: Environment, request: LoadAdapter) -> Seen:
    """Load an adapter; a process that ends meanwhile has refused it.

    Raises `UnusableEnvironmentError` for a release in which nothing can be loaded, `BaseModelError`
    for a base model that cannot be made there.
    """
    try:
        worker = seat.worker(environment)
    except UnusableEnvironmentError as error:
        problem = error.problem.removeprefix(f"{environment.python.absolute()}: ")
        raise UnusableEnvironmentError(f"does not import: {problem}") from None
    try:
        base = worker.ask(f"{_LOADER}.make_base", request.base, BaseMade)
    except process.WorkerError as error:
        raise BaseModelError(_told(error, worker)) from None
    try:
        found = worker.ask(f"{_LOADER}.load", request, Loaded)
    except process.WorkerTimeoutError as error:
        worker.kill()
        raise UnusableEnvironmentError(_told(error, worker)) from None
    except process.RequestRefusedError as error:
        # Not by the library, whose refusal is an answer: the base is not the same each time.
        raise BaseModelError(_told(error, worker)) from None
    except process.WorkerError as error:
        # The library took the process with it.
        found = Loaded(refusal=_told(error, worker))
    return Seen(packages=worker.packages, base=base, adapter=found)


def try_adapters(
    pool: Pool, python: Path, base: BaseModel, adapters: Sequence[Path]
) -> list[Future[Seen]]:
    """Let a worker of an interpreter load adapters, one after another.

    Raises `InputError` if an adapter lies in the folder of the base model's modules.
    """
    if base.is_own and Path(base.folder).resolve() in [one.resolve() for one in adapters]:
        msg = (
            f"{base.folder}: the adapter lies beside the modules of {base.name}, and a library "
            "could import a file of it: start in another folder, with your modules"
        )
        raise InputError(printable(msg))
    environment = Environment(python=python, libraries=_LIBRARIES)
    requests = [LoadAdapter(base=base, adapter=str(adapter.absolute())) for adapter in adapters]
    return pool.submit(environment, f"{__name__}:{try_release.__name__}", requests, Seen)


def _told(error: process.WorkerError, worker: process.WorkerProcess) -> str:
    said = str(error).removeprefix(f"{worker.interpreter}: ")
    # Errors of this package are sentences already.
    for kind in ("CaseError", "InputError", "UnknownNameError"):
        said = said.removeprefix(f"{kind}: ")
    return said


# --- the worker's own side ------------------------------------------------------------------------


class Loader:
    """Keeps the base model that adapters are loaded on; `make_base` imports torch."""

    def __init__(self) -> None:
        self._base: Base
        self._request: BaseModel | None = None

    def make_base(self, request: BaseModel) -> BaseMade:
        """Make the base model, unless the last one was the same."""
        from peft_regress.measure.training import single_thread
        from peft_regress.upgrades.compat.base_model import Base

        if request != self._request:
            with single_thread():
                self._base = Base(request)
            self._request = request
        return self._base.made

    def load(self, request: LoadAdapter) -> Loaded:
        """Load a saved adapter on it; if it is refused, once more without unknown fields."""
        from peft_regress.measure.training import single_thread
        from peft_regress.upgrades.compat.loading import load_adapter

        folder = Path(request.adapter)
        with single_thread():
            found = load_adapter(self._base, folder)
            if not (found.refusal and found.unknown_fields):
                return found
            without = load_adapter(self._base, folder, leave_out=found.unknown_fields)
        return msgspec.structs.replace(found, without=without)
