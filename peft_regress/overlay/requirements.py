"""Read the requirements of an upgrade as a user types them."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from peft_regress.errors import InputError
from peft_regress.files import is_file, is_folder
from peft_regress.overlay.pip import Planned, build_wheel, released_versions
from peft_regress.text import printable


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One requirement."""

    name: str
    text: str
    """What pip gets."""
    shown: str
    """What the user typed."""
    digest: str | None = None
    """Of the content of a wheel, which may change under one name and version."""


_OLD_TRANSFORMERS: Final = "transformers<5"
_REASON: Final = "peft 0.16 and 0.17 import HybridCache, which transformers 5 no longer has"


def lacking_constraint(
    planned: Iterable[Planned], wanted: Iterable[Wanted], installed: Mapping[str, str]
) -> tuple[str, str] | None:
    """Return a requirement that the metadata of planned packages lacks, and why; None if none.

    There is one, found by trying each release of peft from 0.10 to 0.21 with transformers 5.24. A
    package that the user names stays as it is named.
    """
    versions = {**installed, **{package.name: package.version for package in planned}}
    peft, transformers = versions.get("peft", "0"), versions.get("transformers", "5")
    if any(requirement.name == "transformers" for requirement in wanted):
        return None
    is_old = SpecifierSet(">=0.16,<0.18").contains(peft, prereleases=True)
    fits = Requirement(_OLD_TRANSFORMERS).specifier.contains(transformers, prereleases=True)
    return (_OLD_TRANSFORMERS, _REASON) if is_old and not fits else None


def read_requirements(
    texts: Iterable[str], *, scratch: Path, pre: bool = False
) -> tuple[Wanted, ...]:
    """Read requirements: `peft==0.14.0`, `peft @ git+https://...`, a wheel, a checkout.

    A name without a version means its newest release, which may be a pre-release with `pre`. The
    wheel of a checkout is built into the folder `scratch`. Raises `InputError` if a text is no
    requirement, or a package is named twice.
    """
    found: dict[str, Wanted] = {}
    for text in texts:
        into = scratch / str(len(found))
        if _is_path(text):
            wanted = _read_path(Path(text), text, scratch=into)
        else:
            wanted = _read(text, scratch=into, pre=pre)
        other = found.setdefault(wanted.name, wanted)
        if other is not wanted:
            raise InputError(
                f"{wanted.name} is required twice: {other.shown!r} and {text!r}; name it once"
            )
    return tuple(found.values())


def _read(text: str, *, scratch: Path, pre: bool) -> Wanted:
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        raise InputError(
            f"{text!r} is not a requirement ({printable(str(error).splitlines()[0])}): write "
            "NAME==VERSION, a wheel or a checkout"
        ) from None
    url = urlsplit(requirement.url or "")
    if url.scheme == "file":
        # Like a path, so that its content identifies it.
        return _read_path(Path(url2pathname(url.path)), text, scratch=scratch)
    shown = text
    if requirement.url is None and not requirement.specifier:
        # pip itself would keep the installed release.
        newest = released_versions(requirement.name, pre=pre)[-1]
        requirement.specifier = SpecifierSet(f"=={newest}")
        text = str(requirement)
    return Wanted(name=canonicalize_name(requirement.name), text=text, shown=shown)


def _is_path(text: str) -> bool:
    """Return whether a text is a path; the bare name of a folder is the name of a package."""
    if text.startswith((".", "/")):
        return True
    return "://" not in text and (text.endswith(".whl") or ("/" in text and is_folder(Path(text))))


def _read_path(path: Path, text: str, *, scratch: Path) -> Wanted:
    if is_folder(path):
        path = build_wheel(path.resolve(), into=scratch)
    if not is_file(path):
        raise InputError(printable(f"{text}: no such file or folder"))
    try:
        name, _, _, _ = parse_wheel_filename(path.name)
        digest = _content_digest(path)
    except (InvalidWheelFilename, zipfile.BadZipFile) as error:
        raise InputError(
            f"{text}: not a wheel that pip could install ({error}); name a .whl file or a checkout"
        ) from None
    url = path.resolve().as_uri()
    return Wanted(name=name, text=f"{name} @ {url}", shown=text, digest=f"{name} {digest}")


def _content_digest(wheel: Path) -> str:
    """Return a digest of a wheel's files without their times: builds of one checkout are equal."""
    with zipfile.ZipFile(wheel) as archive:
        members = sorted((info.filename, info.CRC, info.file_size) for info in archive.infolist())
    return hashlib.sha256(repr(members).encode()).hexdigest()
