"""A copy of the repository in which the examples run, with the files that they name."""

import os
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
from builders import make_case
from examples import ROOT

from peft_regress.runs.run_file import read_run_file, write_run_file

ENTRIES = ROOT / "baselines" / "Linux-CPython-3.11-64bit"
FIRST = ENTRIES / "0001_peft-0.21.2.json"
TIMED = ENTRIES / "0002_peft-0.21.2.json"
NEWEST = ENTRIES / "0039_peft-0.21.2.json"
OLD_PEFT = ENTRIES / "0007_peft-0.14.0.json"


def prepare(folder):
    """Fill a folder with what the examples need, at the names that they use."""
    for name in ("benchmarks", "examples", "tests", "tools", "docs", "pyproject.toml"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(
        ROOT / "baselines", folder / "baselines", ignore=shutil.ignore_patterns(".lock")
    )
    for name, source in {
        "runs/bench.json": TIMED,
        "runs/variants/avx2.json": NEWEST,
        "runs/variants/sse.json": NEWEST,
        "results/run.json": OLD_PEFT,
        # What a command of the same block leaves, which another worker may run.
        "run.json": NEWEST,
        "old.json": NEWEST,
        "new.json": NEWEST,
    }.items():
        file = read_run_file(source)
        write_run_file(folder / name, file.run, file.document)
    write_shards(folder / "shards")
    (folder / "verdict").mkdir()
    # What the block before that of the two writing jobs leaves, which another worker may run.
    for name, text in {
        "findings.md": "# upgrade peft==0.14.0: REGRESSED\n",
        "exit-code": "1\n",
        "requirements.txt": "peft==0.14.0\n",
    }.items():
        (folder / "results" / name).write_text(text)
    programs = {
        "python": "", "pytest": "-m pytest", "peft-regress": "-m peft_regress",
        "pytest-benchmark": "-m pytest_benchmark",
    }  # fmt: skip
    for name, module in programs.items():
        write_program(folder / "bin" / name, f'exec {sys.executable} {module} "$@"')
    for side in ("old", "new"):
        write_program(folder / side / "bin" / "python", f'exec {sys.executable} "$@"')
    return folder


def write_shards(folder):
    file = read_run_file(NEWEST)
    names = sorted(file.run.cases)
    for index in range(2):
        cases = {name: file.run.cases[name] for name in names[index::2]}
        run = msgspec.structs.replace(file.run, cases=cases, accepted=None)
        write_run_file(folder / f"shard-{index + 1}.json", run, file.document)


def write_program(path, line):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def environment(folder):
    outside = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    identity = {"GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@example.org"}
    identity |= {k.replace("AUTHOR", "COMMITTER"): v for k, v in identity.items()}
    return (
        outside
        | identity
        | {
            "PATH": os.pathsep.join((str(folder / "bin"), os.environ["PATH"])),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "COLUMNS": "100",
            "PEFT_REGRESS_CACHE": str(folder / "cache"),
        }
    )


def first_baseline(folder):
    """Leave nothing of the storage but the source models."""
    for path in (folder / "baselines").iterdir():
        if path.is_file():
            path.unlink()
        elif path.name != "sources":
            shutil.rmtree(path)


def without_resnet18(folder):
    """Remove the cases that the example retires from the run."""
    file = read_run_file(folder / "runs" / "bench.json")
    for name in list(file.run.cases):
        if make_case(name).architecture == "resnet18":
            del file.run.cases[name]
    write_run_file(file.path, file.run, file.document)


SETUPS: dict[str, Callable[[Path], None]] = {
    "First baseline": first_baseline,
    "--retire": without_resnet18,
}
"""How a copy is prepared, by words of the block."""


def setup_of(block):
    return next((setup for words, setup in SETUPS.items() if words in block.text), None)
