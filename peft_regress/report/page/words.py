"""How the page says what it shows: states, changes, entries, numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from peft_regress.baselines.lines import Entry
from peft_regress.cases import Case
from peft_regress.gate.verdicts import FAILING, INCOMPLETE
from peft_regress.metrics import MetricSpec, Unit, format_value
from peft_regress.report.document import Badge, Number
from peft_regress.report.page.data import Content
from peft_regress.report.page.lines import Mark, What
from peft_regress.report.sentences import environment_lines, shown_change
from peft_regress.text import clean, count_of

ABSENT: Final = "-"
WHAT_WORDS: Final[dict[What, str]] = {
    "worse": "worse",
    "better": "better",
    "moved": "moved",
    "break": "definition changed",
}
_WHAT_KINDS: Final = {"worse": "bad", "better": "good", "moved": "open", "break": "plain"}
_UNIT_NAMES: Final = {"byte": "bytes", "flop": "FLOP", "second": "s", "nat": "nat"}
_FAILURES: Final = {
    "error": ("error", "errors"),
    "unsupported": ("unsupported", "unsupported"),
    "known error": ("known error of the library", "known errors of the library"),
}
_MOST_PACKAGES: Final = 6
_DAY: Final = len("2026-01-01")


def number(value: float | None, unit: Unit) -> Number:
    """Return a value as it is shown, with its exact number."""
    shown = ABSENT if value is None else format_value(value, unit)
    return Number(shown, value, _UNIT_NAMES.get(unit, ""))


def change_words(old: float, new: float, spec: MetricSpec) -> str:
    """Return how far a value changed, as the gate would say it."""
    if spec.unit == "fraction" or spec.kind == "score":
        return shown_change(new - old, spec)
    return shown_change((new - old) / abs(old), spec) if old else "from 0"


def mark_words(mark: Mark, spec: MetricSpec) -> str:
    """Return how far a metric changed at a mark; '' for a break."""
    if mark.what == "break":
        return ""
    text = "from 0" if mark.change is None else shown_change(mark.change, spec)
    # The numbers of a fingerprint are judged one by one, and not by their mean.
    number_word = "loss" if spec.unit == "nat" else "update"
    return f"{text} in one {number_word}" if spec.kind == "fingerprint" else text


def what_badge(what: What) -> Badge:
    """Return what a mark means, in its colour."""
    return Badge(WHAT_WORDS[what], _WHAT_KINDS[what])  # type: ignore[arg-type]


def method_words(case: Case) -> str:
    """Return the method with its rank."""
    return case.method if case.rank is None else f"{case.method} r={case.rank}"


def entry_words(entry: Entry) -> str:
    """Return the date of an entry."""
    return clean(entry.date[:_DAY], longest=20)


def packages_words(content: Content, before: int, after: int) -> str:
    """Return which packages differ between two entries."""
    sides = (content.entries[index].run.environment for index in (before, after))
    lines = environment_lines(*sides)
    more = [f"and {len(lines) - _MOST_PACKAGES} more"] if lines[_MOST_PACKAGES:] else []
    return ", ".join([*lines[:_MOST_PACKAGES], *more]) or "packages as before: the code under test"


def verdict_badge(verdict: str) -> Badge:
    """Return a verdict in its colour."""
    kind = "plain" if verdict == "known_defect" else "good"
    kind = "bad" if verdict in FAILING else "open" if verdict in INCOMPLETE else kind
    return Badge(clean(verdict.replace("_", " "), longest=24), kind)  # type: ignore[arg-type]


def state_of(content: Content, name: str) -> Badge:
    """Return the verdict on a case where it was judged, else whether it came through."""
    status, verdict = content.now[name].status_text, content.verdicts.get(name)
    if verdict is not None and (status == "ok" or verdict != "unchanged"):
        return verdict_badge(verdict)
    kind = "plain" if status == "ok" or status.startswith("unsupported") else "bad"
    return Badge(clean(status), kind)  # type: ignore[arg-type]


def failure_of(content: Content, name: str) -> str | None:
    """Return how a case failed; an error that its baseline has too is of the library."""
    status = content.now[name].status
    if status != "error":
        return None if status == "ok" else status
    at = content.present[name]
    baselines = [
        record
        for index, record in content.cases[name].items()
        if index <= at and content.entries[index].role == "baseline"
    ]
    return "known error" if baselines and baselines[-1].status == "error" else "error"


def failure_words(content: Content, name: str) -> str:
    """Return how a case failed; '' if it did not."""
    kind = failure_of(content, name)
    return "" if kind is None else _FAILURES[kind][0]


def failures_words(content: Content, names: Iterable[str]) -> str:
    """Return what cases are that are not ok: '12 unsupported, 8 known errors of the library'."""
    counts = Counter(failure_of(content, name) for name in names)
    return ", ".join(
        count_of(counts[kind], *words) for kind, words in _FAILURES.items() if counts[kind]
    )


def order_words(by: str) -> str:
    """Return what the entries are sorted by."""
    return "order of acceptance" if by == "date" else f"releases of {clean(by)}"
