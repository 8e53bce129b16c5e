"""Run examples in another interpreter; one that ends or hangs the process is a finding, too.

`begin`, `search` and `live` are what a pool calls, beside the worker. They ask the functions below
of the worker itself, which has the library.
"""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Final

import msgspec

from peft_fuzz.example import Example, Failure, Outcome
from peft_fuzz.networks.network import Value
from peft_fuzz.oracle.checks import CRASH
from peft_fuzz.search.causes import Cause, cause_of, is_known
from peft_fuzz.search.sought import Counts, Found, Sought
from peft_regress.text import clean
from peft_regress.workers.pool import Environment, Seat
from peft_regress.workers.worker import RequestRefusedError, WorkerError, WorkerTimeoutError

LIFE_SECONDS: Final = 60.0
"""How long one life may take: a thousand times a usual one."""
START_SECONDS: Final = 300.0
_NAME: Final = __name__
_PACKAGES: Final[tuple[str, ...]] = ("peft", "torch", "transformers", "python")
LIBRARIES: Final = ("peft", "peft_fuzz.run")
"""What a worker imports before a life is timed."""
_SIGNAL: Final = re.compile(r"was killed by (\w+)")
_FOLDERS: Final = re.compile(r"(?<![\w.:/])/(?:[^\s'\":/]+/)+")


class Begin(Value, frozen=True, kw_only=True):
    """Say which of these methods the library has."""

    methods: tuple[str, ...]


class Begun(Value, frozen=True, kw_only=True):
    """The methods that this release does not have, and the versions an outcome depends on."""

    absent: tuple[str, ...]
    packages: dict[str, str]


class Live(Value, frozen=True, kw_only=True):
    """Run one example, in a folder for what it saves; the caller's side makes the folder."""

    example: Example
    life_seconds: float = LIFE_SECONDS
    folder: str = ""


class Seek(Value, frozen=True, kw_only=True):
    """Draw and run examples until one fails by a cause that is not known, or the time is over."""

    methods: tuple[str, ...]
    seed: int
    seconds: float
    shrink_seconds: float
    known: tuple[Cause, ...] = ()
    life_seconds: float = LIFE_SECONDS
    folder: str = ""


# --- Beside the worker ----------------------------------------------------------------------------


def begin(seat: Seat, environment: Environment, request: Begin) -> Begun:
    """Ask what the environment has."""
    return seat.worker(environment).ask(f"{_NAME}:begun", request, Begun)


def live(seat: Seat, environment: Environment, request: Live) -> Outcome:
    """Run one example. Raises `WorkerError` if the worker refuses it or was stopped."""
    with _scratch() as folder:
        return _life(seat, environment, msgspec.structs.replace(request, folder=folder))


def _life(seat: Seat, environment: Environment, request: Live) -> Outcome:
    process = seat.worker(environment)
    process.time_limit = request.life_seconds
    try:
        return process.ask(f"{_NAME}:lived", request, Outcome)
    except RequestRefusedError:
        raise
    except WorkerError as error:
        if seat.is_stopped:
            raise
        process.kill()
        example = request.example
        return Outcome(failure=_crash(example, error), acts=len(example.acts))


def search(seat: Seat, environment: Environment, request: Seek) -> Sought:
    """Search; an example that ends the process is a finding if it does so again."""
    with _scratch() as folder:
        process = seat.worker(environment)
        process.time_limit = request.seconds + request.shrink_seconds + request.life_seconds
        try:
            asked = msgspec.structs.replace(request, folder=folder)
            return process.ask(f"{_NAME}:sought", asked, Sought)
        except RequestRefusedError:
            raise
        except WorkerError:
            if seat.is_stopped:
                raise
            process.kill()
        try:
            example = msgspec.json.decode(_in_progress(folder).read_bytes(), type=Example)
        except (OSError, ValueError):
            raise WorkerError("the worker ended before it ran an example") from None
        again = Live(example=example, life_seconds=request.life_seconds, folder=folder)
        return _sought_after_crash(_life(seat, environment, again), example, request.known)


def _sought_after_crash(outcome: Outcome, example: Example, known: tuple[Cause, ...]) -> Sought:
    lives, failure = {example.method: 1}, outcome.failure
    if failure is None or failure.check != CRASH:
        return Sought(counts=Counts(lives=lives, unsteady=lives))
    cause = cause_of(example, failure)
    if is_known(cause, known):
        return Sought(counts=Counts(lives=lives, known=lives))
    found = Found(cause=cause, example=example, failure=failure)
    return Sought(counts=Counts(lives=lives), found=found)


def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="peft-regress-", ignore_cleanup_errors=True)


def _crash(example: Example, error: WorkerError) -> Failure:
    """Return the failure of an example that ended the process, or kept it from answering."""
    text = str(error)
    if isinstance(error, WorkerTimeoutError):
        kind = "TimeoutError"
        found = re.search(r"no answer within [\d.]+ s", text)
        message = f"the life did not end: {found[0] if found else text}"
    else:
        signal = _SIGNAL.search(text)
        kind = signal[1] if signal else "SystemExit"
        message = "the life ended the process: " + _FOLDERS.sub("", text.partition(": ")[2])
    # Which act it was is not known: it was one of them.
    last = len(example.acts) - 1
    return Failure(check=CRASH, act=last, error=kind, message=clean(message, longest=300))


# --- In the worker --------------------------------------------------------------------------------


def begun(request: Begin) -> Begun:
    """Return what the installed library has."""
    from peft_fuzz.methods import METHODS
    from peft_regress.runs.environment import installed_packages

    absent = [
        name for name in request.methods if name not in METHODS or not METHODS[name].available
    ]
    installed = installed_packages()
    packages = {name: installed[name] for name in _PACKAGES if name in installed}
    return Begun(absent=tuple(absent), packages=packages)


def sought(request: Seek) -> Sought:
    """Draw and run examples, each of which is written down before, in case it ends this process."""
    from peft_fuzz.search.draw.examples import examples
    from peft_fuzz.search.search import Search

    _silence()

    def run(example: Example) -> Outcome:
        _in_progress(request.folder).write_bytes(msgspec.json.encode(example))
        return _lived(example, request.folder)

    return Search(run=run, known=request.known).seek(
        examples(request.methods),
        seed=request.seed,
        seconds=request.seconds,
        shrink_seconds=request.shrink_seconds,
    )


def lived(request: Live) -> Outcome:
    """Run one example."""
    _silence()
    return _lived(request.example, request.folder)


def _lived(example: Example, folder: str) -> Outcome:
    from peft_fuzz.run import run

    scratch = Path(folder, "life")
    scratch.mkdir(exist_ok=True)
    try:
        return run(example, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _in_progress(folder: str) -> Path:
    """Return the file of the example that runs: if it ends the process, this is what is left."""
    return Path(folder, "in_progress.json")


def _silence() -> None:
    # What a library tells a user is no outcome, and would fill the error stream.
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
