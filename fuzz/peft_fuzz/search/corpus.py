"""The corpus: a folder of accepted findings, and how they come there.

`peft-fuzz replay` runs each again. An entry whose defect a release mends is accepted as
mended: it stays, and from then on its failure is new again.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from peft_fuzz.search.findings import Accepted, Finding, read_finding, read_findings, write_finding
from peft_regress.errors import InputError, RunFileError

_LONGEST_REASON: Final = 400
_REPORT: Final = re.compile(r"(?:[\w.-]+/)?[\w.-]+#\d{1,9}|https?://[!-~]{1,400}", re.ASCII)
"""What names an issue."""


def read_corpus(folder: Path) -> list[Finding]:
    """Read all entries, sorted by name; none if there is no corpus.

    Raises `RunFileError` for an entry that cannot be trusted, was never accepted, or has another
    name than its cause.
    """
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
