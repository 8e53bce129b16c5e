"""Call pip: plan, install, build a wheel, list releases.

pip runs with the user's settings (indexes, proxies, certificates), and its own messages explain a
failure.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Final

import msgspec
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from peft_regress.errors import AbsentError, InputError
from peft_regress.runs.schema import digest_of
from peft_regress.text import clean, printable

PIP_SECONDS: Final = 600.0
"""How long one call of pip may take: an index that does not answer must not block for ever."""

_QUIET: Final = ("--disable-pip-version-check", "--no-input", "--no-color")
# Variables of the user's shell that are ignored: this module decides what is installed and where.
_DECIDED_HERE: Final = frozenset(
    f"PIP_{name}"
    for name in (
        *("TARGET", "PREFIX", "ROOT", "PYTHON", "DRY_RUN", "REPORT", "REQUIREMENT", "EDITABLE"),
        *("GROUP", "NO_DEPS", "ONLY_DEPS", "IGNORE_INSTALLED", "FORCE_REINSTALL", "UPGRADE"),
        *("UPGRADE_STRATEGY", "REQUIRE_HASHES", "QUIET", "VERBOSE", "LOG"),
    )
)
# Set, not removed: a variable overrules a configuration file.
_SWITCHED_OFF: Final = {"PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0"}
# That an index has no such package is an answer; so is 403, of one that lists no folder.
_SILENT: Final = re.compile(r"Could not fetch URL (\S+): (?!40[34] )(.*) - skipping")
_REDIRECTED: Final = re.compile(r"^((?:global|install)\.(?:target|prefix|root))=", re.MULTILINE)


class PipError(InputError):
    """pip failed: an unknown package or version, a failed build, no network."""

    def __init__(self, what: str, problem: str, *, remedy: str = "") -> None:
        self.what = what
        self.problem = problem
        super().__init__(printable(f"{what}: {problem}{f'. {remedy}' if remedy else ''}"))


class SilentIndexError(PipError, AbsentError):
    """An index that gave no answer, although another one did: what it has is not known."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One package that pip would install."""

    name: str
    version: str
    source: str
    """The requirement of exactly this: `peft==0.14.0`, or a name with a direct URL."""
    digest: str | None = None
    """The SHA-256 of the file, if the index or the URL of an archive has it."""
    is_yanked: bool = False

    @property
    def is_direct(self) -> bool:
        """Whether it comes from a direct URL, not from an index."""
        return " @ " in self.source


def direct_sources(planned: Iterable[Planned]) -> dict[str, str]:
    """Return the digest of each package that comes from a direct URL: its version may be any."""
    return {
        one.name: digest_of((one.digest or one.source).encode()) for one in planned if one.is_direct
    }


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
    only_these: bool = False,
) -> tuple[Planned, ...]:
    """Return what pip would add to the running environment for some requirements.

    Installed packages that meet them are left out. With `only_these`, the requirements are planned
    even if they are installed, without their dependencies. Raises `PipError` about `what` if pip
    finds no solution.
    """
    options = ["--pre"] if pre else []
    options += ["--no-deps", "--force-reinstall"] if only_these else []
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
        # The commit even if a branch was named: a branch may move before the installation.
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

    A file must have the digest of the plan, if the plan has one. pip inherits the open files
    `keep_open`, so that a lock on the environment is held as long as pip writes there. Raises
    `PipError`.
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
            # Python compiles a module when it is first imported; compiling all takes seconds.
            arguments = ["--no-deps", "--ignore-installed", "--no-compile", "--quiet"]
            _run(
                ["install", *arguments, "--no-warn-script-location", "-r", str(file)],
                python=python,
                what=" ".join(line.partition(" --hash")[0] for line in lines),
                seconds=seconds,
                keep_open=keep_open,
            )


def _check_configuration(python: Path, *, seconds: float) -> None:
    """Refuse a pip.conf that redirects installations: no option overrules it."""
    listed = _call(python, ["config", "list"], what="pip config", seconds=seconds).stdout
    found = _REDIRECTED.search(listed)
    if found is not None:
        what = f"pip's setting {found.group(1)}"
        remedy = f"Remove it: `python -m pip config unset {found.group(1)}`"
        raise PipError(what, "pip would install into another folder", remedy=remedy)


def build_wheel(folder: Path, *, into: Path, seconds: float = PIP_SECONDS) -> Path:
    """Build the wheel of a checkout into a folder; raises `PipError`."""
    into.mkdir(parents=True, exist_ok=True)
    arguments = ["wheel", "--no-deps", "--quiet", "--wheel-dir", str(into), "--", str(folder)]
    _run(arguments, what=str(folder), seconds=seconds)
    (wheel,) = into.glob("*.whl")
    return wheel


