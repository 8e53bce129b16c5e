"""Load an adapter in the environments of several releases, each in a process of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from peft_regress.errors import InputError, PeftRegressError
from peft_regress.text import printable
from peft_regress.upgrades.compat.messages import (
    BaseMade,
    BaseModel,
    LoadAdapter,
    Loaded,
    MakeBase,
)
from peft_regress.upgrades.messages import Import, Imported
from peft_regress.workers.environment_variables import variables
from peft_regress.workers.process import (
    InterpreterError,
    RequestRefusedError,
    WorkerError,
    WorkerProcess,
    WorkerTimeoutError,
)
from peft_regress.workers.threads import RunningWorkers

LOADING_SECONDS: Final = 600.0
"""How long the base model, or an adapter, may take to load."""

_MODULE: Final = "peft_regress.upgrades.compat.worker"
_LIBRARIES: Final = ("torch", "peft")


class UnusableReleaseError(PeftRegressError):
    """A release in which nothing can be loaded, for example because it does not import."""


class BaseModelError(PeftRegressError):
    """A base model, or its inputs, that cannot be made in a release."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What one release made of one adapter."""

    packages: Mapping[str, str]
    base: BaseMade
    adapter: Loaded
    left_out: tuple[str, ...] = ()
    """The fields without which the adapter was tried once more, after it was refused."""
    without: Loaded | None = None
    """What became of it then."""


@dataclass(frozen=True, kw_only=True)
class AdapterLoader:
    """Loads adapters in whichever interpreter; its processes can all be ended at once."""

    base: BaseModel
    folder: Path
    """Import paths of the base model are looked up there."""
    time_limit: float = LOADING_SECONDS
    running: RunningWorkers = field(default_factory=RunningWorkers)

    def load(self, python: Path, adapters: Sequence[Path]) -> list[Seen]:
        """Load adapters one after the other in an interpreter that has this peft_regress.

        A process that ends while it loads an adapter has refused it; the next adapter gets another
        process. Raises `UnusableReleaseError` and `BaseModelError`, and `InputError` if the adapter
        lies in the folder of the modules.
        """
        if self.base.is_own and self.folder.resolve() in [one.resolve() for one in adapters]:
            msg = (
                f"{self.folder}: the adapter lies beside the modules of {self.base.name}, and a "
                "library could import a file of it: start in another folder, with your modules"
            )
            raise InputError(printable(msg))
        found: list[Seen] = []
        # A library that writes into its working directory writes into this one.
        with tempfile.TemporaryDirectory(prefix="peft-regress-", ignore_cleanup_errors=True) as cwd:
            while len(found) < len(adapters):
                worker = self._started(python, Path(cwd))
                try:
                    base = self._prepared(worker)
                    for adapter in adapters[len(found) :]:
                        found.append(self._seen(worker, base, adapter))
                        if not worker.is_alive:
                            break
                finally:
                    self.running.close(worker)
        return found

    def _started(self, python: Path, folder: Path) -> WorkerProcess:
        try:
            return WorkerProcess(
                str(python.absolute()),
                _MODULE,
                time_limit=self.time_limit,
                folder=folder,
                environment=variables(),
                on_start=self.running.add,
            )
        except InterpreterError as error:
            raise UnusableReleaseError(str(error)) from None

    def _prepared(self, worker: WorkerProcess) -> BaseMade:
        try:
            worker.call(Import(modules=list(_LIBRARIES)), Imported)
        except WorkerError as error:
            raise UnusableReleaseError(f"does not import: {_told(error, worker)}") from None
        try:
            request = MakeBase(base=self.base, folder=str(self.folder.absolute()))
            return worker.call(request, BaseMade)
        except WorkerError as error:
            raise BaseModelError(_told(error, worker)) from None

    def _seen(self, worker: WorkerProcess, base: BaseMade, adapter: Path) -> Seen:
        found = _loaded(worker, adapter)
        # Before 0.14 peft refuses a configuration with a field that it does not know.
        left_out = tuple(found.unknown_fields) if found.refusal else ()
        return Seen(
            packages=worker.packages,
            base=base,
            adapter=found,
            left_out=left_out,
            without=_loaded(worker, adapter, left_out) if left_out and worker.is_alive else None,
        )


def _loaded(worker: WorkerProcess, adapter: Path, leave_out: Sequence[str] = ()) -> Loaded:
    request = LoadAdapter(folder=str(adapter.absolute()), leave_out=list(leave_out))
    try:
        return worker.call(request, Loaded)
    except WorkerTimeoutError as error:
        raise UnusableReleaseError(_told(error, worker)) from None
    except RequestRefusedError as error:
        # Not by the library, whose refusal is an answer: the base is not the same each time.
        raise BaseModelError(_told(error, worker)) from None
    except WorkerError as error:
        # The library took the process with it.
        return Loaded(refusal=_told(error, worker))


def _told(error: WorkerError, worker: WorkerProcess) -> str:
    said = str(error).removeprefix(f"{worker.interpreter}: ")
    # Errors of this package are sentences already.
    for kind in ("CaseError", "InputError", "UnknownNameError"):
        said = said.removeprefix(f"{kind}: ")
    return said
