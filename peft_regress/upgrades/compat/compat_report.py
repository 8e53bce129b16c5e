"""How releases load an adapter: the report of `peft-regress compat`, and its JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from peft_regress.files import write_atomic
from peft_regress.report.document import Section
from peft_regress.report.layout import Row, Style, Table
from peft_regress.runs.schema import OUTPUT_SCHEMA_VERSION
from peft_regress.text import clean, count_of
from peft_regress.upgrades.compat.adapter import CONFIGURATION
from peft_regress.upgrades.compat.certificate import (
    SCHEMA_VERSION,
    Certificate,
    CertifiedRelease,
    certificate_bytes,
)
from peft_regress.upgrades.compat.compat import Compat, ReleaseResult
from peft_regress.upgrades.compat.verdicts import WORDS, Judgement, named

_STYLES: Final[dict[int, Style]] = {0: "good", 1: "bad", 3: "open"}
_LONGEST_DETAIL: Final = 300
_MOST_WARNINGS: Final = 2

_SHOWN_PACKAGES: Final = ("python", "peft", "torch", "transformers")


def compat_document(found: Compat) -> list[Section | Table]:
    """Return what was compared, a row for each release, and the outcome."""
    rows = tuple(
        Row(cells=(clean(one.release), *_cells(one)), notes=tuple(_notes(one, found)))
        for one in found.results
    )
    table = Table(headings=("release", "verdict", "output", "merged"), rows=rows, numbers=(2, 3))
    return [
        Section(
            title=clean(f"{found.adapter.kind} adapter {found.adapter.folder}"), body=_about(found)
        ),
        *([table] if rows else []),
        Section(title=_outcome(found), style=_STYLES[found.exit_code]),
    ]


def encode_compat(found: Compat) -> dict[str, Any]:
    """Return `{schema_version, exit_code, complete, adapter, base, reference, releases, ...}`."""
    reference = found.reference
    return {
        "schema_version": OUTPUT_SCHEMA_VERSION,
        "exit_code": found.exit_code,
        "complete": found.is_complete,
        "package": found.package,
        "adapter": {
            "folder": str(found.adapter.folder),
            "peft_type": found.adapter.kind,
            "files": dict(found.adapter.files),
        },
        "base": {
            "name": found.base.name,
            "inputs": found.base.inputs,
            "shape": found.base.shape,
            "classes": found.base.classes,
            "weights": reference.base.weights,
        },
        "reference": {
            "release": reference.release,
            "because_of": found.why_reference,
            "packages": dict(reference.packages),
            "effect": reference.effect,
        },
        "counts": dict(Counter(one.judgement.verdict for one in found.results)),
        "releases": [_encode_release(one, found) for one in found.results],
    }


def _encode_release(one: ReleaseResult, found: Compat) -> dict[str, Any]:
    certified = found.certificate and found.certificate.certified(one.release)
    without = one.without and {"fields": list(one.left_out), **_encode_judgement(one.without)}
    return {
        "release": one.release,
        **_encode_judgement(one.judgement),
        "without_unknown_fields": without,
        "warnings": list(one.warnings),
        "packages": dict(one.packages),
        "certified": certified.verdict if certified else None,
    }


def _encode_judgement(judgement: Judgement) -> dict[str, Any]:
    return {
        "verdict": judgement.verdict,
        "difference": judgement.difference,
        "merged_difference": judgement.merged_difference,
        "details": list(judgement.details),
    }


def _about(found: Compat) -> tuple[str, ...]:
    reference, base = found.reference, found.base
    where = "its callable's weights" if base.is_own else "weights drawn by a seed"
    packages = (
        f"{name} {reference.packages[name]}"
        for name in _SHOWN_PACKAGES
        if name in reference.packages
    )
    effect = reference.effect
    by = "" if effect is None else f" by {_number(effect)} of its largest number"
    return (
        clean(f"compared with {found.package} {reference.release}: {found.why_reference}"),
        clean(f"base: {base.name}, {where}, sha256 {reference.base.weights[:12]}"),
        clean(f"its packages: {', '.join(packages)}"),
        f"the adapter changes the output of the base{by}",
    )


def _cells(one: ReleaseResult) -> tuple[str, str, str]:
    judgement = one.judgement
    return (
        WORDS[judgement.verdict],
        _number(judgement.difference),
        _number(judgement.merged_difference),
    )


def _number(difference: float | None) -> str:
    if difference is None:
        return ""
    return f"{difference:.1e}" if difference else "0"


def _notes(one: ReleaseResult, found: Compat) -> Iterator[str]:
    if one.release == found.reference.release:
        yield "the release that it is compared with"
    for detail in one.judgement.details:
        yield clean(detail, longest=_LONGEST_DETAIL)
    if one.without is not None:
        fields = named(one.left_out)
        yield clean(
            f"{_words(one.without)} without the fields that it does not know in {CONFIGURATION}: "
            f"{fields}",
            longest=_LONGEST_DETAIL,
        )
    if one.judgement.exit_code == 1:
        for warning in one.warnings[:_MOST_WARNINGS]:
            yield clean(f"it warns: {warning}", longest=_LONGEST_DETAIL)
    if found.certificate is not None:
        certified = found.certificate.certified(one.release)
        yield f"the certificate says: {WORDS[certified.verdict] if certified else 'nothing of it'}"


def _words(judgement: Judgement) -> str:
    if judgement.verdict == "refused":
        return f"refused, {'; '.join(judgement.details)}"
    difference = judgement.difference
    by = f" ({_number(difference)})" if difference is not None else ""
    return f"{WORDS[judgement.verdict]}{by}"


def _outcome(found: Compat) -> str:
    counts = Counter(one.judgement.verdict for one in found.results)
    shown = ", ".join(f"{count} {WORDS[verdict]}" for verdict, count in counts.most_common())
    code, releases = found.exit_code, count_of(len(found.results), "release")
    of_code = sum(one.judgement.exit_code == code for one in found.results)
    words = {
        0: f"NOTHING BREAKS in {releases}",
        1: f"BREAKS in {of_code} of {releases}",
        3: f"INCOMPLETE: {of_code} of {releases} not judged",
    }
    interrupted = "" if found.is_complete else "interrupted, so far: "
    return f"{interrupted}{words[code]} ({shown or 'none was tried'})"


def certificate_of(found: Compat) -> Certificate:
    """Return the certificate of a result."""
    return Certificate(
        schema_version=SCHEMA_VERSION,
        peft_regress=version("peft-regress"),
        package=found.package,
        files=dict(found.adapter.files),
        base=found.base,
        why_reference=found.why_reference,
        reference=found.reference,
        releases=[
            CertifiedRelease(
                release=one.release,
                verdict=one.judgement.verdict,
                difference=one.judgement.difference,
                merged_difference=one.judgement.merged_difference,
                details=list(one.judgement.details),
            )
            for one in found.results
        ],
    )


def write_certificate(path: Path, found: Compat) -> None:
    """Write a certificate; raises `InputError` if it cannot be written."""
    write_atomic(path, certificate_bytes(certificate_of(found)))