def conflicts(python: Path, *, seconds: float = PIP_SECONDS) -> tuple[str, ...]:
    """Return the conflicts of an environment, one line of `pip check` each.

    Raises `PipError` if pip says nothing.
    """
    what = "pip check"
    done = _call(python, ["check"], seconds=seconds, what=what)
    lines = done.stdout.splitlines() if done.returncode else []
    if done.returncode and not done.stdout.strip():
        raise PipError(what, problem_in(done.stderr), remedy=remedy_for(done.stderr))
    return tuple(clean(line) for line in lines if line.strip())


def released_versions(
    package: str, *, pre: bool = False, seconds: float = PIP_SECONDS
) -> list[Version]:
    """Return the releases of a package that the index offers for this Python, oldest first.

    Yanked releases are left out, and pre-releases too unless `pre`. Raises `PipError`, and
    `SilentIndexError` if one of several places that pip asks gave no answer.
    """
    with tempfile.TemporaryDirectory(prefix="peft-regress-") as folder:
        log = Path(folder) / "log"
        options = ["--log", str(log), *(["--pre"] if pre else [])]
        done = _run(["index", "versions", *options, "--", package], what=package, seconds=seconds)
        silent = _SILENT.search(log.read_text(encoding="utf-8", errors="replace"))
    if silent is not None:
        problem = f"its newest release is not known: {silent[1]} gave no answer ({silent[2]})"
        remedy = (
            "Check the network, PIP_INDEX_URL, PIP_EXTRA_INDEX_URL and proxies; or set "
            "PIP_NO_INDEX=1, if what lies here is all there is"
        )
        raise SilentIndexError(package, problem, remedy=remedy)
    listed = re.search(r"^Available versions: (.*)$", done, re.MULTILINE)
    found = set()
    for text in listed.group(1).split(",") if listed else ():
        with contextlib.suppress(InvalidVersion):
            found.add(Version(text.strip()))
    if not found:
        raise PipError(package, "the index offers no release of it for this Python")
    # A local build such as 2.13.0+cpu is the release 2.13.0.
    return sorted({Version(version.public) for version in found})


def _run(
    arguments: Sequence[str],
    *,
    what: str,
    seconds: float,
    python: Path | None = None,
    keep_open: Sequence[int] = (),
) -> str:
    """Run pip and return its output; raises `PipError` if it fails."""
    interpreter = Path(sys.executable) if python is None else python
    done = _call(interpreter, arguments, what=what, seconds=seconds, keep_open=keep_open)
    if done.returncode:
        output = f"{done.stdout}\n{done.stderr}"
        raise PipError(what, problem_in(output), remedy=remedy_for(output))
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
    beginning = pip_command(python)
    if beginning is None:
        raise PipError(what, NO_PIP, remedy=NO_PIP_REMEDY)
    command = [*beginning, arguments[0], *_QUIET, *arguments[1:]]
    # A process group of its own, so that the processes of a build end with it.
    with subprocess.Popen(  # noqa: S603  (pip, in a known interpreter)
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**kept, **index_settings(kept), **_SWITCHED_OFF},
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


NO_PIP: Final = "this environment has no pip, and uv is not on PATH"
NO_PIP_REMEDY: Final = (
    "Install pip here: `python -m ensurepip` (in an environment of uv: `uv pip install pip`); or "
    "put uv on PATH, which then brings pip"
)

_TORCH_INDEX: Final = "https://download.pytorch.org/whl"
# Where uv is told to look for packages. pip reads no setting of uv.
_OF_UV: Final = {
    "PIP_INDEX_URL": ("UV_DEFAULT_INDEX", "UV_INDEX_URL"),
    "PIP_EXTRA_INDEX_URL": ("UV_INDEX", "UV_EXTRA_INDEX_URL"),
    "PIP_FIND_LINKS": ("UV_FIND_LINKS",),
    "PIP_CONSTRAINT": ("UV_CONSTRAINT",),
}
_NAME_OF_INDEX: Final = re.compile(r"^[\w.-]+=(?=\w+://)")


def pip_command(python: Path) -> list[str] | None:
    """Return the beginning of a command of pip for an interpreter; None if there is no pip.

    The interpreter is the running one, or that of an overlay, which has the same packages.
    """
    if _is_installed("pip"):
        # -P: a pip.py in the working directory must not be imported.
        return [str(python), "-P", "-m", "pip"]
    uv = _uv()
    if uv is None:
        return None
    # The running Python, so that uv downloads none.
    tool = ["tool", "run", "--quiet", "--python", sys.executable, "pip"]
    return [*uv, *tool, "--python", str(python)]


