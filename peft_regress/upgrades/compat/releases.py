"""Load an adapter in the environment of a release, by a worker there."""

from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Final

import msgspec

from peft_regress.errors import InputError, PeftRegressError
from peft_regress.workers import worker as process
from peft_regress.workers.pool import Environment, Pool, Seat, UnusableEnvironmentError

LOADING_SECONDS: Final = 600.0
"""How long the base model, or an adapter, may take to load."""

_LIBRARIES: Final = ("torch", "peft")
_LOADER: Final = "peft_regress.upgrades.compat.loading:Loader"


class BaseModelError(PeftRegressError):
    """A base model, or its inputs, that cannot be made in a release."""


class BaseModel(msgspec.Struct, frozen=True, kw_only=True):
    """The model that an adapter is loaded on, and its inputs: names alone, which travel."""

    name: str
    """`pkg.mod:callable`, or an architecture of the catalogue."""
    inputs: str | None = None
    """`pkg.mod:callable`, which returns a batch; None for a drawn one."""
    shape: list[int] | None = None
    """Of the drawn batch; None for what the model or the catalogue says."""
    folder: str
    """Import paths are looked up there."""

    @property
    def is_own(self) -> bool:
        """Whether the name is an import path."""
        return ":" in self.name


class BaseMade(msgspec.Struct, frozen=True, kw_only=True):
    """The base model was made, and computes."""

    weights: str
    """A digest of its parameters and buffers."""
    inputs: str
    """A digest of the batch."""
    outputs: list[list[float]]
    """What it computes without an adapter: a row for each tensor, see `numbers_of`."""


class LoadAdapter(msgspec.Struct, frozen=True, kw_only=True):
    """Load a saved adapter on a base model."""

    base: BaseModel
    adapter: str
    """Its folder."""


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the adapter."""

    refusal: str = ""
    """Why it does not load or compute; the other values are then those known so far."""
    unknown_fields: list[str] = []
    """Fields of the file that the library's configuration does not have."""
    default_fields: list[str] = []
    """Fields of the file that have the library's default value."""
    changed_fields: dict[str, tuple[str, str]] = {}
    """(value in the file, value after loading) of each field that differs."""
    missing_keys: list[str] = []
    """Tensors of the adapter that the file does not have."""
    unexpected_keys: list[str] = []
    """Tensors of the file that are in no parameter or buffer."""
    foreign_keys: list[str] = []
    """Tensors of the file that this release would not save of the same adapter.

    Before 0.21 VeRA saves its projections and draws them again: unexpected, and not foreign.
    """
    altered_keys: list[str] = []
    """Tensors whose numbers differ after loading."""
    trainable: list[str] = []
    """The parameters that train if the adapter is loaded to train on, without `.weight`: a release
    may keep a tensor as `lora_magnitude_vector.default` or with that."""
    trainable_for_inference: list[str] = []
    """The parameters that train although it is loaded for inference."""
    outputs: list[list[float]] | None = None
    """With the adapter on, in float32."""
    is_finite: bool = True
    is_steady: bool = True
    """Whether it computes the same when it runs again, with other seeds."""
    merged: list[list[float]] | None = None
    """With the adapter merged; empty if a number is NaN or infinite."""
    merge_problem: str = ""
    """Why it does not merge."""
    training_problem: str = ""
    """Why it does not load to train on."""
    without: "Loaded | None" = None
    """What becomes of a refused one without its unknown fields, which peft refuses before 0.14."""


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
        problem = str(error).removeprefix(f"{environment.python.absolute()}: ")
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
        raise InputError(
            f"{base.folder}: the adapter lies beside the modules of {base.name}, and a library "
            "could import a file of it: start in another folder, with your modules"
        )
    environment = Environment(python=python, libraries=_LIBRARIES)
    requests = [LoadAdapter(base=base, adapter=str(adapter.absolute())) for adapter in adapters]
    return pool.submit(environment, f"{__name__}:{try_release.__name__}", requests, Seen)


def _told(error: process.WorkerError, worker: process.WorkerProcess) -> str:
    said = str(error).removeprefix(f"{worker.interpreter}: ")
    # Errors of this package are sentences already.
    for kind in ("CaseError", "InputError", "UnknownNameError"):
        said = said.removeprefix(f"{kind}: ")
    return said
