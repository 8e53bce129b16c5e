"""A worker's own side of ExecuTorch's runtime; `runtime` is the other one.

Each program runs in a forked process: a crash of the runtime ends the fork alone, and the memory of
each program is measured from the same start. `runtime` says what is in the folder of a program.
"""

from __future__ import annotations

import json
import os
import traceback
import warnings
from pathlib import Path
from typing import Any

import msgspec


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """Import the runtime."""

    folders: list[str]
    """Where ExecuTorch is."""


class Started(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The runtime can be imported."""


class RunProgram(msgspec.Struct, frozen=True, kw_only=True):
    """Run the program of a folder."""

    folder: str


class Ended(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the process of a program ended."""

    exit: int


class Programs:
    """Runs programs, once it was started."""

    def start(self, request: Start) -> Started:
        """Import torch and the runtime."""
        warnings.simplefilter("ignore")
        import executorch
        import torch  # noqa: F401

        executorch.__path__ = request.folders
        from executorch.extension import training  # noqa: F401

        return Started()

    def run(self, request: RunProgram) -> Ended:
        """Run a program in a process of its own."""
        process = os.fork()
        if process == 0:
            os._exit(_run(Path(request.folder)))
        _, status = os.waitpid(process, 0)
        return Ended(exit=os.waitstatus_to_exitcode(status))


def _run(folder: Path) -> int:
    """Run the program of a folder and write what it gave; return the exit status."""
    from safetensors.torch import load_file, save_file

    try:
        job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
        inputs = load_file(folder / "inputs.safetensors")
        steps = [[inputs[name] for name in names] for names in job["inputs"]]
        before = _status_bytes("VmRSS")
        run = _train if job["kind"] == "train" else _infer
        tensors, numbers = run(str(folder / "program.pte"), steps, job)
        numbers["resident_bytes"] = max(_status_bytes("VmHWM") - before, 0)
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(tensors, folder / "tensors.safetensors")
        (folder / "numbers.json").write_text(json.dumps(numbers), encoding="utf-8")
    except Exception as error:  # noqa: BLE001  (whatever the runtime raises goes to the other side)
        said = {"type": type(error).__name__, "message": str(error)}
        (folder / "error.json").write_text(json.dumps(said), encoding="utf-8")
        traceback.print_exc()
        return 1
    return 0


def _train(
    program: str, steps: list[list[Any]], job: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Take SGD steps; return the gradients of the first and the last one, and the losses."""
    from executorch.extension.training import (
        _load_for_executorch_for_training,
        get_sgd_optimizer,
    )

    module = _load_for_executorch_for_training(program)
    losses: list[float] = []
    tensors: dict[str, Any] = {}
    optimizer = None
    for number, inputs in enumerate(steps):
        losses.append(module.forward_backward("forward", inputs)[0].item())
        gradients = module.named_gradients()
        if number in {0, len(steps) - 1}:
            which = "first" if number == 0 else "last"
            tensors |= {f"{which}/{name}": each.clone() for name, each in gradients.items()}
        if optimizer is None:
            optimizer = get_sgd_optimizer(module.named_parameters(), job["learning_rate"])
        optimizer.step(gradients)
    return tensors, {"losses": losses}


def _infer(
    program: str, steps: list[list[Any]], _: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run the forward pass; return its outputs by position."""
    from executorch.extension.pybindings.portable_lib import _load_for_executorch

    module = _load_for_executorch(program)
    (inputs,) = steps
    outputs = module.run_method("forward", inputs)
    return {str(number): each for number, each in enumerate(outputs)}, {}


def _status_bytes(name: str) -> int:
    """Return a number of the process's memory; 0 where the system does not say it."""
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return 0
    found = next((line for line in text.splitlines() if line.startswith(f"{name}:")), None)
    return 0 if found is None else int(found.split()[1]) * 1024
