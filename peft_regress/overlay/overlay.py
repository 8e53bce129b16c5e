"""Open an overlay: a venv with the packages that differ, over the running environment.

Its own packages come first on its path and those of the running environment after them: torch is
shared unless it changes. Nothing is ever installed outside of the overlay.
"""

import dataclasses
import hashlib
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

import msgspec
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from peft_regress.errors import InputError
from peft_regress.files import CACHE_VARIABLE, cache_folder, is_file, is_folder
from peft_regress.locks import opened_lock
from peft_regress.overlay import folder as folders
from peft_regress.overlay.pip import Planned, build_wheel, plan, released_versions
from peft_regress.project.settings import Pip
from peft_regress.runs.environment import installed_packages
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


def read_requirements(texts: Iterable[str], pip: Pip, *, scratch: Path) -> tuple[Wanted, ...]:
    """Read requirements: `peft==0.14.0`, `peft @ git+https://...`, a wheel, a checkout.

    A name without a version means its newest release. The wheel of a checkout is built into the
    folder `scratch`. Raises `InputError` if a text is no requirement, or a package is named twice.
    """
    found: dict[str, Wanted] = {}
    for text in texts:
        into = scratch / str(len(found))
        if is_path(text):
            wanted = _read_path(Path(text), text, pip, scratch=into)
        else:
            wanted = _read(text, pip, scratch=into)
        other = found.setdefault(wanted.name, wanted)
        if other is not wanted:
            problem = f"{wanted.name} is required twice: {other.shown!r} and {text!r}; name it once"
            raise InputError(problem)
    return tuple(found.values())


def _read(text: str, pip: Pip, *, scratch: Path) -> Wanted:
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
        return _read_path(Path(url2pathname(url.path)), text, pip, scratch=scratch)
    shown = text
    if requirement.url is None and not requirement.specifier:
        # pip itself would keep the installed release.
        newest = released_versions(requirement.name, pip)[-1]
        requirement.specifier = SpecifierSet(f"=={newest}")
        text = str(requirement)
    return Wanted(name=canonicalize_name(requirement.name), text=text, shown=shown)


def is_path(text: str) -> bool:
    """Return whether a text is a path; the bare name of a folder is the name of a package."""
    if text.startswith((".", "/")):
        return True
    return "://" not in text and (text.endswith(".whl") or ("/" in text and is_folder(Path(text))))


def _read_path(path: Path, text: str, pip: Pip, *, scratch: Path) -> Wanted:
    if is_folder(path):
        path = build_wheel(path.resolve(), pip, into=scratch)
    if not is_file(path):
        raise InputError(f"{text}: no such file or folder")
    try:
        name, _, _, _ = parse_wheel_filename(path.name)
        with zipfile.ZipFile(path) as archive:
            files = sorted((info.filename, info.CRC, info.file_size) for info in archive.infolist())
    except (InvalidWheelFilename, zipfile.BadZipFile) as error:
        raise InputError(
            f"{text}: not a wheel that pip could install ({error}); name a .whl file or a checkout"
        ) from None
    # Of the files without their times: builds of one checkout are equal.
    digest = hashlib.sha256(repr(files).encode()).hexdigest()
    url = path.resolve().as_uri()
    return Wanted(name=name, text=f"{name} @ {url}", shown=text, digest=f"{name} {digest}")


GATED_PACKAGES: Final = ("galore-torch", "peft", "torch", "torchvision")
"""pip must find a common solution for all of them, whichever one a user names."""

_PATIENCE_SECONDS: Final = 3600.0
"""How long to wait for an overlay that another process builds: it may download gigabytes."""


class ReplacesTorchError(InputError):
    """A requirement that would replace torch, and nobody has agreed to that."""

    def __init__(self, requirements: str, old: str, new: str) -> None:
        super().__init__(
            f"{requirements}: would replace torch {old} by {new}, a download of up to gigabytes. "
            "Add --yes to agree"
        )


@contextmanager
def opened_overlay(requirements: Sequence[str], pip: Pip) -> Iterator[folders.Overlay]:
    """Build the overlay of some requirements, or take an existing one, and keep it from removal.

    Raises `InputError` if a text is no requirement, `PipError` if pip finds no solution or cannot
    install it, `ReplacesTorchError` if torch would change without `pip.replace_torch`.
    """
    with tempfile.TemporaryDirectory(prefix="peft-regress-") as scratch:
        wanted = read_requirements(requirements, pip, scratch=Path(scratch))
        planned, remarks = _resolved(wanted, pip)
        for one in planned:
            if one.name == "torch" and not pip.replace_torch:
                old = installed_packages().get("torch", "absent")
                raise ReplacesTorchError(_shown(wanted), old, one.version)
        requested = tuple(one.name for one in wanted)
        with opened_part(planned, pip) as overlay:
            yield dataclasses.replace(overlay, remarks=tuple(remarks), requested=requested)


