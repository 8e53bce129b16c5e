"""A finding on disk: one JSON file, whether it was just found or stands in the corpus.

The corpus is a folder of accepted findings, which `peft-fuzz replay` runs again. An entry whose
defect a release mends is accepted as mended: it stays, and from then on its failure is new again.
"""

from __future__ import annotations

import datetime as dt
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from peft_fuzz.example import Example, Failure
from peft_fuzz.networks.network import Value
from peft_fuzz.search.causes import Cause
from peft_regress.cases import Version
from peft_regress.errors import InputError, RunFileError
from peft_regress.files import is_folder, read_bytes, write_atomic
from peft_regress.runs.run_file import dump_json
from peft_regress.runs.schema import canonical_digest
from peft_regress.text import clean

KIND: Final = "finding of the fuzzer"
_Package = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")]


class Range(Value, frozen=True, kw_only=True, omit_defaults=True):
    """In which releases of a package an entry of the corpus fails, as far as they were tried."""

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
    """What was found, with all that it takes to see it again."""

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
    """Read a finding, or all those of a folder, sorted by name."""
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


# --- The corpus -----------------------------------------------------------------------------------

_LONGEST_REASON: Final = 400
_REPORT: Final = re.compile(r"(?:[\w.-]+/)?[\w.-]+#\d{1,9}|https?://[!-~]{1,400}", re.ASCII)
"""What names an issue."""


def read_corpus(folder: Path) -> list[Finding]:
    """Read all entries, sorted by name; none if there is no corpus."""
    entries = read_findings(folder) if folder.exists() else []
    for path, finding in entries:
        if finding.accepted is None:
            remedy = f"Move it away and type `peft-fuzz accept {path.name} --reason TEXT`."
            raise RunFileError(path, "is in the corpus but was never accepted", remedy)
        if path.stem != finding.name:
            problem = f"is the finding {finding.name}, by its content"
            raise RunFileError(path, problem, f"Rename it to {finding.name}.json.")
    return [finding for _, finding in entries]


def accept_findings(
    source: Path, *, corpus: Path, reason: str, reported: str | None = None
) -> list[tuple[Path, Finding]]:
    """Put a finding, or those of a folder, into the corpus, all of them or none; return them.

    A file of a mended entry, as a replay writes it, marks that entry as mended. Raises
    `InputError` if one is there already, if a mended one is not, or if one cannot be trusted.
    """
    if not reason.strip() or not reason.isprintable() or len(reason) > _LONGEST_REASON:
        raise InputError(f"--reason {reason!a}: write plain text on one line")
    if reported is not None and not _REPORT.fullmatch(reported):
        raise InputError(
            f"--reported {reported!a}: write OWNER/REPOSITORY#NUMBER or an https address"
        )
    findings = [finding for _, finding in read_findings(source)]
    if not findings:
        raise InputError(f"{source}: holds no finding, so there is nothing to accept")
    date = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    read_corpus(corpus)  # a corpus that cannot be trusted is not added to
    _check_all(source, findings, corpus)
    return [
        _accept(one, corpus, Accepted(reason=reason, date=date, reported=reported))
        for one in findings
    ]


def _check_all(source: Path, findings: Sequence[Finding], folder: Path) -> None:
    """Raise `InputError` before anything is written, if one of them is refused."""
    for finding in findings:
        path = folder / f"{finding.name}.json"
        if not path.exists():
            if finding.mended is not None:
                raise InputError(
                    f"{source}: {finding.name} is mended, but the corpus {folder} has no such one"
                )
            continue
        if (finding.mended is None) == (read_finding(path).mended is None):
            state = "there already" if finding.mended is None else "known as mended already"
            raise InputError(f"{source}: {finding.name} is {state}: {path}. Nothing was accepted.")


def _accept(finding: Finding, folder: Path, accepted: Accepted) -> tuple[Path, Finding]:
    path = folder / f"{finding.name}.json"
    if path.exists() and accepted.reported is None:
        before = read_finding(path).accepted
        reported = None if before is None else before.reported
        accepted = msgspec.structs.replace(accepted, reported=reported)
    entry = msgspec.structs.replace(finding, accepted=accepted)
    return write_finding(folder, entry), entry
