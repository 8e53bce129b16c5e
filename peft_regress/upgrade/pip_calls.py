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
# Where pip installs to is decided here: into the overlay, whatever the user's shell says.
_REDIRECTIONS: Final = (
    "PIP_TARGET",
    "PIP_PREFIX",
    "PIP_ROOT",
    "PIP_USER",
    "PIP_REQUIRE_VIRTUALENV",
)
_UNREACHABLE: Final = re.compile(
    r"NewConnectionError|ConnectTimeout|ReadTimeout|Name or service not known|Max retries exceeded"
    r"|Temporary failure in name resolution|connection broken|Connection refused",
    re.IGNORECASE,
)
_LONGEST: Final = 300


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
    `digest` is the SHA-256 of the file where an index has it.
    """

    name: str
    version: str
    source: str
    digest: str | None = None
    is_yanked: bool = False


class _ArchiveInfo(msgspec.Struct):
    hashes: dict[str, str] = {}


class _VcsInfo(msgspec.Struct):
    vcs: str
    commit_id: str


class _DownloadInfo(msgspec.Struct):
    url: str
    archive_info: _ArchiveInfo | None = None
    vcs_info: _VcsInfo | None = None


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
    requirements: Sequence[str], *, seconds: float = PIP_SECONDS, pre: bool = False
) -> tuple[Planned, ...]:
    """Return what pip would add to the running environment for some requirements.

    What is installed and fits is left out. Raises `PipError` where pip finds no solution.
    """
    with tempfile.TemporaryDirectory(prefix="peft-regress-") as folder:
        report = Path(folder) / "report.json"
        _run(
            ["install", "--dry-run", "--quiet", "--report", str(report)]
            + (["--pre"] if pre else [])
            + ["--", *requirements],
            what=" ".join(requirements),
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
        source = f"{name} @ {info.vcs_info.vcs}+{info.url}@{info.vcs_info.commit_id}"
    elif item.is_direct:
        source = f"{name} @ {info.url}"
    return Planned(
        name=name, version=version, source=source, digest=digest, is_yanked=item.is_yanked
    )


def install(python: Path, planned: Iterable[Planned], *, seconds: float = PIP_SECONDS) -> None:
    """Install what was planned, and only that, into the environment of an interpreter.

    Where the index says a file's digest, the file must have it. Raises `PipError`.
    """
    checked: list[str] = []
    unchecked: list[str] = []
    for package in planned:
        if package.digest and " @ " not in package.source:
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
            )


def build_wheel(folder: Path, *, into: Path, seconds: float = PIP_SECONDS) -> Path:
    """Build the wheel of a checkout into a folder; raises `PipError`."""
    into.mkdir(parents=True, exist_ok=True)
    arguments = ["wheel", "--no-deps", "--quiet", "--wheel-dir", str(into), "--", str(folder)]
    _run(arguments, what=str(folder), seconds=seconds)
    (wheel,) = into.glob("*.whl")
    return wheel


def conflicts(python: Path) -> tuple[str, ...]:
    """Return what does not fit together in an environment, in pip's words."""
    done = _call(python, ["check"], seconds=PIP_SECONDS, what="pip check")
    lines = done.stdout.splitlines() if done.returncode else []
    return tuple(clean(line) for line in lines if line.strip())


def released_versions(
    package: str, *, pre: bool = False, seconds: float = PIP_SECONDS
) -> list[Version]:
    """Return the releases of a package that an index offers for this Python, oldest first.

    Yanked ones may be among them: pip tells them when it plans one. Raises `PipError`.
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


def _run(arguments: Sequence[str], *, what: str, seconds: float, python: Path | None = None) -> str:
    """Run pip and return its output; raises `PipError` where it fails."""
    interpreter = Path(sys.executable) if python is None else python
    done = _call(interpreter, arguments, what=what, seconds=seconds)
    if done.returncode:
        raise PipError(what, _problem(done.stderr), remedy=_remedy(done.stderr))
    return done.stdout


def _call(
    python: Path, arguments: Sequence[str], *, what: str, seconds: float
) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in _REDIRECTIONS}
    command = [str(python), "-m", "pip", arguments[0], *_QUIET, *arguments[1:]]
    # A process group of its own, so that nothing that a build started is left behind.
    process = subprocess.Popen(  # noqa: S603
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=environment,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        problem = f"pip gave no answer within {seconds:g} s"
        remedy = "Is the index reachable? Allow more with --pip-time-limit SECONDS"
        raise PipError(what, problem, remedy=remedy) from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def _problem(errors: str) -> str:
    """Return what pip says is wrong: its own errors, or the last line of what failed in it."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    told = [line.partition("ERROR: ")[2] for line in lines if "ERROR: " in line]
    told = [line for line in told if line and not line.startswith("ResolutionImpossible")]
    chosen = told[-2:] if told else lines[-1:]
    shown = clean(
        "; ".join(dict.fromkeys(chosen)) or "pip failed and said nothing", longest=_LONGEST
    )
    return shown.rstrip(".")


def _remedy(errors: str) -> str:
    if "No module named pip" in errors:
        return "Install pip here: `python -m ensurepip`"
    if _UNREACHABLE.search(errors):
        return "The index cannot be reached: check the network, PIP_INDEX_URL and proxies"
    return ""