@contextmanager
def opened_part(planned: Sequence[Planned], pip: Pip) -> Iterator[folders.Overlay]:
    """Build an overlay of planned packages, without what else they would need, and hold it.

    Other processes may hold it too. Raises `PipError`, `InputError` for an unusable cache folder.
    """
    root = cache_folder()
    folder = root / "overlays" / _key(planned)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _lock_file(folder).touch()
    except OSError as error:
        raise InputError(
            f"{root}: overlays cannot be kept there ({error.strerror or error}); "
            f"set {CACHE_VARIABLE} to another folder"
        ) from error
    with opened_lock(_lock_file(folder), patience=_PATIENCE_SECONDS) as lock:
        lock.share()
        overlay, is_built = folders.read_folder(folder, planned), False
        while overlay is None:
            lock.own()
            # Another process may have built it while this one waited.
            if folders.read_folder(folder, planned) is None:
                # pip shares the lock: it may go on for a while if this process is killed.
                folders.build_folder(folder, planned, pip, keep_open=[lock.handle])
                is_built = True
            lock.share()
            overlay = folders.read_folder(folder, planned)
        yield dataclasses.replace(overlay, was_cached=not is_built)


def _resolved(wanted: Sequence[Wanted], pip: Pip) -> tuple[tuple[Planned, ...], list[str]]:
    """Return what pip would install, and sentences about what was added to the requirements."""
    shown, named = _shown(wanted), {requirement.name for requirement in wanted}
    # pip ignores what installed packages need: without these names it may break one of them.
    beside = [name for name in GATED_PACKAGES if name not in named]
    texts = [*(requirement.text for requirement in wanted), *beside]
    planned = plan(texts, pip, what=shown)
    remarks = []
    lacking = lacking_constraint(planned, wanted, installed_packages())
    if lacking is not None:
        added, reason = lacking
        remarks.append(f"{added} was added: {reason}")
        what = f"{shown} with {added} (added: {reason})"
        planned = plan([*texts, added], pip, what=what)
    remarks += [f"{one.name} {one.version} was yanked" for one in planned if one.is_yanked]
    # pip skips what has the installed version; a wheel, checkout or commit may differ in content.
    planned_names = {one.name for one in planned}
    skipped = [one for one in wanted if " @ " in one.text and one.name not in planned_names]
    if skipped:
        texts = [one.text for one in skipped]
        planned += plan(texts, pip, what=_shown(skipped), only_these=True)
    # Each wheel is identified by its content: builds of one checkout are equal.
    digests = {one.name: one.digest for one in wanted if one.digest is not None}
    by_content = (
        dataclasses.replace(one, digest=digests.get(one.name, one.digest))
        for one in sorted(planned, key=lambda one: one.name)
    )
    return tuple(by_content), remarks


def _shown(wanted: Sequence[Wanted]) -> str:
    return " ".join(requirement.shown for requirement in wanted)


def _key(planned: Sequence[Planned]) -> str:
    """Return the name of an overlay: a digest of its packages and of the running environment."""
    content = sorted((one.name, one.version, one.digest or one.source) for one in planned)
    value = [folders.SCHEMA, [sys.version, sys.prefix, *folders.site_folders()], content]
    return hashlib.sha256(msgspec.json.encode(value)).hexdigest()[:20]


def _lock_file(folder: Path) -> Path:
    """Return the lock file of an overlay; it is not in its folder, so it outlives the overlay."""
    return folder.with_name(f"{folder.name}.lock")


def clean_overlays() -> tuple[list[str], list[str]]:
    """Remove every overlay that nobody uses; return the names of removed and of used ones."""
    # What was measured of commits, too: it is measured again when it is asked for.
    shutil.rmtree(cache_folder() / "commits", ignore_errors=True)
    removed: list[str] = []
    used: list[str] = []
    for folder in sorted(cache_folder().glob("overlays/*/")):
        with opened_lock(_lock_file(folder)) as lock:
            if lock.own_now():
                folders.remove_folder(folder)
                removed.append(folder.name)
            else:
                used.append(folder.name)
    return removed, used
