"""Run programs in ExecuTorch's runtime: a process of its own, without the rest of this package.

Run by path, with ExecuTorch's folders as arguments. It reads the path of a folder from each line of
its input, runs the program in it in a forked process, and answers with a line that says how that
ended: a crash of the runtime ends the fork alone, and each program's memory is measured from the
same start. `runtime.py` is the other side, and says what is in the folder.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any


def main() -> None:
    """Answer requests until the input ends."""
    # The runtime writes to standard output; answers go where nothing else is written.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    try:
        import executorch
        import torch  # noqa: F401

        executorch.__path__ = sys.argv[1:]
        from executorch.extension import training  # noqa: F401
    except (ImportError, OSError) as error:
        _answer(answers, {"problem": f"{type(error).__name__}: {error}"})
        return
    _answer(answers, {"ready": True})
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            answers.close()
            os._exit(_run(Path(line.rstrip("\n"))))
        _, status = os.waitpid(process, 0)
        _answer(answers, {"exit": os.waitstatus_to_exitcode(status)})


def _answer(answers: Any, content: dict[str, Any]) -> None:
    answers.write(json.dumps(content) + "\n")
    answers.flush()


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


if __name__ == "__main__":
    main()
