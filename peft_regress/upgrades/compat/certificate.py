"""A file beside an adapter that says which releases compute the same, to be checked in CI.

It has the output of the reference release, so that a check needs the installed release alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from peft_regress.errors import AbsentError, InputError
from peft_regress.files import read_bytes
from peft_regress.runs.schema import canonical_digest
from peft_regress.text import clean, printable
from peft_regress.upgrades.compat.messages import BaseModel
from peft_regress.upgrades.compat.verdicts import (
    Reference,
    Verdict,
)

if TYPE_CHECKING:
    from peft_regress.upgrades.compat.adapter import SavedAdapter

SCHEMA_VERSION: Final = 2
"""1 had no digest of its own content, and took other numbers of a large output."""
FILE_NAME: Final = "compat.json"


class CertifiedRelease(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The verdict on one release."""

    release: str
    verdict: Verdict
    difference: float | None
    merged_difference: float | None
    details: list[str]


class Certificate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was found about an adapter, by the bytes of its files and of its base model."""

    schema_version: int
    peft_regress: str
    """The version that wrote it."""
    package: str
    files: dict[str, str]
    """The SHA-256 of each file of the adapter."""
    base: BaseModel
    why_reference: str
    reference: Reference
    releases: list[CertifiedRelease]
    content_digest: str = ""
    """Of everything else in the file."""

    def certified(self, release: str) -> CertifiedRelease | None:
        """Return what it says about a release; None if that was not tried."""
        return next((one for one in self.releases if one.release == release), None)


class _Schema(msgspec.Struct):
    schema_version: int


def certificate_bytes(certificate: Certificate) -> bytes:
    """Return the content of a certificate's file, with its digest."""
    content = msgspec.to_builtins(certificate)
    encoded = msgspec.json.encode({**content, "content_digest": _digest(content)})
    return msgspec.json.format(encoded, indent=1) + b"\n"


def _digest(content: dict[str, Any]) -> str:
    return canonical_digest({k: v for k, v in content.items() if k != "content_digest"})


def read_certificate(path: Path) -> Certificate:
    """Read a certificate.

    Raises `InputError` if it is absent, broken, of another schema, or was altered after it was
    written.
    """
    try:
        text = read_bytes(path)
    except OSError as error:
        msg = f"{path}: cannot be read ({error.strerror or error}); make it with --certificate FILE"
        raise InputError(printable(msg)) from None
    try:
        content = msgspec.json.decode(text)
        schema = msgspec.convert(content, _Schema).schema_version
        if schema == SCHEMA_VERSION:
            found = msgspec.convert(content, Certificate)
            digest = _digest(content)
            if found.content_digest == digest:
                return msgspec.structs.replace(found, content_digest="")
            problem = f"was altered after it was written (content_digest {digest})"
        else:
            problem = f"has schema {schema}, this peft-regress reads {SCHEMA_VERSION}"
    except (ValueError, RecursionError) as error:
        problem = f"is no certificate ({clean(str(error))})"
    msg = f"{path}: {problem}; make it again with --certificate FILE"
    raise InputError(printable(msg))


def require_same_files(certificate: Certificate, adapter: SavedAdapter) -> None:
    """Raise `AbsentError` if a certificate is about an adapter with other bytes."""
    changed = sorted(
        name
        for name in certificate.files.keys() | adapter.files.keys()
        if certificate.files.get(name) != adapter.files.get(name)
    )
    if changed:
        msg = (
            f"{adapter.folder}: the certificate is about other bytes of {', '.join(changed)}; "
            "make one of this adapter with --certificate FILE"
        )
        raise AbsentError(printable(msg))