def index_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Return pip's variables for what uv's variables say about where packages are.

    Empty where pip is installed, and without what is set for pip itself.
    """
    if _is_installed("pip"):
        return {}
    found = {}
    for variable, names in _OF_UV.items():
        given = [one for name in names for one in re.split(r"[,\s]+", environment.get(name, ""))]
        if variable == "PIP_EXTRA_INDEX_URL":
            given.append(_index_of_torch(environment.get("UV_TORCH_BACKEND", "")))
        chosen = [_NAME_OF_INDEX.sub("", one) for one in given if one]
        if variable == "PIP_INDEX_URL":
            # There is one: uv, too, reads the older name only if the newer one is not set.
            chosen = chosen[:1]
        if chosen and variable not in environment:
            found[variable] = " ".join(chosen)
    return found


def _index_of_torch(backend: str) -> str:
    return f"{_TORCH_INDEX}/{backend}" if re.fullmatch(r"cpu|cu\d+|rocm[\d.]+|xpu", backend) else ""


def _uv() -> list[str] | None:
    """Return the command of uv: on PATH, or the package `uv` of this environment."""
    found = shutil.which("uv") or os.environ.get("UV")
    if found:
        return [found]
    return [sys.executable, "-P", "-m", "uv"] if _is_installed("uv") else None


def _is_installed(name: str) -> bool:
    # Not by `importlib.util.find_spec`: asked for pip, setuptools unloads distutils and warns.
    return PathFinder.find_spec(name) is not None


_LONGEST: Final = 200
# Other errors explain more.
_EMPTY_PHRASES: Final = ("ResolutionImpossible", "No matching distribution found", "Exception:")
_OF_GIT: Final = re.compile(r"^(fatal|error): (?!subprocess-exited)")
_OF_BUILD: Final = re.compile(r"^[\w.]*(Error|Exception)\b|^error: ", re.IGNORECASE)
_UNREACHABLE: Final = (
    r"NewConnectionError|ConnectTimeout|ReadTimeout|Name or service not known|Max retries exceeded"
    r"|Temporary failure in name resolution|connection broken|Connection refused"
    r"|Could not resolve host|network was disabled"
)
_NAME_OR_INDEX: Final = (
    "`python -m pip index versions NAME` lists the releases for this Python; is PIP_INDEX_URL the "
    "right index?"
)
_REMEDIES: Final = (
    (r"No module named pip\b", NO_PIP_REMEDY),
    (_UNREACHABLE, "The index cannot be reached: check the network, PIP_INDEX_URL and proxies"),
    (r"No space left on device", "Free some space, or set PEFT_REGRESS_CACHE to another folder"),
    (
        r"requires? a different python",
        "Choose a release for this Python, or run in an environment of another Python",
    ),
    (
        r"\bgit (clone|fetch|checkout|rev-parse)\b",
        "Are address and revision right? See `git ls-remote URL`",
    ),
    (
        r"subprocess-exited-with-error",
        "Choose a release that has a wheel, or install what its build needs",
    ),
    (
        r"Wheel '.*' located at .* is invalid|do not match the hashes",
        "Choose another release, or empty pip's cache: `python -m pip cache purge`",
    ),
    (r"Could not find a version|No matching distribution found", _NAME_OR_INDEX),
    (r"conflicting dependencies", "Name a release of the other package too, one that fits"),
)


def problem_in(output: str) -> str:
    """Return the problem in pip's output: its own errors, and those of a program that it ran."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line.partition("ERROR: ")[2] for line in lines if "ERROR: " in line]
    plain = [line for line in errors if line and not line.startswith(_EMPTY_PHRASES)]
    # Ignored releases explain the error before them.
    plain.sort(key=lambda line: line.startswith("Ignored the following"))
    last = [line.removeprefix("ERROR: ") for line in lines[-1:]]
    chosen = [*(plain or _of_uv(lines) or last), *_causes(lines)]
    shown = "; ".join(clean(one, longest=_LONGEST).rstrip(".") for one in dict.fromkeys(chosen))
    return shown or "pip failed without a message"


def _of_uv(lines: list[str]) -> list[str]:
    """Return what uv says, which is to bring pip, and its first cause."""
    said = [line for line in lines if line.startswith(("error: ", "cause: "))][:2]
    if not said or not lines[0].startswith("error: "):
        return []
    return [f"uv could not bring pip ({'; '.join(line.partition(': ')[2] for line in said)})"]


def _causes(lines: list[str]) -> list[str]:
    """Return why a build failed, or which packages conflict."""
    of_git = [line for line in lines if _OF_GIT.search(line)]
    if of_git and any("git " in line for line in lines):
        # git prints the cause first, a traceback comes last.
        return of_git[:1]
    if "[end of output]" in lines:
        printed = lines[: lines.index("[end of output]")]
        start = next((i for i, line in enumerate(printed) if "lines of output]" in line), -1)
        printed = printed[start + 1 :]
        return ([line for line in printed if _OF_BUILD.search(line)] or printed)[-1:]
    if "The conflict is caused by:" in lines:
        rest = lines[lines.index("The conflict is caused by:") + 1 :]
        return [line for line in rest[:8] if " depends on " in line or " requested " in line]
    return []


def remedy_for(output: str) -> str:
    """Return what to do about a failure; empty if that is not known."""
    for pattern, remedy in _REMEDIES:
        if re.search(pattern, output, re.IGNORECASE):
            return remedy
    return ""
