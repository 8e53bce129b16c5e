"""A finding on disk: one JSON file, whether it was just found or stands in the corpus."""

from __future__ import annotations

import datetime as dt
import secrets
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from peft_fuzz.example import SCHEMA, Example, Failure
from peft_fuzz.search.causes import Cause
from peft_regress.cases import Version
from peft_regress.errors import InputError, RunFileError
from peft_regress.files import is_folder, read_bytes, write_atomic
from peft_regress.runs.json_layout import dump_json
from peft_regress.runs.schema import canonical_digest
from peft_regress.text import clean, count_of

KIND: Final = "finding of the fuzzer"

UNUSABLE: Final = "cannot be used"
"""Of a release that cannot be installed or imported, or in which no example ends."""

_Why = Annotated[str, Meta(max_length=100)]
_Package = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")]


class _Stored(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of a finding's file."""


class Range(_Stored, frozen=True, kw_only=True, omit_defaults=True):
    """In which releases of a package the example fails, as far as they were tried.

    Attributes:
        failing: The releases in which it fails, oldest first.
        passing: Those in which it does not; also those that refuse it or lack the method.
        first: The release since which it fails; None if it is not known.
        last_good: The newest release before `first` in which it does not fail; None if there is
            none, so that it fails since at least `first`.
        between: Releases between the two of which nobody knows: each may be the first.
        undecided: Why it is not known of some releases: they cannot be used, or the example fails
            there by another check, which may hide this failure. What is in `between` and not here
            was not tried.

    """

    package: _Package
    failing: tuple[Version, ...]
    passing: tuple[Version, ...]
    first: Version | None = None
    last_good: Version | None = None
    between: tuple[Version, ...] = ()
    undecided: dict[Version, _Why] = {}

    @property
    def sentence(self) -> str:
        """Say since when it fails, and what is known of a gap."""
        if self.first is None:
            return "the releases were not told apart"
        if self.last_good is None:
            since = f"since at least {self.package} {self.first}"
        else:
            others = f", or since one of {', '.join(self.between)}" if self.between else ""
            since = f"since {self.package} {self.first}{others}; not in {self.last_good}"
        earlier = [one for one in self.failing if _is_before(one, self.last_good)]
        gap = f"; also in {', '.join(earlier)}" if earlier else ""
        tried = count_of(len(self.failing) + len(self.passing), "release")
        return f"{since}{gap} ({'; '.join([f'{tried} tried', *self._unknown()])})"

    def _unknown(self) -> Iterator[str]:
        """Yield why it is not known of some releases, reason by reason."""
        untried = [one for one in self.between if one not in self.undecided]
        named = {
            one: why
            for one, why in self.undecided.items()
            # One that cannot be used says nothing, unless it may be the first.
            if one in self.between or why != UNUSABLE
        }
        for why in dict.fromkeys(named.values()):
            releases = ", ".join(one for one in named if named[one] == why)
            yield f"undecided in {releases}: {why}"
        if untried:
            yield f"not tried: {', '.join(untried)}"


class Accepted(_Stored, frozen=True, kw_only=True, omit_defaults=True):
    """Why and when a finding came into the corpus, and where it was reported."""

    reason: Annotated[str, Meta(min_length=1, max_length=400)]
    date: str
    """ISO 8601 with a time zone."""
    reported: str | None = None
    """The report in a tracker, such as huggingface/peft#3697."""


class Finding(_Stored, frozen=True, kw_only=True, omit_defaults=True):
    """What was found, with all that it takes to see it again.

    Attributes:
        cause: What tells it from other findings; `cause.name` is the name of its file.
        example: The smallest one that shows it.
        packages: The versions of what it was found with.
        seed: Of the search.
        releases: In which releases it fails.
        mended: The versions of what it no longer fails with; of the corpus, it must not come back.
        accepted: Of an entry of the corpus.

    """

    kind: Literal["finding of the fuzzer"] = KIND
    schema_version: int = SCHEMA
    cause: Cause
    example: Example
    failure: Failure
    packages: dict[_Package, Version]
    seed: int | None = None
    releases: Range | None = None
    mended: dict[_Package, Version] | None = None
    accepted: Accepted | None = None
    content_digest: str = ""

    @property
    def name(self) -> str:
        """Return its name, that of its file."""
        return self.cause.name

    @property
    def size(self) -> tuple[int, ...]:
        """Return how large its example is; of two, the smaller one is kept."""
        return size_of(self.example)


def size_of(example: Example) -> tuple[int, ...]:
    """Return how large an example is: acts, adapters, layers, and the length of its JSON."""
    return (
        len(example.acts),
        len(example.adapters),
        len(example.network.layers),
        len(msgspec.json.encode(example)),
    )


def finding_bytes(finding: Finding) -> bytes:
    """Return the content of a finding's file, with its digest."""
    content = msgspec.to_builtins(finding)
    # What is default is left out, but a reader must see what the file is.
    content = {"kind": finding.kind, "schema_version": finding.schema_version, **content}
    return dump_json({**content, "content_digest": _digest(content)}).encode()


def _digest(content: dict[str, Any]) -> str:
    return canonical_digest({k: v for k, v in content.items() if k != "content_digest"})


def write_finding(folder: Path, finding: Finding) -> Path:
    """Write a finding into a folder, whole or not at all. Raises `InputError`."""
    path = folder / f"{finding.name}.json"
    write_atomic(path, finding_bytes(finding))
    return path


def check_writable(folder: Path) -> None:
    """Raise `InputError` if no finding can be written into a folder, which is made."""
    probe = folder / f".{secrets.token_hex(4)}"
    write_atomic(probe, b"{}")
    probe.unlink(missing_ok=True)


def read_findings(path: Path) -> list[tuple[Path, Finding]]:
    """Read a finding, or all those of a folder, sorted by name.

    Raises `RunFileError` for a file that is none or that was altered.
    """
    files = _json_files(path) if is_folder(path) else [path]
    return [(one, read_finding(one)) for one in files]


def _json_files(folder: Path) -> list[Path]:
    try:
        found = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(
            f"{error.filename}: cannot be read ({error.strerror}). Check its permissions."
        ) from error
    return [one for one in found if one.suffix == ".json" and not one.name.startswith(".")]


def read_finding(path: Path) -> Finding:
    """Read and check a finding. Raises `RunFileError` with the way to mend it."""
    restore = f"Restore it with `git checkout -- {shlex.quote(str(path))}`, or find it again."
    try:
        value = msgspec.json.decode(read_bytes(path))
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
        raise RunFileError(path, problem, "Check the path.") from error
    except (ValueError, RecursionError) as error:
        raise RunFileError(path, f"is not valid JSON: {error}", restore) from error
    if not isinstance(value, dict) or value.get("kind") != KIND:
        problem = f"is no finding: its kind is not {KIND!r}"
        raise RunFileError(path, problem, "Name a file that `peft-fuzz search` has written.")
    _check_schema(path, value.get("schema_version"))
    try:
        finding = msgspec.convert(value, Finding, strict=True)
    except msgspec.ValidationError as error:
        raise RunFileError(path, f"does not fit the schema: {error}", restore) from error
    digest = _digest(value)
    if finding.content_digest != digest:
        found = clean(finding.content_digest) or "absent"
        problem = f"was altered after it was written (content_digest {found}, content {digest})"
        raise RunFileError(path, problem, restore)
    problem = _contradiction(finding)
    if problem:
        raise RunFileError(path, problem, restore)
    return finding


def _check_schema(path: Path, version: Any) -> None:
    shown = f"has schema_version {clean(repr(version), longest=40)}"
    if type(version) is not int or version < 1:
        raise RunFileError(path, shown, "Find it again with `peft-fuzz search`.")
    if version > SCHEMA:
        problem = f"{shown}, newer than {SCHEMA}, which this version reads"
        raise RunFileError(path, problem, "Upgrade with `pip install -U peft-regress`.")


def _contradiction(finding: Finding) -> str:
    """Return what in a finding contradicts the rest; '' if nothing does."""
    if finding.example.method != finding.cause.method:
        return f"its example is of {finding.example.method}, its cause of {finding.cause.method}"
    if finding.failure.check != finding.cause.check:
        return f"its failure is of {finding.failure.check}, its cause of {finding.cause.check}"
    if finding.accepted is not None:
        try:
            moment = dt.datetime.fromisoformat(finding.accepted.date)
        except ValueError:
            moment = None
        if moment is None or moment.tzinfo is None:
            date = finding.accepted.date
            return f"was accepted on {date!r}, which is not an ISO 8601 time with a zone"
    return ""


def _is_before(release: str, other: str | None) -> bool:
    from packaging.version import Version as Parsed

    return other is not None and Parsed(release) < Parsed(other)
