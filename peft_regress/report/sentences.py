"""Sentences that all reports share: one reason, one environment difference, the outcome."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from peft_regress.gate import verdicts
from peft_regress.gate.changes import is_absolute
from peft_regress.gate.comparison import Comparison
from peft_regress.gate.verdicts import Value
from peft_regress.metrics import MetricSpec, format_change, format_value
from peft_regress.runs.environment import changed_packages, likely_first
from peft_regress.runs.schema import Record, Run, Selection
from peft_regress.text import clean, count_of

_LONGEST_NOTE: Final = 300
REPEATED: Final = "repeated"
"""Stands where a case has no accuracy, since it repeats another run."""


def reason_cells(reason: verdicts.Reason) -> tuple[str, str, str, str, str]:
    """Return (metric, old, new, change, bound) of a reason, each ready to show."""
    spec = reason.spec
    change = "" if reason.relative_change is None else shown_change(reason.relative_change, spec)
    old, new = shown_value(reason.old, spec), shown_value(reason.new, spec)
    if old == new and reason.old != reason.new:
        # They differ, but not as rounded.
        old, new = clean(str(reason.old)), clean(str(reason.new))
    if reason.old is None and reason.kind == "inputs":
        old = ""  # `new` is a sentence
    is_place = reason.note and reason.kind != "invariant"
    title = f"{reason.title}: {reason.note}" if is_place else reason.title
    return clean(title), old, new, change, _shown_bound(reason)


def both_sides(reason: verdicts.Reason) -> str:
    """Return where a reason is and both values: 'learning rate after step 1: 0.1 -> 0.2'."""
    _, old, new, _, _ = reason_cells(reason)
    place = f"{clean(reason.note)}: " if reason.note else ""
    return f"{place}{old} -> {new}" if old else new


def against(reason: verdicts.Reason) -> str:
    """Return what a change is held against: ' (bound 2 % (seed noise 0.6 %))'; may be empty."""
    bound = _shown_bound(reason)
    if not bound:
        return ""
    is_budget = reason.since is not None or reason.verdict == "over_budget"
    word = "budget" if is_budget else "bound" if reason.limit is None else "limit"
    return f" ({word} {bound})"


def shown_value(value: Value, spec: MetricSpec | None) -> str:
    """Return one side of a reason or a remark, ready to show."""
    if value is None:
        return "absent"
    if isinstance(value, bool | str) or spec is None:
        return clean(str(value).lower() if isinstance(value, bool) else str(value))
    return format_value(value, spec.unit)


def sides(old: Value, new: Value, spec: MetricSpec | None = None, *, none: str = "absent") -> str:
    """Return both sides of a change, ready to show: 'false -> true'; `none` stands for None."""
    shown = (none if side is None else shown_value(side, spec) for side in (old, new))
    return " -> ".join(shown)


def definition_words(reasons: Iterable[verdicts.Reason]) -> str:
    """Return which settings a changed definition changed: 'adapter r: 4 -> 8'."""
    settings = (
        f"{reason.subject}: {sides(reason.old, reason.new)}"
        for reason in reasons
        if reason.kind == "definition" and reason.subject
    )
    return clean("; ".join(settings)) or "data, source model, settings or protocol differ"


def where_false(notes: Sequence[str]) -> str:
    """Return where an invariant is false in some cases, as far as their records say it."""
    note = clean(next(filter(None, notes), ""), longest=_LONGEST_NOTE)
    return f"for example {note}" if note and len(set(notes)) > 1 else note


def with_note(what: str, notes: Sequence[str]) -> str:
    """Return a fact, and in brackets where it is false."""
    where = where_false(notes)
    return f"{what} ({where})" if where else what


def by_words(facts: Iterable[tuple[str, str, str]]) -> dict[str, list[str]]:
    """Return the cases of each fact in words; facts are (words, where it is false, case)."""
    cases: dict[str, list[str]] = defaultdict(list)
    notes: dict[str, list[str]] = defaultdict(list)
    for what, note, case in facts:
        cases[what].append(case)
        notes[what].append(note)
    return {with_note(what, notes[what]): ids for what, ids in cases.items()}


def false_invariants(records: Iterable[Record]) -> dict[str, list[str]]:
    """Return each invariant that is false, with where, and the cases in which it is."""
    found = [(name, one) for one in records for name in one.invariants]
    found.sort(key=lambda pair: pair[0])
    return by_words(
        (f"invariant {clean(name)} is false", one.note_on(name), clean(one.case.id))
        for name, one in found
        if one.invariants[name] is False
    )


def false_on_a_side(
    old: Record, new: Record
) -> Iterator[tuple[str, bool | None, bool | None, str]]:
    """Yield name, old and new state, and where, of each invariant that is false on a side."""
    for name in sorted(old.invariants.keys() | new.invariants.keys()):
        was, now = old.invariants.get(name), new.invariants.get(name)
        if False in (was, now):
            yield name, was, now, (old if now is True else new).note_on(name)


def shown_change(change: float, spec: MetricSpec | None) -> str:
    """Return a change with its sign: in points, as a difference, or relative."""
    if spec is None or not is_absolute(spec):
        return format_change(change)
    return f"{100 * change:+.1f} points" if spec.unit == "fraction" else f"{change:+.4g}"


def change_words(old: float, new: float, spec: MetricSpec) -> str:
    """Return how far a value changed, as the gate would say it."""
    if is_absolute(spec):
        return shown_change(new - old, spec)
    return shown_change((new - old) / abs(old), spec) if old else "from 0"


def _shown_bound(reason: verdicts.Reason) -> str:
    spec, limit = reason.spec, reason.limit
    if limit is not None and spec is not None and isinstance(reason.new, int | float):
        beyond = abs(reason.new - limit)
        share = "" if not limit or is_absolute(spec) else f", {100 * beyond / abs(limit):.3g} %"
        missed = f"missed by {format_value(beyond, spec.unit)}{share}"
        return f"{format_value(limit, spec.unit)}, {missed}"
    if reason.bound is None:
        return ""
    bound = shown_change(reason.bound, spec).lstrip("+")
    return f"{bound} ({clean(reason.bound_reason)})" if reason.bound_reason else bound


_REMARKS: Final[Mapping[verdicts.RemarkKind, str]] = {
    "same curve": "the first seed's training equals that of {text} bit for bit",
    "rounding only": "the first seed's training differs from that of {text} by rounding only: in "
    "float64 it is the same",
    "by bounds": "its training is judged by bounds: {text}",
    "within own bound": "{subject}: {old} -> {new} is within its own bound ({text})",
    "looser budget": "{subject} is looser than the baseline's: {old} -> {new}",
    "operators": "{subject}: {old} -> {new}, while nothing else changed, and no package",
    "model": "the model changed: {text}",
    "unseeded": "not judged, since two runs of the script differ: {text} (seed it, as by "
    "torch.manual_seed(0) or transformers.set_seed(0) before it builds its model, and the "
    "generator of its data loader)",
    "written": "files that the script wrote: {text}",
    "unseen": "not seen: {text}",
    "attainable": "{subject} is higher: {old} -> {new}; shown, not judged",
    "sensitivity": "the smallest change that fails it: {text}",
}


def remark_line(remark: verdicts.Remark) -> str:
    """Return a remark as one sentence without its case."""
    subject, text = clean(remark.subject), clean(remark.text)
    old, new = shown_value(remark.old, remark.spec), shown_value(remark.new, remark.spec)
    if remark.kind == "new metric":
        return with_note(f"{subject} is new: {new}; the baseline could not know it", [remark.text])
    if remark.kind == "not judged":
        value = f" ({new})" if remark.new is not None else ""
        return f"{subject} is not judged{value}: {text}"
    if remark.kind == "looser bound":
        bounds = (
            "none" if side is None else shown_change(float(side), remark.spec).lstrip("+")
            for side in (remark.old, remark.new)
        )
        why = f" ({text})" if text else ""
        return f"the bound on {subject} is looser than the baseline's: {' -> '.join(bounds)}{why}"
    new = "none" if remark.new is None else new
    return _REMARKS[remark.kind].format(subject=subject, old=old, new=new, text=text)


def known_defects(comparison: Comparison) -> dict[str, list[str]]:
    """Return what was broken in the baseline too, in words, with the cases that have it."""
    found = (
        (f"{reason.name} is false" if reason.kind != "status" else str(reason.new), reason, case)
        for case in comparison.cases
        for reason in case.reasons
        if reason.verdict == "known_defect"
    )
    return by_words((clean(what), reason.note, clean(case.id)) for what, reason, case in found)


def short_verdict(verdict: verdicts.Verdict) -> str:
    """Return a verdict as words: 'newly failing'."""
    return verdict.replace("_", " ")


def counts_line(comparison: Comparison) -> str:
    """Return '2 regressed, 94 unchanged; 80 repeat the baseline'."""
    count = len(comparison.repeating)
    more = f"; {count} repeat{'s' if count == 1 else ''} the baseline" if count else ""
    # Of the verdicts, only a defect has a plural.
    counted = ", ".join(
        f"{count} {short_verdict(verdict)}{'s' if verdict == 'known_defect' and count > 1 else ''}"
        for verdict, count in comparison.counts.items()
    )
    return (counted or "nothing compared") + more


def narrowing_words(selection: Selection) -> str:
    """Return why a partial run is partial: '-k lora, shard 1/2'."""
    return ", ".join(map(clean, selection.narrowed_by)) or "it did not finish"


def contents_line(run: Run) -> str:
    """Return the contents of a run: '2 cases: 1 error, 1 ok; known defects: 2 invariants false'."""
    states = Counter(record.status for record in run)
    false = sum(value is False for record in run for value in record.invariants.values())
    counted = ", ".join(f"{count} {status}" for status, count in sorted(states.items()))
    defects = f"; known defects: {count_of(false, 'invariant')} false" if false else ""
    repeats = sum(record.is_repeat for record in run)
    repeated = f"; {repeats} {REPEATED}" if repeats else ""
    timed = any("step_seconds" in record.metrics for record in run)
    times = "" if timed else "; no times"
    return f"{count_of(len(run.cases), 'case')}: {counted}{defects}{repeated}{times}"


def outcome_line(comparison: Comparison) -> str:
    """Return the headline: what the exit code means in words, with the counts."""
    code = comparison.lenient_exit_code
    if code == 1:
        failing = verdicts.FAILING & comparison.counts.keys()
        words = "OVER BUDGET" if failing == {"over_budget"} else "REGRESSED"
    elif code == 0:
        words = "no regression"
    elif comparison.cases and not verdicts.INCOMPLETE & comparison.counts.keys():
        words = "no regression in what was selected"
    else:
        words = "INCOMPLETE: not everything expected was compared"
    others = ""
    if comparison.not_judged:
        cases = count_of(comparison.not_judged, "case")
        others = f" in {clean(comparison.invocation.cases)}; not judged: {cases}"
    return f"{words} ({counts_line(comparison)}){others}"


def version_changes(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Return 'peft 0.15.0 -> 0.14.0' for each package whose version changed, likely causes first.

    A package that only one side recorded is no change: the other's cases may not have imported it
    yet, or failed before.
    """
    both = {name for name in changed_packages(old, new) if name in old and name in new}
    return [clean(f"{name} {old[name]} -> {new[name]}") for name in likely_first(both)]
