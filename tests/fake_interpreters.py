"""Programs that stand in for an interpreter with a worker: they behave as a test has it."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from builders import MACHINE, make_record

from peft_regress.environments.upgrade.messages import PROTOCOL

if TYPE_CHECKING:
    from collections.abc import Iterable

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


_MEASURING_WORKER = """#!{python}
import json, os, signal, subprocess, sys, time
script = json.loads({script!r})
how = script["how"]
def say(**answer):
    print(json.dumps(answer), flush=True)
def log(kind, what):
    with open({log!r}, "a") as file:
        print(json.dumps([kind, os.getpid(), what]), file=file)
def hang():
    child = subprocess.Popen(["sleep", "60"])
    log("child", child.pid)
    time.sleep(60)
def act(how):
    if how == "exit":
        print("  File /tmp/over/lay/peft/layer.py: ImportError: broken", file=sys.stderr)
        sys.exit(3)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "hang":
        hang()
    if how == "refuse":
        say(type="refused", error="ImportError: cannot import name 'HybridCache'")
    elif how == "fail":
        say(type="failed", failure=dict(type="AttributeError", message="no scaling"))
    elif how == "babble":
        print("Epoch 1", flush=True)
    elif how == "null":
        say(type="measured", record=None)
    elif how == "other":
        other = dict(script["record"], case=dict(case, task="another"))
        say(type="measured", record=other)
    else:
        return False
    return True
log("started", dict(folder=os.getcwd(), variables=sorted(os.environ)))
open("litter", "w").close()
if how.get("greeting"):
    act(how["greeting"])
say(type="hello", protocol={protocol}, packages=script["packages"])
for line in sys.stdin:
    request = json.loads(line)
    if request["type"] == "import":
        if not act(how.get("import")):
            files = dict.fromkeys(request["modules"], script["file"])
            say(type="imported", machine=script["machine"], files=files)
        continue
    task, ranked, architecture = request["case"].split("/")
    method, _, rank = ranked.rpartition("-r")
    case = dict(task=task, method=method or ranked, architecture=architecture)
    if method:
        case["rank"] = int(rank)
    log("case", request)
    if act(how.get("before " + request["case"])):
        continue
    say(type="started", definition=script["record"]["definition"])
    if not act(how.get(request["case"])):
        say(type="measured", record=dict(script["record"], case=case))
    if how.get("after " + request["case"]):
        act(how["after " + request["case"]])
"""


def write_measuring_worker(
    path: Path,
    *,
    how: dict[str, str] | None = None,
    metrics: dict[str, Any] | None = None,
    packages: dict[str, str] | None = None,
    file: str = "/nowhere.py",
) -> str:
    """Write a worker that measures each case alike, or as `how` says.

    `how`: by case id, `before` or `after` one, `import` or `greeting`: kill, exit, hang, refuse,
    fail, babble, null (no record) or other (that of another case).
    """
    script = {
        "how": how or {},
        "record": msgspec.to_builtins(make_record(metrics=metrics or {"forward_flops": 1000})),
        "machine": msgspec.to_builtins(MACHINE),
        "packages": packages or {"peft": "0.18.1", "torch": "2.13.0"},
        "file": file,
    }
    return write_program(
        path,
        _MEASURING_WORKER.format(
            python=sys.executable, script=json.dumps(script), log=f"{path}.log", protocol=PROTOCOL
        ),
    )


def logged(path: str, kind: str) -> list[tuple[int, Any]]:
    """Return (process, what) of each line that the measuring workers of a path have logged."""
    lines = [json.loads(line) for line in Path(f"{path}.log").read_text().splitlines()]
    return [(process, what) for of_kind, process, what in lines if of_kind == kind]


def write_program(path: Path, text: str) -> str:
    """Write an executable file and return its path."""
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def pids_of(path: str) -> list[int]:
    """Return the processes that a worker was, and started."""
    return [int(line) for line in Path(f"{path}.pids").read_text().split()]


def all_gone(pids: Iterable[int]) -> bool:
    """Whether no such process is left; a killed one takes a moment to go."""
    deadline = time.monotonic() + 10
    left = list(pids)
    while any(map(is_alive, left)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(is_alive, left))


def is_alive(pid: int) -> bool:
    """Whether a process has not ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
