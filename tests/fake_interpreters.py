"""Programs that stand in for an interpreter with a worker; each test chooses how they behave."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import msgspec
from builders import MACHINE, make_record

from peft_regress.workers.serve import PROTOCOL

# Found now: a test may run without a PATH.
_INSTALL = shutil.which("install") or "install"

_WORKER = """#!{python} -IS
import json, os, random, signal, subprocess, sys, time
print("a start-up file says hello")
script = json.loads({script!r})
how = script["how"]
draw = random.Random(os.getpid())
def say(**line):
    print(json.dumps(line), flush=True)
def send(**answer):
    say(answer=answer)
def log(kind, what):
    with open({log!r}, "a") as file:
        print(json.dumps([kind, os.getpid(), what]), file=file)
def misbehave(how):
    if how == "exit":
        print("  File /tmp/over/lay/peft/layer.py: ImportError: broken", file=sys.stderr)
        sys.exit(3)
    if how in ("kill", "crash"):
        os.kill(os.getpid(), signal.SIGKILL if how == "kill" else signal.SIGSEGV)
    if how == "hang":
        child = subprocess.Popen(["sleep", "600"])
        log("child", child.pid)
        time.sleep(600)
    if how == "refuse":
        say(refused="ImportError: cannot import name 'HybridCache'")
    elif how == "babble":
        print("Epoch 1", flush=True)
    elif how == "null":
        send(record=None)
    else:
        return False
    return True
log("started", dict(folder=os.getcwd(), variables=sorted(os.environ)))
misbehave(how.get("greeting"))
say(type="hello", protocol=script["protocol"], packages=script["packages"])
name = ""
for line in sys.stdin:
    question = json.loads(line)
    request = question["request"]
    kind = question["function"].rpartition(":")[2].rpartition(".")[2]
    if kind in script["leaves"]:
        with open(request["folder"] + "/in_progress.json", "w") as file:
            file.write(script["leaves"][kind])
    if misbehave(how.get(kind)):
        continue
    if kind == "import_modules":
        files = dict.fromkeys(request["modules"], script["file"])
        send(machine=script["machine"], files=files)
    elif kind == "prepare":
        name = request["case"]
        task, ranked, architecture = name.split("/")
        method, _, rank = ranked.rpartition("-r")
        case = dict(task=task, method=method or ranked, architecture=architecture)
        if method:
            case["rank"] = int(rank)
        log("prepare", request)
        if not misbehave(how.get("before " + name)):
            say(answer=script["record"]["definition"])
    elif kind == "measure":
        open("litter", "w").close()
        log("measure", dict(request, case=name))
        time.sleep(script["pause"])
        known, more = request["known"], dict()
        if known:
            more = dict(curve=known[0]["curve"], repeats=known[0]["run_name"])
        if not misbehave(how.get(name)):
            record = dict(script["record"], case=case, **more)
            record.update(script["wrong"].get(name, dict()))
            if how.get("numbers") == "own":
                record["metrics"]["forward_flops"]["value"] = os.getpid()
            send(record=record, imported=script["uses"])
        misbehave(how.get("after " + name))
    elif kind in script["answers"]:
        log(kind, request)
        send(**script["answers"][kind])
    elif kind == "restart":
        say(answer=None)
    elif kind == "time_steps":
        steps = range(request)
        say(answer=[script["seconds"] * draw.uniform(1, 1.05) for _ in steps])
    else:
        say(refused="ValueError: unknown request " + kind)
"""


def write_worker(
    path,
    *,
    how=None,
    seconds=0.010,
    definition=None,
    protocol=PROTOCOL,
    packages=None,
    uses=None,
    answers=None,
    wrong=None,
    file="/nowhere.py",
    pause=0,
    leaves=None,
):
    """Write a worker that answers every request, except as `how` says, and return its path.

    What is known, it repeats. A step takes `seconds` and a case `pause` seconds, the
    libraries come from `file`, and each case uses the packages of `uses` besides. Functions of
    `answers` are answered with that. `wrong` has fields of records, by case. Functions of
    `leaves` first write that to `in_progress.json` in the folder of the request. `how` maps a
    request's type, a case id (when it is measured), `before` or `after` an id, or `greeting` to:
    kill, crash, exit, hang, refuse, babble or null (no record); and `numbers` to own (each process
    has its own).
    """
    record = msgspec.to_builtins(make_record(metrics={"forward_flops": 1000}))
    script = {
        "how": how or {},
        "seconds": seconds,
        "record": record if definition is None else {**record, "definition": definition},
        "machine": msgspec.to_builtins(MACHINE),
        "protocol": protocol,
        "packages": packages or {"peft-regress": "0.1.0", "peft": "0.18.1", "torch": "2.13.0"},
        "uses": uses or {},
        "answers": answers or {},
        "wrong": wrong or {},
        "file": file,
        "pause": pause,
        "leaves": leaves or {},
    }
    text = _WORKER.format(python=sys.executable, script=json.dumps(script), log=f"{path}.log")
    return write_program(path, text)


def logged(path, kind):
    """Return (process, what) of each line of one kind that the workers of a path have logged."""
    file = Path(f"{path}.log")
    # A process may be in the middle of a line.
    lines = file.read_text().rpartition("\n")[0].splitlines() if file.exists() else []
    found = map(json.loads, lines)
    return [(process, what) for of_kind, process, what in found if of_kind == kind]


def processes_of(path):
    """Return the processes that the workers of a path were, and started."""
    children = {child for _, child in logged(path, "child")}
    return children | {process for process, _ in logged(path, "started")}


def write_program(path, text):
    """Write an executable file and return its path.

    Another process writes it. A file that this one has open is open in every child that another
    thread starts meanwhile, until that child runs its program, and a program that is open for
    writing cannot be started (ETXTBSY).
    """
    command = [_INSTALL, "-m", "755", "/dev/stdin", str(path)]
    subprocess.run(command, input=text.encode(), check=True)
    return str(path)


def wait_until(condition, *, seconds=120):
    """Wait for a condition; the limit only ends a test that would never end."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited for too long"
        time.sleep(0.02)


def all_gone(processes):
    """Return whether no such process is left; a killed one takes a moment to go."""
    left = list(processes)
    wait_until(lambda: not any(map(is_alive, left)))
    return True


def is_alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
