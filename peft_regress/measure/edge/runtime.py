"""ExecuTorch's runtime in a worker process, which forks for each program.

A crash of the runtime ends the fork alone, and each program's memory is measured from one start.
"""

import atexit
import functools
import os
import re
import signal
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from peft_regress.errors import PeftRegressError
from peft_regress.measure.edge import package
from peft_regress.measure.edge.program import Program
from peft_regress.text import clean
from peft_regress.workers.worker import WorkerProcess

_RUN_SECONDS: Final = 900.0
_NO_KERNEL: Final = ("Missing operator", "not found", "0x14")
"""What the runtime says where it has no kernel for an operator."""
_KERNEL_FAILED: Final = re.compile(r"KernelCall failed at .* in operator (\S+): (0x[0-9a-f]+)")
_REFUSED: Final = frozenset({"0x10", "0x11", "0x12"})
"""Not supported, not implemented, invalid argument: what a kernel does not do."""
_PLACE: Final = re.compile(r"^\[\S+:\d+\] ")
"""Where in the runtime's source a line is written."""


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What steps of SGD, or a forward pass, gave in the runtime."""

    losses: tuple[float, ...]
    """In nats, one for each step, before its update."""
    tensors: Mapping[str, Tensor]
    """The gradients of the first step, by the name of the parameter in the exported module; or the
    outputs of a forward pass, by position."""
    resident_bytes: int
    """By how much the process grew, with the program and the plan."""


class _RunProgram(msgspec.Struct, frozen=True, kw_only=True):
    folder: str
    """With the program and its inputs, by step and position; what it gives is written there."""
    steps: int
    learning_rate: float | None


class Runtime:
    """A process that runs programs, one after another, and starts with the first one."""

    def __init__(self) -> None:
        self._worker: WorkerProcess | None = None

    def close(self) -> None:
        """End the process and what it forked."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()

    def run(
        self,
        program: Program,
        steps: Sequence[Sequence[Tensor]],
        *,
        learning_rate: float | None = None,
    ) -> Ran:
        """Take a step of SGD on each of some inputs of a training program, or run a forward pass.

        learning_rate: None for a forward pass, on the inputs of one step. Raises
        `UnsupportedProgramError` without a kernel for an operator, `ProgramError` if it fails.
        """
        with tempfile.TemporaryDirectory(prefix="peft-regress-edge-") as name:
            folder = Path(name)
            (folder / "program.pte").write_bytes(program.content)
            tensors = {
                f"{step}/{n}": tensor.detach().clone().contiguous()
                for step, each in enumerate(steps)
                for n, tensor in enumerate(each)
            }
            save_file(tensors, folder / "inputs.safetensors")
            asked = _RunProgram(folder=name, steps=len(steps), learning_rate=learning_rate)
            self._ask(folder, asked)
            found = load_file(folder / "found.safetensors")
        losses, resident = found.pop("losses"), found.pop("resident_bytes")
        return Ran(losses=tuple(losses.tolist()), tensors=found, resident_bytes=int(resident))

    def _ask(self, folder: Path, asked: _RunProgram) -> None:
        alone = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        try:
            worker = self._worker = self._worker or WorkerProcess(
                sys.executable, time_limit=_RUN_SECONDS, environment=alone
            )
            before = worker.errors_end
            status = worker.ask(f"{__name__}:run_forked", asked, int)
        except BaseException as error:
            # An answer that comes later must not be taken for that of the next program.
            self.close()
            if not isinstance(error, PeftRegressError):
                raise
            said = str(error).partition(": ")[2]
            raise package.ProgramError(f"the process of the runtime ended: {clean(said)}") from None
        if status:
            raise _problem(folder, status, worker.errors(before))


@functools.cache
def shared_runtime() -> Runtime:
    """Return the one runtime of this process, with which it ends: starting one takes 5 s."""
    runtime = Runtime()
    atexit.register(runtime.close)
    return runtime


def _problem(folder: Path, status: int, said: Sequence[str]) -> PeftRegressError:
    told = next((line for line in said if any(part in line for part in _NO_KERNEL)), "")
    operator, code = "", ""
    if not told:
        told, operator, code = _refusing_kernel(said)
    path = folder / "error.txt"
    if path.exists():
        ended = path.read_text(encoding="utf-8")
    else:
        ended = f"it ended by {signal.Signals(-status).name}" if status < 0 else f"exit {status}"
    text = "; ".join(filter(None, (clean(told), clean(ended))))
    if (told and not operator) or code in _REFUSED or "0x14" in ended:
        return package.UnsupportedProgramError(f"the runtime refuses the program: {text}")
    return package.ProgramError(f"the runtime fails: {text}")


def _refusing_kernel(said: Sequence[str]) -> tuple[str, str, str]:
    """Return which kernel failed and why, its operator, and the code of the error; '' if none."""
    for number, line in enumerate(said):
        if match := _KERNEL_FAILED.search(line):
            lines = [_PLACE.sub("", each).strip() for each in said[:number]]
            checks = [each for each in lines if each.startswith("Check failed")]
            why = (checks or lines or [""])[0 if checks else -1]
            return f"{match[1]}: {why}", match[1], match[2]
    return "", "", ""


# --- The worker's side ----------------------------------------------------------------------------


def run_forked(request: _RunProgram) -> int:
    """Run a program in a process of its own; return its exit code."""
    package.require_executorch(runs=True)
    process = os.fork()
    if process == 0:
        os._exit(_run(Path(request.folder), request))
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status)


def _run(folder: Path, request: _RunProgram) -> int:
    try:
        inputs = load_file(folder / "inputs.safetensors")
        count = len(inputs) // request.steps
        steps = [[inputs[f"{step}/{n}"] for n in range(count)] for step in range(request.steps)]
        before = _status_bytes("VmRSS")
        program = str(folder / "program.pte")
        losses: list[float] = []
        if request.learning_rate is None:
            found = _infer(program, steps[0])
        else:
            found = _train(program, steps, request.learning_rate, losses)
        found = {name: tensor.contiguous() for name, tensor in found.items()}
        found["losses"] = torch.tensor(losses, dtype=torch.float64)
        found["resident_bytes"] = torch.tensor(max(_status_bytes("VmHWM") - before, 0))
        save_file(found, folder / "found.safetensors")
    except Exception as error:  # noqa: BLE001  (whatever the runtime raises goes to the other side)
        (folder / "error.txt").write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
        traceback.print_exc()
        return 1
    return 0


def _train(
    program: str, steps: list[list[Tensor]], learning_rate: float, losses: list[float]
) -> dict[str, Tensor]:
    training = package.load("executorch.extension.training")
    module = training._load_for_executorch_for_training(program)  # noqa: SLF001
    found: dict[str, Tensor] = {}
    optimizer: Any = None
    for inputs in steps:
        losses.append(module.forward_backward("forward", inputs)[0].item())
        gradients = module.named_gradients()
        if optimizer is None:
            found = {name: each.clone() for name, each in gradients.items()}
            optimizer = training.get_sgd_optimizer(module.named_parameters(), learning_rate)
        optimizer.step(gradients)
    return found


def _infer(program: str, inputs: list[Tensor]) -> dict[str, Tensor]:
    runtime = package.load("executorch.extension.pybindings.portable_lib")
    module = runtime._load_for_executorch(program)  # noqa: SLF001
    return {str(number): each for number, each in enumerate(module.run_method("forward", inputs))}


def _status_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    found = next((line for line in lines if line.startswith(f"{name}:")), None)
    return 0 if found is None else int(found.split()[1]) * 1024
