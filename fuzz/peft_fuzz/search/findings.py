"""A finding on disk: one JSON file, whether it was just found or stands in the corpus."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from peft_fuzz.example import Example, Failure, Value
from peft_fuzz.search.causes import Cause
from peft_regress.cases import Version
from peft_regress.errors import InputError, RunFileError
from peft_regress.files import is_folder, read_bytes, write_atomic
from peft_regress.runs.json_layout import dump_json
from peft_regress.runs.schema import canonical_digest
from peft_regress.text import clean

KIND: Final = "finding of the fuzzer"
_Package = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")]


class Range(Value, frozen=True, kw_only=True, omit_defaults=True):
    """In which releases of a package an entry of the corpus fails, as far as they were tried.

    Attributes:
        failing: The releases in which it fails, oldest first.
        passing: Those in which it does not; also those that refuse it or lack the method.
        first: The release since which it fails; None if it is not known.
        last_good: The newest release before `first` in which it does not fail; None if there is
            none, so that it fails since at least `first`.
        between: Releases between the two of which nobody knows: each may be the first.
        undecided: Why it is not known of some releases.

    """

    package: _Package
    failing: tuple[Version, ...]
    passing: tuple[Version, ...]
    first: Version | None = None
    last_good: Version | None = None
    between: tuple[Version, ...] = ()
    undecided: dict[Version, str] = msgspec.field(default_factory=dict)


class Accepted(Value, frozen=True, kw_only=True, omit_defaults=True):
    """Why and when a finding came into the corpus, and where it was reported."""

    reason: Annotated[str, Meta(min_length=1, max_length=400)]
    date: str
    """ISO 8601 with a time zone."""
    reported: str | None = None
    """The report in a tracker, such as huggingface/peft#3697."""


class Finding(Value, frozen=True, kw_only=True, omit_defaults=True):
    """What was found, with all that it takes to see it again.

    Attributes:
        cause: What tells it from other findings; `cause.name` is the name of its file.
        example: The smallest one that shows it.
        packages: The versions of what it was found with.
        seed: Of the search.
        releases: In which releases it fails, where that was looked for.
        mended: The versions of what it no longer fails with; of the corpus, it must not come back.
        accepted: Of an entry of the corpus.

    """

    kind: Literal["finding of the fuzzer"] = KIND
    schema_version: Literal[1] = 1
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


def write_finding(folder: Path, finding: Finding) -> Path:
    """Write a finding into a folder, whole or not at all. Raises `InputError`."""
    path = folder / f"{finding.name}.json"
    content = msgspec.to_builtins(finding)
    # What is default is left out, but a reader must see what the file is.
    content = {"kind": finding.kind, "schema_version": finding.schema_version, **content}
    write_atomic(path, dump_json({**content, "content_digest": _digest(content)}).encode())
    return path


def _digest(content: dict[str, Any]) -> str:
    return canonical_digest({k: v for k, v in content.items() if k != "content_digest"})


def read_findings(path: Path) -> list[tuple[Path, Finding]]:
    """Read a finding, or all those of a folder, sorted by name.

    Raises `RunFileError` for a file that is none or that was altered.
    """
    if not is_folder(path):
        return [(path, read_finding(path))]
    try:
        files = sorted(one for one in path.iterdir() if one.suffix == ".json")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    return [(one, read_finding(one)) for one in files]


def read_finding(path: Path) -> Finding:
    """Read and check a finding. Raises `RunFileError` with the way to mend it."""
    restore = f"Restore it with `git checkout -- {shlex.quote(str(path))}`, or find it again."
    try:
        value = msgspec.json.decode(read_bytes(path))
        finding = msgspec.convert(value, Finding, strict=True)
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
        raise RunFileError(path, problem, "Check the path.") from error
    except (ValueError, RecursionError) as error:
        raise RunFileError(path, f"is no finding: {error}", restore) from error
    digest = _digest(value)
    if finding.content_digest != digest:
        found = clean(finding.content_digest) or "absent"
        problem = f"was altered after it was written (content_digest {found}, content {digest})"
        raise RunFileError(path, problem, restore)
    return finding
