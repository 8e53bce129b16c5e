"""How releases load an adapter: the report of `peft-regress compat`, and its JSON."""

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from peft_regress.report.document import Section
from peft_regress.report.layout import STYLE_OF_EXIT, Row, Table
from peft_regress.report.verdict.to_json import fields
from peft_regress.runs.schema import OUTPUT_SCHEMA_VERSION
from peft_regress.text import clean, count_of, few
from peft_regress.upgrades.compat.adapter import CONFIGURATION
from peft_regress.upgrades.compat.compat import Compat, ReleaseResult
from peft_regress.upgrades.compat.judging import WORDS, effect_of

_LONGEST_DETAIL: Final = 300


def compat_document(found: Compat) -> list[Section | Table]:
    """Return what was compared, a row for each release, and the outcome."""
    rows = []
    for one in found.results:
        judged = one.judgement
        numbers = (_number(judged.difference), _number(judged.merged_difference))
        cells = (clean(one.release), WORDS[judged.verdict], *numbers)
        rows.append(Row(cells=cells, notes=tuple(_notes(one, found))))
    title = clean(f"{found.adapter.kind} adapter {found.adapter.folder}")
    headings = ("release", "verdict", "output", "merged")
    return [
        Section(title=title, body=_about(found)),
        Table(headings=headings, rows=tuple(rows), numbers=(2, 3)),
        Section(title=_outcome(found), style=STYLE_OF_EXIT[found.exit_code]),
    ]


def encode_compat(found: Compat) -> dict[str, Any]:
    """Return `{schema_version, exit_code, adapter, base, reference, releases, ...}`."""
    reference = found.reference
    return {
        "schema_version": OUTPUT_SCHEMA_VERSION,
        "exit_code": found.exit_code,
        "adapter": {"folder": str(found.adapter.folder), "peft_type": found.adapter.kind},
        "base": {
            **fields(found.base, "name", "inputs", "shape"),
            "weights": reference.base.weights,
        },
        "reference": {
            "release": found.saved_by,
            "because_of": found.why_reference,
            "packages": dict(reference.packages),
            "effect": effect_of(reference),
        },
        "counts": dict(Counter(one.judgement.verdict for one in found.results)),
        "releases": [_encode_release(one) for one in found.results],
    }


def _encode_release(one: ReleaseResult) -> dict[str, Any]:
    without = one.without and {"fields": list(one.left_out), **msgspec.to_builtins(one.without)}
    return {
        "release": one.release,
        **msgspec.to_builtins(one.judgement),
        "without_unknown_fields": without,
        "packages": dict(one.packages),
    }


def _about(found: Compat) -> tuple[str, ...]:
    reference, base = found.reference, found.base
    where = "its callable's weights" if base.is_own else "weights drawn by a seed"
    effect = effect_of(reference)
    by = "" if effect is None else f" by {_number(effect)} of its largest number"
    return (
        clean(f"compared with peft {found.saved_by}: {found.why_reference}"),
        clean(f"base: {base.name}, {where}, sha256 {reference.base.weights[:12]}"),
        f"the adapter changes the output of the base{by}",
    )


def _number(difference: float | None) -> str:
    if difference is None:
        return ""
    return f"{difference:.1e}" if difference else "0"


def _notes(one: ReleaseResult, found: Compat) -> Iterator[str]:
    if one.release == found.saved_by:
        yield "the release that it is compared with"
    for detail in one.judgement.details:
        yield clean(detail, longest=_LONGEST_DETAIL)
    if one.without is not None:
        fields = f"the fields that it does not know in {CONFIGURATION}: {few(one.left_out)}"
        why = f", {one.without.details[0]}" if one.without.verdict == "refused" else ""
        by = _number(one.without.difference) and f" ({_number(one.without.difference)})"
        words = f"{WORDS[one.without.verdict]}{why or by} without {fields}"
        yield clean(words, longest=_LONGEST_DETAIL)


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
    return f"{words[code]} ({shown})"
