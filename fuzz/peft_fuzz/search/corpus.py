"""The corpus: a folder of accepted findings, and how they come there.

`peft-fuzz replay` runs each again. An entry whose defect a release mends is accepted as
mended: it stays, and from then on its failure is new again.
"""

from __future__ import annotations

import datetime as dt
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from peft_fuzz.search.findings import Accepted, Finding, read_finding, read_findings, write_finding
from peft_regress.errors import InputError, RunFileError
from peft_regress.files import is_folder, make_folder

_REPORT: Final = re.compile(r"(?:[\w.-]+/)?[\w.-]+#\d{1,9}|https?://[!-~]{1,400}", re.ASCII)
"""What names an issue."""


def read_corpus(folder: Path) -> list[Finding]:
    """Read all entries, sorted by name; none if there is no corpus.

    Raises `RunFileError` for an entry that cannot be trusted, was never accepted, or has another
    name than its cause, and if the corpus is no folder.
    """
    if os.path.lexists(folder) and not is_folder(folder):
        raise RunFileError(folder, "is no folder", "Name the folder of the corpus.")
    entries = read_findings(folder) if is_folder(folder) else []
    for path, finding in entries:
        if finding.accepted is None:
            remedy = f"Move it away and type `peft-fuzz accept {path.name} --reason TEXT`."
            raise RunFileError(path, "is in the corpus but was never accepted", remedy)
        if path.stem != finding.name:
            problem = f"is the finding {finding.name}, by its content"
            raise RunFileError(path, problem, f"Rename it to {finding.name}.json.")
    return [finding for _, finding in entries]


@dataclass(frozen=True, kw_only=True)
class AcceptedFinding:
    """What accepting one finding did."""

    path: Path
    finding: Finding
    is_mended: bool
    """Whether an entry was marked as mended, instead of a new one stored."""


def accept_findings(
    source: Path, *, corpus: Path, reason: str, reported: str | None = None
) -> list[AcceptedFinding]:
    """Put a finding, or those of a folder, into the corpus; all of them or none.

    A file of a mended entry, as a replay writes it, marks that entry as mended. Raises
    `InputError` if one is there already, if a mended one is not, or if one cannot be trusted.
    """
    if not reason.strip() or not reason.isprintable():
        raise InputError(f"--reason {reason!a}: write plain text on one line")
    if reported is not None and not _REPORT.fullmatch(reported):
        raise InputError(
            f"--reported {reported!a}: write OWNER/REPOSITORY#NUMBER or an https address"
        )
    findings = [finding for _, finding in read_findings(source)]
    if not findings:
        raise InputError(f"{source}: holds no finding, so there is nothing to accept")
    date = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    try:
        accepted = Accepted(reason=reason, date=date, reported=reported)
        accepted = msgspec.convert(msgspec.to_builtins(accepted), Accepted)
    except msgspec.ValidationError as error:
        raise InputError(f"--reason: {error}") from error
    try:
        read_corpus(corpus)  # a corpus that cannot be trusted is not added to
        _check_all(source, findings, corpus)
        make_folder(corpus)
        return [_accept(one, corpus, accepted) for one in findings]
    except OSError as error:
        what = error.filename or corpus
        raise InputError(
            f"{what}: cannot be written ({error.strerror or error}). Free some space."
        ) from error


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
        stored = read_finding(path)
        if (finding.mended is None) == (stored.mended is None):
            state = "there already" if finding.mended is None else "known as mended already"
            raise InputError(f"{source}: {finding.name} is {state}: {path}. Nothing was accepted.")


def _accept(finding: Finding, folder: Path, accepted: Accepted) -> AcceptedFinding:
    path = folder / f"{finding.name}.json"
    if path.exists() and accepted.reported is None:
        before = read_finding(path).accepted
        reported = None if before is None else before.reported
        accepted = msgspec.structs.replace(accepted, reported=reported)
    entry = msgspec.structs.replace(finding, accepted=accepted)
    write_finding(folder, entry)
    return AcceptedFinding(path=path, finding=entry, is_mended=finding.mended is not None)
