"""Ask pip: what would be installed, install that, which releases there are.

pip is a program of the user's with settings of its own (indexes, proxies, certificates), which hold
here too; what is said of a failure is what pip says.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from peft_regress.environments.overlay.pip_errors import problem_in, remedy_for
from peft_regress.errors import InputError
from peft_regress.text import clean, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "PIP_SECONDS",
    "PipError",
    "Planned",
    "build_wheel",
    "conflicts",
    "install",
    "plan",
    "released_versions",
]

PIP_SECONDS: Final = 600.0
"""How long one call of pip may take: an index that does not answer must not hold a run for ever."""

_QUIET: Final = ("--disable-pip-version-check", "--no-input", "--no-color")
# What pip installs, and where to, is decided here, whatever the user's shell says.
_DECIDED_HERE: Final = frozenset(
    f"PIP_{name}"
    for name in (
        *("TARGET", "PREFIX", "ROOT", "PYTHON", "DRY_RUN", "REPORT", "REQUIREMENT", "EDITABLE"),
        *("GROUP", "NO_DEPS", "ONLY_DEPS", "IGNORE_INSTALLED", "FORCE_REINSTALL", "UPGRADE"),
        *("UPGRADE_STRATEGY", "REQUIRE_HASHES", "QUIET", "VERBOSE", "LOG"),
    )
)
# Not absent, since these overrule what a configuration file says.
_SWITCHED_OFF: Final = {"PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0"}
_REDIRECTED: Final = re.compile(r"^((?:global|install)\.(?:target|prefix|root))=", re.MULTILINE)


class PipError(InputError):
    """What pip could not do: an unknown package or version, a failed build, no network."""

    def __init__(self, what: str, problem: str, *, remedy: str = "") -> None:
        self.what = what
        self.problem = problem
        super().__init__(printable(f"{what}: {problem}{f'. {remedy}' if remedy else ''}"))


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One package that pip would install.

    `source` is what to hand pip to get just this: `peft==0.14.0`, or a name with a direct URL;
    `digest` is the SHA-256 of the file where an index or an archive's URL has it.
    """

    name: str
    version: str
    source: str
    digest: str | None = None
    is_yanked: bool = False

    @property
    def is_direct(self) -> bool:
        """Whether it comes from a URL of its own, and not from an index."""
        return " @ " in self.source


class _ArchiveInfo(msgspec.Struct):
    hashes: dict[str, str] = {}


class _VcsInfo(msgspec.Struct):
    vcs: str
    commit_id: str


class _DownloadInfo(msgspec.Struct):
    url: str
    archive_info: _ArchiveInfo | None = None
    vcs_info: _VcsInfo | None = None
    subdirectory: str = ""


class _Metadata(msgspec.Struct):
    name: str
    version: str


class _Item(msgspec.Struct):
    download_info: _DownloadInfo
    metadata: _Metadata
    is_direct: bool = False
    is_yanked: bool = False


class _Report(msgspec.Struct):
    install: list[_Item]


def plan(
    requirements: Sequence[str],
    *,
    what: str = "",
    seconds: float = PIP_SECONDS,
    pre: bool = False,
    alone: bool = False,
) -> tuple[Planned, ...]:
    """Return what pip would add to the running environment for some requirements.

    What is installed and fits is left out; `alone` leaves out what they depend on instead. Raises
    `PipError` where pip finds no solution, which is said of `what`.
    """
    options = ["--pre"] if pre else []
    options += ["--no-deps", "--force-reinstall"] if alone else []
    with tempfile.TemporaryDirectory(prefix="peft-regress-") as folder:
        report = Path(folder) / "report.json"
        _run(
            ["install", "--dry-run", *options, "--report", str(report), "--", *requirements],
            what=what or " ".join(requirements),
            seconds=seconds,
        )
        found = msgspec.json.decode(report.read_bytes(), type=_Report)
    items = (_planned(item) for item in found.install)
    return tuple(sorted(items, key=lambda planned: planned.name))


def _planned(item: _Item) -> Planned:
    name, version = canonicalize_name(item.metadata.name), item.metadata.version
    info = item.download_info
    digest = info.archive_info.hashes.get("sha256") if info.archive_info else None
    source = f"{name}=={version}"
    if info.vcs_info is not None:
        # The commit, where a branch was named: the branch may move on before it is installed.
        part = f"#subdirectory={info.subdirectory}" if info.subdirectory else ""
        source = f"{name} @ {info.vcs_info.vcs}+{info.url}@{info.vcs_info.commit_id}{part}"
    elif item.is_direct:
        source = f"{name} @ {info.url}"
    return Planned(
        name=name, version=version, source=source, digest=digest, is_yanked=item.is_yanked
    )


