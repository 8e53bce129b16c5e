"""Call pip: plan, install, build a wheel, list releases.

pip has the user's settings (indexes, proxies, certificates); its error lines explain a failure.
"""

import contextlib
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from peft_regress.errors import InputError
from peft_regress.processes import Process, variables
from peft_regress.project.settings import Pip
from peft_regress.runs.schema import digest_of
from peft_regress.text import clean

_QUIET: Final = ("--disable-pip-version-check", "--no-input", "--no-color")
# Variables of the user's shell that are ignored: this module decides what is installed and where.
_DECIDED_HERE: Final = frozenset(
    f"PIP_{name}" for name in ("TARGET", "PREFIX", "ROOT", "PYTHON", "DRY_RUN", "NO_DEPS", "REPORT")
)
# Set, not removed: a variable overrules a configuration file.
_SWITCHED_OFF: Final = {"PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0"}
# That an index has no such package is an answer; so is 403, of one that lists no folder.
_SILENT: Final = re.compile(r"Could not fetch URL (\S+): (?!40[34] )(.*) - skipping")
_LONGEST: Final = 300
_HERE: Final = sys.executable
_UNREACHABLE: Final = re.compile(
    r"NewConnectionError|ConnectTimeout|ReadTimeout|Max retries exceeded|connection broken"
    r"|[Nn]ame resolution|Name or service not known|Connection refused|Could not resolve host"
)
_NO_NETWORK: Final = "The index cannot be reached: check the network, PIP_INDEX_URL and proxies"


