"""The command `peft-regress init`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Final

import click

from peft_regress.cli.options import examples
from peft_regress.errors import InputError
from peft_regress.files import write_atomic
from peft_regress.report.terminal import echo, say
from peft_regress.settings import read_settings
from peft_regress.text import printable

_SUITE: Final = {
    "gates/__init__.py": "__init__.py.txt",
    "gates/cases.py": "cases.py.txt",
    "gates/test_gates.py": "test_gates.py.txt",
    ".github/workflows/gate.yml": "gate.yml.txt",
}
"""The files of a first suite, and where their text is."""

_SETTINGS: Final = "pyproject.toml"
_IGNORE: Final = ".gitignore"
_IGNORED: Final = ("/runs/", "/baselines/.lock")
"""What is not to be committed beside the suite and its baselines."""

_FIRST_STEPS: Final = """\
first steps:
  1. pytest gates --regress-save runs/first.json    (fails: nothing judges the case yet)
  2. peft-regress accept runs/first.json --reason "first numbers"
  3. pytest gates    (passes until a case gets worse or goes over its budget)
Then put your own model, data and adapter into gates/cases.py, and commit baselines/."""


@click.command("init", epilog=examples("peft-regress init"))
def command() -> None:
    """Write a first suite that gates a fine-tuning of your own.

    It goes into the working folder: gates/ with one small case that runs in seconds, its settings
    in pyproject.toml, a workflow, and what git shall ignore. No file is overwritten.
    """
    folder = Path.cwd()
    _check_is_new(folder)
    _add_table(folder / _SETTINGS)
    for name, source in _SUITE.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, _text(source).encode())
        say(f"wrote {name}")
    _add_ignored(folder / _IGNORE)
    echo(f"\n{_FIRST_STEPS}")


def _check_is_new(folder: Path) -> None:
    """Raise `InputError`, before anything is written, for what is there already."""
    # A folder above may have settings; those of this folder are nearer.
    if read_settings(folder).file == folder / _SETTINGS:
        msg = f"{folder / _SETTINGS}: has [tool.peft_regress] already; add your cases there"
        raise InputError(printable(msg))
    present = [name for name in _SUITE if (folder / name).exists()]
    if present:
        msg = f"{', '.join(present)}: there already, and init overwrites nothing; move it first"
        raise InputError(msg)


def _add_table(path: Path) -> None:
    """Write the settings, after what pyproject.toml holds."""
    table = _text("table.toml.txt")
    if not path.exists():
        write_atomic(path, table.encode())
        say(f"wrote {_SETTINGS}")
        return
    before = path.read_bytes()
    gap = b"\n" if before.endswith(b"\n") else b"\n\n"
    write_atomic(path, before + gap + table.encode())
    say(f"added [tool.peft_regress] to {_SETTINGS}")


def _add_ignored(path: Path) -> None:
    """Let git ignore run files and the storage's lock, after what it ignores already."""
    before = path.read_bytes() if path.exists() else b""
    missing = [line for line in _IGNORED if line.encode() not in before.splitlines()]
    if missing:
        gap = b"" if not before or before.endswith(b"\n") else b"\n"
        write_atomic(path, before + gap + "".join(f"{line}\n" for line in missing).encode())
        say(f"added {' and '.join(missing)} to {_IGNORE}" if before else f"wrote {_IGNORE}")


def _text(name: str) -> str:
    return files("peft_regress.cli").joinpath("first_suite", name).read_text(encoding="utf-8")
