"""ExecuTorch's runtime in a process of its own, seen from the process that measures."""

from __future__ import annotations

import atexit
import functools
import json
import re
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from safetensors.torch import load_file, save_file

from peft_regress.measure.edge.errors import ProgramError, UnsupportedProgramError
from peft_regress.measure.edge.package import package_folders
from peft_regress.measure.edge.runtime_process import (
    Ended,
    Programs,
    RunProgram,
    Start,
    Started,
)
from peft_regress.text import clean
from peft_regress.workers.process import (
    Closing,
    InterpreterError,
    RequestRefusedError,
    WorkerError,
    WorkerProcess,
    variables,
)

if TYPE_CHECKING:
    from torch import Tensor

    from peft_regress.measure.edge.program import Program

_PROGRAMS: Final = f"{Programs.__module__}:{Programs.__qualname__}"
_START_SECONDS: Final = 300.0
_RUN_SECONDS: Final = 900.0
_NO_KERNEL: Final = ("Missing operator", "not found", "0x14")
"""What the runtime says where it has no kernel for an operator."""
_KERNEL_FAILED: Final = re.compile(r"KernelCall failed at .* in operator (\S+): (0x[0-9a-f]+)")
_REFUSED: Final = frozenset({"0x10", "0x11", "0x12"})
"""Not supported, not implemented, invalid argument: what a kernel does not do."""
_PLACE: Final = re.compile(r"^\[\S+:\d+\] ")
"""Where in the runtime's source a line is written."""


@dataclass(frozen=True, kw_only=True)
class TrainedInRuntime:
    """What some steps of SGD in the runtime gave."""

    losses: tuple[float, ...]
    """In nats, one for each step, before its update."""
    first_gradients: Mapping[str, Tensor]
    """Those of the first step, by the name of the parameter in the exported module."""
    last_gradients: Mapping[str, Tensor]
    resident_bytes: int
    """By how much the process grew, with the program and the plan."""


@dataclass(frozen=True, kw_only=True)
class RanInRuntime:
    """What a forward pass in the runtime gave."""

    outputs: tuple[Tensor, ...]
    resident_bytes: int


@functools.cache
def shared_runtime() -> Runtime:
    """Return the runtime for all cases of this process, with which it ends.

    Starting one takes 5 s, since it imports torch and ExecuTorch.
    """
    runtime = Runtime()
    atexit.register(runtime.close)
    return runtime