class PipError(InputError):
    """pip failed: an unknown package or version, a failed build, no network."""

    def __init__(self, what: str, problem: str, *, remedy: str = "") -> None:
        super().__init__(f"{what}: {problem}{f'. {remedy}' if remedy else ''}")


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One package that pip would install."""

    name: str
    version: str
    source: str
    """The requirement of exactly this: `peft==0.14.0`, or a name with a direct URL."""
    url: str = ""
    """The file that pip takes for it."""
    digest: str | None = None
    """The SHA-256 of the file, if the index or the URL of an archive has it."""
    is_yanked: bool = False

    @property
    def is_direct(self) -> bool:
        """Whether it comes from a direct URL, not from an index."""
        return " @ " in self.source


def direct_sources(planned: Iterable[Planned]) -> dict[str, str]:
    """Return the digest of each package that comes from a direct URL: its version may be any."""
    direct = (one for one in planned if one.is_direct)
    return {one.name: digest_of((one.digest or one.source).encode()) for one in direct}


def plan(
    requirements: Sequence[str], pip: Pip, *, what: str = "", only_these: bool = False
) -> tuple[Planned, ...]:
    """Return what pip would add to the running environment for some requirements.

    Installed packages that meet them are left out. With `only_these`, the requirements are planned
    even if they are installed, without dependencies. Raises `PipError` about `what` if pip fails.
    """
    options = ["--dry-run", *(["--pre"] if pip.pre else [])]
    options += ["--no-deps", "--force-reinstall"] if only_these else []
    with tempfile.TemporaryDirectory(prefix="peft-regress-") as folder:
        report = Path(folder) / "report.json"
        words = ["install", *options, "--report", str(report), "--", *requirements]
        _run(words, pip, what=what or " ".join(requirements))
        found = json.loads(report.read_bytes())
    return tuple(sorted(map(_planned, found["install"]), key=lambda planned: planned.name))


def _planned(item: dict[str, Any]) -> Planned:
    name, version = canonicalize_name(item["metadata"]["name"]), item["metadata"]["version"]
    info = item["download_info"]
    source = f"{name}=={version}"
    if "vcs_info" in info:
        # The commit even if a branch was named: a branch may move before the installation.
        part = f"#subdirectory={info['subdirectory']}" if info.get("subdirectory") else ""
        vcs = info["vcs_info"]
        source = f"{name} @ {vcs['vcs']}+{info['url']}@{vcs['commit_id']}{part}"
    elif item.get("is_direct"):
        source = f"{name} @ {info['url']}"
    return Planned(
        name=name,
        version=version,
        source=source,
        url=info["url"],
        digest=info.get("archive_info", {}).get("hashes", {}).get("sha256"),
        is_yanked=item.get("is_yanked", False),
    )


def install(
    python: Path, planned: Iterable[Planned], pip: Pip, *, keep_open: Sequence[int] = ()
) -> None:
    """Install what was planned, and only that, into the environment of an interpreter.

    A file must have the digest of the plan, if the plan has one. pip inherits the open files
    `keep_open`, so that a lock on the environment holds while pip writes there. Raises `PipError`.
    """
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
            words = ["install", "--no-deps", "--ignore-installed", "--no-compile", "--quiet"]
            words += ["--no-warn-script-location", "-r", str(file)]
            what = " ".join(line.partition(" --hash")[0] for line in lines)
            _run(words, pip, what=what, python=str(python), keep_open=keep_open)


def build_wheel(folder: Path, pip: Pip, *, into: Path) -> Path:
    """Build the wheel of a checkout into a folder; raises `PipError`."""
    arguments = ["wheel", "--no-deps", "--quiet", "--wheel-dir", str(into), "--", str(folder)]
    _run(arguments, pip, what=str(folder))
    (wheel,) = into.glob("*.whl")
    return wheel


def parse_version(text: str, wrong: str) -> Version:
    """Read a version; raises `InputError` with a message."""
    try:
        return Version(text)
    except InvalidVersion:
        raise InputError(wrong) from None


def released_versions(package: str, pip: Pip) -> list[Version]:
    """Return the releases of a package that the index offers for this Python, oldest first.

    Yanked releases are left out. Raises `PipError`, also if one of several places that pip asks
    gave no answer: what it has is not known.
    """
    with tempfile.TemporaryDirectory(prefix="peft-regress-") as folder:
        log = Path(folder) / "log"
        options = ["--log", str(log), *(["--pre"] if pip.pre else [])]
        done = _run(["index", "versions", *options, "--", package], pip, what=package)
        silent = _SILENT.search(log.read_text(encoding="utf-8", errors="replace"))
    if silent is not None:
        problem = f"its newest release is not known: {silent[1]} gave no answer ({silent[2]})"
        raise PipError(package, problem, remedy=_NO_NETWORK)
    listed = re.search(r"^Available versions: (.*)$", done, re.MULTILINE)
    found = set()
    for text in listed.group(1).split(",") if listed else ():
        with contextlib.suppress(InvalidVersion):
            # A local build such as 2.13.0+cpu is the release 2.13.0.
            found.add(Version(Version(text.strip()).public))
    if not found:
        raise PipError(package, "the index offers no release of it for this Python")
    return sorted(found)


def _run(
    words: Sequence[str], pip: Pip, *, what: str, python: str = _HERE, keep_open: Sequence[int] = ()
) -> str:
    """Run pip and return its output; raises `PipError` if it fails."""
    kept = {name: value for name, value in variables().items() if name not in _DECIDED_HERE}
    # -P: a pip.py in the working directory must not be imported.
    command = [python, "-P", "-m", "pip", words[0], *_QUIET, *words[1:]]
    deadline = time.monotonic() + pip.seconds
    with Process(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**kept, **_SWITCHED_OFF},
        pass_fds=keep_open,
    ) as process:
        output = b"".join(process.printed(deadline)).decode(errors="replace")
        code = process.ended(deadline)
    if code is None:
        problem = f"pip gave no answer within {pip.seconds:g} s"
        remedy = "Is the index reachable? [tool.peft_regress] pip_time_limit = SECONDS allows more"
        raise PipError(what, problem, remedy=remedy)
    if code:
        raise _failed(what, output)
    return output


def _failed(what: str, output: str) -> PipError:
    """Return an error of pip's error lines; without any, of its last line."""
    lines = [clean(line.strip(), longest=_LONGEST) for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    remedy = _NO_NETWORK if _UNREACHABLE.search(output) else ""
    if "No module named pip" in output:
        remedy = "Install it there: `python -m ensurepip` (of uv: `uv pip install pip`)"
    problem = "; ".join(errors or lines[-1:]) or "pip failed without a message"
    return PipError(what, problem, remedy=remedy)