def install(
    python: Path,
    planned: Iterable[Planned],
    *,
    seconds: float = PIP_SECONDS,
    keep_open: Sequence[int] = (),
) -> None:
    """Install what was planned, and only that, into the environment of an interpreter.

    Where the index says a file's digest, the file must have it. pip has the open files `keep_open`,
    too: a lock on the environment is held for as long as pip writes there. Raises `PipError`.
    """
    _check_configuration(python, seconds=seconds)
    checked: list[str] = []
    unchecked: list[str] = []
    for package in planned:
        if package.digest and not package.is_direct:
            checked.append(f"{package.source} --hash=sha256:{package.digest}")
        else:
            unchecked.append(package.source)
    for lines in filter(None, (checked, unchecked)):
        with tempfile.TemporaryDirectory(prefix="peft-regress-") as folder:
            file = Path(folder) / "requirements.txt"
            file.write_text("\n".join([*lines, ""]), encoding="utf-8")
            # Compiled when first imported, as it is not worth seconds now.
            arguments = ["--no-deps", "--ignore-installed", "--no-compile", "--quiet"]
            _run(
                ["install", *arguments, "--no-warn-script-location", "-r", str(file)],
                python=python,
                what=" ".join(line.partition(" --hash")[0] for line in lines),
                seconds=seconds,
                keep_open=keep_open,
            )


def _check_configuration(python: Path, *, seconds: float) -> None:
    """Refuse a pip.conf by which pip would install to another place; nothing overrules it."""
    listed = _call(python, ["config", "list"], what="pip config", seconds=seconds).stdout
    found = _REDIRECTED.search(listed)
    if found is not None:
        what = f"pip's setting {found.group(1)}"
        remedy = f"Take it away: `python -m pip config unset {found.group(1)}`"
        raise PipError(what, "by it pip would install to another place", remedy=remedy)


def build_wheel(folder: Path, *, into: Path, seconds: float = PIP_SECONDS) -> Path:
    """Build the wheel of a checkout into a folder; raises `PipError`."""
    into.mkdir(parents=True, exist_ok=True)
    arguments = ["wheel", "--no-deps", "--quiet", "--wheel-dir", str(into), "--", str(folder)]
    _run(arguments, what=str(folder), seconds=seconds)
    (wheel,) = into.glob("*.whl")
    return wheel


def conflicts(python: Path, *, seconds: float = PIP_SECONDS) -> tuple[str, ...]:
    """Return what does not fit together in an environment, in pip's words."""
    done = _call(python, ["check"], seconds=seconds, what="pip check")
    lines = done.stdout.splitlines() if done.returncode else []
    return tuple(clean(line) for line in lines if line.strip())


def released_versions(
    package: str, *, pre: bool = False, seconds: float = PIP_SECONDS
) -> list[Version]:
    """Return the releases of a package that an index offers for this Python, oldest first.

    Yanked ones are not among them, and pre-releases with `pre` alone. Raises `PipError`.
    """
    arguments = ["index", "versions", *(["--pre"] if pre else []), "--", package]
    done = _run(arguments, what=package, seconds=seconds)
    listed = re.search(r"^Available versions: (.*)$", done, re.MULTILINE)
    found = set()
    for text in listed.group(1).split(",") if listed else ():
        with contextlib.suppress(InvalidVersion):
            found.add(Version(text.strip()))
    if not found:
        raise PipError(package, "the index offers no release of it for this Python")
    # A local build, such as 2.13.0+cpu, is the same release.
    return sorted({Version(version.public) for version in found})


def _run(
    arguments: Sequence[str],
    *,
    what: str,
    seconds: float,
    python: Path | None = None,
    keep_open: Sequence[int] = (),
) -> str:
    """Run pip and return its output; raises `PipError` where it fails."""
    interpreter = Path(sys.executable) if python is None else python
    done = _call(interpreter, arguments, what=what, seconds=seconds, keep_open=keep_open)
    if done.returncode:
        said = f"{done.stdout}\n{done.stderr}"
        raise PipError(what, problem_in(said), remedy=remedy_for(said))
    return done.stdout


def _call(
    python: Path,
    arguments: Sequence[str],
    *,
    what: str,
    seconds: float,
    keep_open: Sequence[int] = (),
) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in _DECIDED_HERE}
    # -P: a pip.py in the working directory is not pip.
    command = [str(python), "-P", "-m", "pip", arguments[0], *_QUIET, *arguments[1:]]
    # A process group of its own, so that nothing that a build started is left behind.
    with subprocess.Popen(  # noqa: S603  (pip, by an interpreter of our choice)
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**kept, **_SWITCHED_OFF},
        pass_fds=keep_open,
        start_new_session=True,
    ) as process:
        try:
            output, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            problem = f"pip gave no answer within {seconds:g} s"
            remedy = "Is the index reachable? Allow more with --pip-time-limit SECONDS"
            raise PipError(what, problem, remedy=remedy) from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(command, process.returncode, output, errors)
