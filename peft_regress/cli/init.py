"""The command `peft-regress init`."""

import json
import re
import tomllib
from collections.abc import Sequence
from importlib.metadata import distribution
from importlib.resources import files
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

from peft_regress.cli import options
from peft_regress.errors import InputError
from peft_regress.files import write_atomic
from peft_regress.overlay.pip import PipError, plan
from peft_regress.project.project import current_project
from peft_regress.project.settings import read_settings
from peft_regress.report.terminal import echo, say

_SUITE: Final = {
    "gates/__init__.py": "__init__.py.txt",
    "gates/cases.py": "cases.py.txt",
    "gates/test_gates.py": "test_gates.py.txt",
    ".github/workflows/gate.yml": "gate.yml.txt",
}
"""The files of a first suite, and where their text is."""

_SETTINGS: Final = "pyproject.toml"
_FOR_GIT: Final = {
    ".gitignore": ("/runs/", "/baselines/.lock"),
    ".gitattributes": ("/baselines/**/*.json -diff linguist-generated",),
}
"""What is not to be committed, and what no diff shows, since `current.txt` does."""

_DECLARING: Final = {"packages", "py-modules", "package-dir"}
"""The keys that tell setuptools what a wheel has."""
_REFUSES: Final = "with gates/ and baselines/ setuptools would not guess"

_FIRST_STEPS: Final = """\
first steps:
  1. pytest gates --regress-save runs/first.json    (fails: nothing judges the case yet)
  2. peft-regress accept runs/first.json --reason "first numbers"
  3. pytest gates    (passes until a case gets worse or goes over its budget)
Then put your own model, data and adapter into gates/cases.py, and commit baselines/."""
_NO_PLACE: Final = """\
In .github/workflows/gate.yml, put into GATE where CI can install peft-regress from: here it comes
from a place that only this machine has. Until then the workflow fails and says so."""


@options.command("init", "peft-regress init")
def command() -> None:
    """Write a first suite that gates a fine-tuning of your own.

    It goes into the working folder: gates/ with one small case that runs in seconds, its settings
    in pyproject.toml, a workflow, and two files for git. No file is overwritten.
    """
    folder = Path.cwd()
    _check_is_new(folder)
    requirement = _requirement(folder)
    path = folder / _SETTINGS
    before = path.read_bytes().decode() if path.exists() else ""
    settings = _joined(_packaged(folder, before), _text("table.toml.txt"))
    write_atomic(path, settings.encode())
    say(f"added [tool.peft_regress] to {_SETTINGS}" if before else f"wrote {_SETTINGS}")
    for name, source in _SUITE.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = _text(source).replace("REQUIREMENT", requirement)
        write_atomic(path, text.encode())
        say(f"wrote {name}")
    for name, lines in _FOR_GIT.items():
        _add_lines(folder / name, lines)
    echo(f"\n{_FIRST_STEPS}" if requirement else f"\n{_FIRST_STEPS}\n{_NO_PLACE}")


def _check_is_new(folder: Path) -> None:
    """Raise `InputError` for a file that exists, before anything is written."""
    # A folder above may have settings; those of this folder are nearer.
    if read_settings(folder, root=folder).file == folder / _SETTINGS:
        file = folder / _SETTINGS
        raise InputError(f"{file}: has [tool.peft_regress] already; add your cases there")
    present = [name for name in _SUITE if (folder / name).exists()]
    if present:
        problem = f"{', '.join(present)}: there already, and init overwrites nothing; move it first"
        raise InputError(problem)


def _joined(before: str, table: str) -> str:
    return f"{before.rstrip()}\n\n{table}" if before else table


def _packaged(folder: Path, settings: str) -> str:
    """Return settings that name the packages; say it where setuptools would search for them."""
    # It refuses to choose between several folders, such as gates/ and baselines/.
    tables = tomllib.loads(settings)
    backend = tables.get("build-system", {}).get("build-backend", "setuptools")
    is_packaged = any((folder / name).exists() for name in ("setup.py", "setup.cfg", "src"))
    is_declared = _DECLARING & tables.get("tool", {}).get("setuptools", {}).keys()
    if is_packaged or is_declared or not backend.startswith("setuptools"):
        return settings
    if "project" not in tables:
        name = re.sub(r"[^A-Za-z0-9]+", "-", folder.name).strip("-") or "gates"
        return _joined(settings, _text("project.toml.txt").replace("NAME", name))
    say(f"add your packages to [tool.setuptools] in {_SETTINGS}: {_REFUSES}")
    return settings


def _requirement(folder: Path) -> str:
    """Return what installs this package from the same place; empty if only this machine has it."""
    # A release of an index is named by its file and digest: others may have a package of its name.
    installed = distribution("peft-regress")
    recorded = installed.read_text("direct_url.json")
    if recorded is None:
        return _released(f"{installed.name}=={installed.version}")
    origin = json.loads(recorded)
    url, vcs = origin["url"], origin.get("vcs_info")
    if vcs is not None:
        url = f"{vcs['vcs']}+{url}@{vcs['commit_id']}"
    place = urlsplit(url)
    if not place.scheme.endswith("file"):
        return f"{installed.name} @ {url}"
    path = Path(url2pathname(place.path))
    inside = vcs is None and path.is_relative_to(folder) and path != folder
    return f"./{path.relative_to(folder).as_posix()}" if inside else ""


def _released(requirement: str) -> str:
    """Return the file that pip takes for a release; empty if no index has it."""
    try:
        (found,) = plan([requirement], current_project().settings.pip, only_these=True)
    except PipError:
        return ""
    is_public = found.digest is not None and "@" not in urlsplit(found.url).netloc
    return f"{found.name} @ {found.url}#sha256={found.digest}" if is_public else ""


def _add_lines(path: Path, lines: Sequence[str]) -> None:
    before = path.read_bytes() if path.exists() else b""
    missing = [line for line in lines if line.encode() not in before.splitlines()]
    if missing:
        gap = b"" if not before or before.endswith(b"\n") else b"\n"
        write_atomic(path, before + gap + "".join(f"{line}\n" for line in missing).encode())
        say(f"added {' and '.join(missing)} to {path.name}" if before else f"wrote {path.name}")


def _text(name: str) -> str:
    return files("peft_regress.cli").joinpath("first_suite", name).read_text(encoding="utf-8")
