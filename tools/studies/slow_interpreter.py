"""Write an interpreter with slower training steps, which `peft-regress time` must find.

A `sitecustomize` next to the script makes each step of AdamW wait in a busy loop, for a share of
the time since the gradients were zeroed. So the whole step is slower by that share on any model
and any machine.
"""

import os
import shlex
import sys
from pathlib import Path

_CUSTOMIZE = """
import time

import torch

started = 0.0
zero_grad, step = torch.optim.Optimizer.zero_grad, torch.optim.AdamW.step


def timed_zero_grad(self, *args, **kwargs):
    global started
    started = time.perf_counter()
    return zero_grad(self, *args, **kwargs)


def slow_step(self, *args, **kwargs):
    result = step(self, *args, **kwargs)
    taken = time.perf_counter() - started
    while time.perf_counter() - started < taken * (1 + SHARE):
        pass
    return result


torch.optim.Optimizer.zero_grad = timed_zero_grad
torch.optim.AdamW.step = slow_step
"""


def write_slow_interpreter(folder: Path, *, share: float) -> Path:
    """Write the script into an existing folder and return its path; 0.1 is 10 % slower."""
    code = _CUSTOMIZE.replace("SHARE", repr(share))
    (folder / "sitecustomize.py").write_text(code, encoding="utf-8")
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    script = folder / "python"
    program = f'#!/bin/sh\nPYTHONPATH={shlex.quote(path)} exec {shlex.quote(sys.executable)} "$@"\n'
    script.write_text(program, encoding="utf-8")
    script.chmod(0o755)
    return script