class Runtime(Closing):
    """A process that runs programs, one after another; `close` it, or use it as a context manager.

    The process starts with the first program: those that are known need none.
    """

    def __init__(self) -> None:
        self._worker: WorkerProcess | None = None

    def close(self) -> None:
        """End the process and what it forked."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()

    def train(
        self, program: Program, steps: Sequence[Sequence[Tensor]], *, learning_rate: float
    ) -> TrainedInRuntime:
        """Take a step of SGD on each of some inputs of a training program.

        Raises `UnsupportedProgramError` if the runtime has no kernel for an operator,
        `ProgramError` if it fails, crashes or hangs.
        """
        tensors, numbers = self._run(program, "train", steps, learning_rate=learning_rate)
        return TrainedInRuntime(
            losses=tuple(numbers["losses"]),
            first_gradients=_below("first", tensors),
            last_gradients=_below("last" if len(steps) > 1 else "first", tensors),
            resident_bytes=numbers["resident_bytes"],
        )

    def infer(self, program: Program, inputs: Sequence[Tensor]) -> RanInRuntime:
        """Run an inference program; errors are those of `train`."""
        tensors, numbers = self._run(program, "infer", [inputs])
        return RanInRuntime(
            outputs=tuple(tensors[str(number)] for number in range(len(tensors))),
            resident_bytes=numbers["resident_bytes"],
        )

    def _run(
        self, program: Program, kind: str, steps: Sequence[Sequence[Tensor]], **settings: Any
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        _check_memory(program)
        with tempfile.TemporaryDirectory(prefix="peft-regress-edge-") as name:
            folder = Path(name)
            (folder / "program.pte").write_bytes(program.content)
            names = [[f"{step}/{n}" for n in range(len(each))] for step, each in enumerate(steps)]
            tensors = {
                f"{step}/{n}": tensor.detach().clone().contiguous()
                for step, each in enumerate(steps)
                for n, tensor in enumerate(each)
            }
            save_file(tensors, folder / "inputs.safetensors")
            job = {"kind": kind, "inputs": names, **settings}
            (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
            self._ask(folder)
            numbers = json.loads((folder / "numbers.json").read_text(encoding="utf-8"))
            return load_file(folder / "tensors.safetensors"), numbers

    def _ask(self, folder: Path) -> None:
        """Let the process run the program of a folder."""
        try:
            worker = self._worker or self._start()
            before = worker.errors_end
            asked = RunProgram(folder=str(folder))
            status = worker.ask(f"{_PROGRAMS}.run", asked, Ended).exit
        except (WorkerError, InterpreterError) as error:
            self.close()
            said = str(error).partition(": ")[2]
            raise ProgramError(f"the process of the runtime ended: {clean(said)}") from None
        except BaseException:
            # An answer that comes later must not be taken for that of the next program.
            self.close()
            raise
        if status:
            raise _problem(folder, status, worker.errors(before))

    def _start(self) -> WorkerProcess:
        alone = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        worker = WorkerProcess(
            sys.executable, time_limit=_START_SECONDS, environment={**variables(), **alone}
        )
        self._worker = worker
        try:
            worker.ask(f"{_PROGRAMS}.start", Start(folders=package_folders()), Started)
        except RequestRefusedError as error:
            said = str(error).partition(": ")[2]
            raise ProgramError(f"the runtime does not start: {clean(said)}") from None
        worker.time_limit = _RUN_SECONDS
        return worker


def _problem(
    folder: Path, status: int, said: Sequence[str]
) -> ProgramError | UnsupportedProgramError:
    """Return why a run failed: what the runtime wrote last, and how the process ended."""
    told = next((line for line in said if any(part in line for part in _NO_KERNEL)), "")
    operator, code = "", ""
    if not told:
        told, operator, code = _refusing_kernel(said)
    path = folder / "error.json"
    if path.exists():
        error = json.loads(path.read_text(encoding="utf-8"))
        ended = f"{error['type']}: {error['message']}"
    else:
        ended = f"it ended by {signal.Signals(-status).name}" if status < 0 else f"exit {status}"
    text = "; ".join(filter(None, (clean(told), clean(ended))))
    if (told and not operator) or code in _REFUSED or "0x14" in ended:
        return UnsupportedProgramError(f"the runtime refuses the program: {text}")
    return ProgramError(f"the runtime fails: {text}")


def _refusing_kernel(said: Sequence[str]) -> tuple[str, str, str]:
    """Return which kernel failed and why, its operator, and the code of the error; '' if none."""
    for number, line in enumerate(said):
        if match := _KERNEL_FAILED.search(line):
            lines = [_PLACE.sub("", each).strip() for each in said[:number]]
            checks = [each for each in lines if each.startswith("Check failed")]
            why = (checks or lines or [""])[0 if checks else -1]
            return f"{match[1]}: {why}", match[1], match[2]
    return "", "", ""


def _below(which: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = f"{which}/"
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _check_memory(program: Program) -> None:
    """Refuse a program that this machine has no memory for: the system would end the process."""
    needed = program.planned_bytes + program.program_bytes
    available = _available_bytes()
    if available is not None and needed > available:
        raise ProgramError(
            f"the program needs {needed:,} bytes of memory, and this machine has {available:,} left"
        )


def _available_bytes() -> int | None:
    """Return how much memory is left; None where the system does not say it."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = next((line for line in lines if line.startswith("MemAvailable:")), None)
    return None if found is None else int(found.split()[1]) * 1024
