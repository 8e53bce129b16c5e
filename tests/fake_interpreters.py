"""Programs that stand in for an interpreter with a worker: they behave as a test has it."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_WORKER = """#!{python}
import json, os, random, signal, subprocess, sys, time
print("a start-up file says hello")
script = json.loads({script!r})
draw = random.Random(os.getpid())
def say(**answer):
    print(json.dumps(answer), flush=True)
with open({pids!r}, "a") as file:
    print(os.getpid(), file=file)
say(type="hello", protocol=script["protocol"], packages=script["packages"])
for line in sys.stdin:
    request = json.loads(line)
    what = request["type"]
    how = script.get(what)
    if how == "die":
        sys.exit("ImportError: the library is broken")
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "refuse":
        say(type="refused", error="ValueError: no such layer")
    elif how == "babble":
        print("Epoch 1", flush=True)
    elif how == "hang":
        child = subprocess.Popen(["sleep", "60"])
        with open({pids!r}, "a") as file:
            print(child.pid, file=file)
        time.sleep(60)
    elif what == "prepare":
        say(type="prepared", definition=script["definition"])
    elif what == "restart":
        say(type="restarted")
    else:
        seconds = [script["seconds"] * draw.uniform(1, 1.05) for _ in range(request["steps"])]
        say(type="timed", step_seconds=[how if isinstance(how, float) else s for s in seconds])
"""


def write_worker(
    path: Path,
    *,
    seconds: float = 0.010,
    definition: str = "sha256:same",
    protocol: int = 1,
    packages: dict[str, str] | None = None,
    **how: str | float,
) -> str:
    """Write a worker whose steps take some seconds, or which fails at a request as `how` says."""
    script = {
        "seconds": seconds,
        "definition": definition,
        "protocol": protocol,
        "packages": packages or {"peft-regress": "0.1.0"},
        **how,
    }
    pids = str(path.with_suffix(".pids"))
    return write_program(
        path, _WORKER.format(python=sys.executable, script=json.dumps(script), pids=pids)
    )


def write_program(path: Path, text: str) -> str:
    """Write an executable file and return its path."""
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def pids_of(path: str) -> list[int]:
    """Return the processes that a worker was, and started."""
    from pathlib import Path

    return [int(line) for line in Path(f"{path}.pids").read_text().split()]
