"""Load an adapter in the environment of a release, by a worker there."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from peft_regress.errors import InputError, PeftRegressError
from peft_regress.text import printable
from peft_regress.upgrades.compat.messages import (
    BaseMade,
    BaseModel,
    LoadAdapter,
    Loaded,
    MakeBase,
)
from peft_regress.workers.pool import Environment, Pool, Seat, UnusableEnvironmentError
from peft_regress.workers.process import (
    RequestRefusedError,
    WorkerError,
    WorkerProcess,
    WorkerTimeoutError,
)

if TYPE_CHECKING:
    from peft_regress.upgrades.compat.base_model import Base

LOADING_SECONDS: Final = 600.0
"""How long the base model, or an adapter, may take to load."""

_LIBRARIES: Final = ("torch", "peft")
_LOADER: Final = f"{__name__}:Loader"


class BaseModelError(PeftRegressError):
    """A base model, or its inputs, that cannot be made in a release."""


class TryRelease(msgspec.Struct, frozen=True, kw_only=True):
    """Load a saved adapter on a base model."""

    base: BaseModel
    folder: str
    """Import paths of the base model are looked up there."""
    adapter: str
    """Its folder."""


class Seen(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one release made of one adapter."""

    packages: dict[str, str]
    base: BaseMade
    adapter: Loaded
    left_out: tuple[str, ...] = ()
    """The fields without which the adapter was tried once more, after it was refused."""
    without: Loaded | None = None
    """What became of it then."""


def try_release(seat: Seat, environment: Environment, request: TryRelease) -> Seen:
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
        asked = MakeBase(base=request.base, folder=request.folder)
        base = worker.ask(f"{_LOADER}.make_base", asked, BaseMade)
    except WorkerError as error:
        raise BaseModelError(_told(error, worker)) from None
    found = _loaded(worker, request.adapter)
    # Before 0.14 peft refuses a configuration with a field that it does not know.
    left_out = tuple(found.unknown_fields) if found.refusal else ()
    again = left_out and worker.is_alive
    return Seen(
        packages=worker.packages,
        base=base,
        adapter=found,
        left_out=left_out,
        without=_loaded(worker, request.adapter, left_out) if again else None,
    )


def _loaded(worker: WorkerProcess, adapter: str, leave_out: Sequence[str] = ()) -> Loaded:
    asked = LoadAdapter(folder=adapter, leave_out=list(leave_out))
    try:
        return worker.ask(f"{_LOADER}.load", asked, Loaded)
    except WorkerTimeoutError as error:
        worker.kill()
        raise UnusableEnvironmentError(_told(error, worker)) from None
    except RequestRefusedError as error:
        # Not by the library, whose refusal is an answer: the base is not the same each time.
        raise BaseModelError(_told(error, worker)) from None
    except WorkerError as error:
        # The library took the process with it.
        return Loaded(refusal=_told(error, worker))


def try_adapters(
    pool: Pool, python: Path, base: BaseModel, *, folder: Path, adapters: Sequence[Path]
) -> list[Future[Seen]]:
    """Let a worker of an interpreter load adapters, one after another.

    folder: import paths of the base model are looked up there. Raises `InputError` if an adapter
    lies in the folder of the modules.
    """
    if base.is_own and folder.resolve() in [one.resolve() for one in adapters]:
        msg = (
            f"{folder}: the adapter lies beside the modules of {base.name}, and a library could "
            "import a file of it: start in another folder, with your modules"
        )
        raise InputError(printable(msg))
    environment = Environment(python=python, libraries=_LIBRARIES)
    requests = [
        TryRelease(base=base, folder=str(folder.absolute()), adapter=str(adapter.absolute()))
        for adapter in adapters
    ]
    return pool.submit(environment, f"{__name__}:{try_release.__name__}", requests, Seen)


def _told(error: WorkerError, worker: WorkerProcess) -> str:
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
        self._request: MakeBase | None = None

    def make_base(self, request: MakeBase) -> BaseMade:
        """Make the base model, unless the last one was the same."""
        from peft_regress.measure.training import single_thread
        from peft_regress.upgrades.compat.base_model import Base

        if request != self._request:
            with single_thread():
                self._base = Base(request.base, folder=Path(request.folder))
            self._request = request
        return self._base.made

    def load(self, request: LoadAdapter) -> Loaded:
        """Load a saved adapter on it."""
        from peft_regress.measure.training import single_thread
        from peft_regress.upgrades.compat.loading import load_adapter

        with single_thread():
            return load_adapter(self._base, Path(request.folder), request.leave_out)
