"""Read the requirements of an upgrade as a user types them."""

from __future__ import annotations

import hashlib
import os
import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from peft_regress.errors import InputError
from peft_regress.files import is_folder
from peft_regress.overlay.pip import Planned, build_wheel, released_versions

_COMMIT: Final = re.compile(r"@[0-9a-f]{40}(#.*)?$")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One requirement."""

    name: str
    text: str
    """What pip gets."""
    shown: str
    """What the user typed."""
    identity: str | None
    """Always means the same files; None if they may change: pip must resolve it each time."""


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """A requirement that the metadata of some releases lacks."""

    package: str
    releases: SpecifierSet
    requirement: str
    reason: str


KNOWN_CONSTRAINTS: Final = (
    Constraint(
        package="peft",
        releases=SpecifierSet(">=0.16,<0.18"),
        requirement="transformers<5",
        reason="peft 0.16 and 0.17 import HybridCache, which transformers 5 no longer has",
    ),
)
"""Found by trying each release of peft from 0.10 to 0.21 with transformers 5.24."""


def constraints_for(
    planned: Iterable[Planned], wanted: Iterable[Wanted], installed: dict[str, str]
) -> list[Constraint]:
    """Return the known constraints that the planned and installed packages do not meet."""
    versions = {**installed, **{package.name: package.version for package in planned}}
    named = {requirement.name for requirement in wanted}
    found = []
    for constraint in KNOWN_CONSTRAINTS:
        needed = Requirement(constraint.requirement)
        version = versions.get(constraint.package)
        other = versions.get(canonicalize_name(needed.name))
        applies = version is not None and constraint.releases.contains(version, prereleases=True)
        fits = other is not None and needed.specifier.contains(other, prereleases=True)
        if applies and not fits and canonicalize_name(needed.name) not in named:
            found.append(constraint)
    return found


def read_requirements(
    texts: Iterable[str], *, scratch: Path, seconds: float, pre: bool = False
) -> tuple[Wanted, ...]:
    """Read requirements: `peft==0.14.0`, `peft @ git+https://...`, a wheel, a checkout.

    A name without a version means its newest release, which may be a pre-release with `pre`. The
    wheel of a checkout is built into the folder `scratch`. Raises `InputError` if a text is no
    requirement, a package is named twice, or a marker excludes this Python.
    """
    found: dict[str, Wanted] = {}
    for text in texts:
        wanted = _read(text, scratch=scratch / str(len(found)), seconds=seconds, pre=pre)
        other = found.setdefault(wanted.name, wanted)
        if other is not wanted:
            raise InputError(
                f"{wanted.name} is required twice: {other.shown!r} and {text!r}; name it once"
            )
    return tuple(found.values())


def _read(text: str, *, scratch: Path, seconds: float, pre: bool) -> Wanted:
    # A line break would start another line in the requirements file.
    if not text.isprintable() or not text.strip():
        raise InputError(
            f"{text!r} is not a requirement: write NAME==VERSION, a wheel or a checkout"
        )
    if _is_path(text):
        return _read_path(Path(text), text, scratch=scratch, seconds=seconds)
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        problem = str(error).splitlines()[0]
        raise InputError(
            f"{text!r} is not a requirement ({problem}): write NAME==VERSION, a wheel or a checkout"
        ) from None
    if requirement.marker is not None and not requirement.marker.evaluate():
        raise InputError(
            f"{text!r} is not for this Python: its marker {requirement.marker} is false"
        )
    if requirement.url is not None and requirement.url.startswith("file:"):
        return _read_file_url(requirement, text, scratch=scratch, seconds=seconds)
    shown = text
    if requirement.url is None and not requirement.specifier:
        # pip itself would keep the installed release.
        newest = released_versions(requirement.name, pre=pre, seconds=seconds)[-1]
        requirement.specifier = SpecifierSet(f"=={newest}")
        text = str(requirement)
    return Wanted(
        name=canonicalize_name(requirement.name),
        text=text,
        shown=shown,
        identity=text if _always_means_the_same(requirement) else None,
    )


def _is_path(text: str) -> bool:
    """Return whether a text is a path; the bare name of a folder is the name of a package."""
    if text.startswith((".", "/", "~")):
        return True
    return "://" not in text and (text.endswith(".whl") or ("/" in text and is_folder(Path(text))))


def _read_file_url(requirement: Requirement, text: str, *, scratch: Path, seconds: float) -> Wanted:
    """Read `NAME @ file:///...` like a path, so that its content identifies it."""
    parts = urlsplit(requirement.url or "")
    wanted = _read_path(Path(url2pathname(parts.path)), text, scratch=scratch, seconds=seconds)
    if wanted.name != canonicalize_name(requirement.name):
        raise InputError(f"{text!r}: the package there is {wanted.name}, not {requirement.name}")
    return wanted


def _always_means_the_same(requirement: Requirement) -> bool:
    if requirement.url is not None:
        return _COMMIT.search(requirement.url) is not None
    pins = list(requirement.specifier)
    return len(pins) == 1 and pins[0].operator == "==" and "*" not in pins[0].version


def _read_path(path: Path, text: str, *, scratch: Path, seconds: float) -> Wanted:
    try:
        path = path.expanduser()
    except RuntimeError as error:
        raise InputError(f"{text}: {error}") from None
    if is_folder(path):
        if not any((path / name).is_file() for name in ("pyproject.toml", "setup.py")):
            raise InputError(
                f"{text}: not a checkout of a package, it has no pyproject.toml and no setup.py"
            )
        path = build_wheel(path.resolve(), into=scratch, seconds=seconds)
    if not os.path.isfile(path):  # noqa: PTH113  (`Path.is_file` raises where a name is too long)
        raise InputError(f"{text}: no such file or folder")
    try:
        name, _, _, _ = parse_wheel_filename(path.name)
        identity = _content_digest(path)
    except (InvalidWheelFilename, zipfile.BadZipFile, OSError) as error:
        raise InputError(
            f"{text}: not a wheel that pip could install ({error}); name a .whl file or a checkout"
        ) from None
    url = path.resolve().as_uri()
    return Wanted(name=name, text=f"{name} @ {url}", shown=text, identity=f"{name} {identity}")


def _content_digest(wheel: Path) -> str:
    """Return a digest of a wheel's files without their times: builds of one checkout are equal."""
    with zipfile.ZipFile(wheel) as archive:
        members = sorted((info.filename, info.CRC, info.file_size) for info in archive.infolist())
    return hashlib.sha256(repr(members).encode()).hexdigest()
