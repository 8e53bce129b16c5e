"""The sentences on one finding that all reports share."""

from typing import Final

from peft_regress.gate.comparison import Comparison
from peft_regress.gate.findings import Finding
from peft_regress.gate.verdicts import Reason
from peft_regress.invariants import INVARIANTS
from peft_regress.metrics import BATCH_SUFFIX, metric_order
from peft_regress.report import sentences
from peft_regress.report.document import Section, as_text
from peft_regress.report.verdict.cases import reason_blocks
from peft_regress.text import clean, count_of

_LONGEST_ERROR: Final = 300
_COVERAGE: Final = {
    "missing": "expected, but the run has no record of it",
    "new": "no accepted baseline has it",
    "inputs": "inputs differ, so losses and scores cannot be compared",
    "training": "training cannot be compared",
}
_IN_WORDS: Final = frozenset({"curve", "evaluation", "model", "numerics", "rates"})
"""The reasons on a function that say by themselves what changed."""


def finding_headline(finding: Finding) -> str:
    """Return the verdict, the number of cases and the title, as one line."""
    count = count_of(len(finding.members), "case")
    return f"{sentences.short_verdict(finding.verdict)} in {count}: {finding_title(finding)}"


def finding_title(finding: Finding) -> str:
    """Return what changed and by how much."""
    by_strand = {
        "budget": _limit_title,
        "fit": _limit_title,
        "coverage": _coverage_title,
        "status": _status_title,
        "invariant": _invariant_title,
        "inputs": _inputs_title,
    }
    return by_strand.get(finding.cause.strand, _telling_title)(finding)


def _telling_title(finding: Finding) -> str:
    """Return the reason that means most to a training; of metrics the two leading ones."""
    first, *others = finding.example.telling
    if first.note:
        return sentences.both_sides(first)
    if first.kind in _IN_WORDS:
        return clean(str(first.new))
    if first.kind != "metric":
        return _without_ratio(first)
    return _changes_title(finding) or ", ".join(map(_without_ratio, [first, *others]))


def _changes_title(finding: Finding) -> str:
    """Return how far the two leading metrics changed; empty if none has a ratio."""
    telling = {reason.name for member in finding.members for reason in member.telling}
    ranges = {name: pair for name, pair in finding.ranges().items() if name in telling}
    leading = [name for name in ranges if not name.endswith(BATCH_SUFFIX)][:2] or list(ranges)[:2]
    what = finding.cause.what
    if what in ranges:
        leading = [what, *(name for name in leading if name != what)][:2]
    return ", ".join(_range(finding, name) for name in leading)


def finding_details(finding: Finding, comparison: Comparison) -> list[str]:
    """Return where the change is, as far as it is known, and what changed with it."""
    cause = finding.cause
    lines = []
    if cause.strand in {"costs", "trained"} and len(cause.where) > 1:
        part, operator = cause.where[:2]
        lines.append(f"where: {clean(part)}, {clean(operator)}")
        if cause.base_runs:
            runs = "one" if abs(cause.base_runs) == 1 else f"{abs(cause.base_runs)}"
            noun = "run" if runs == "one" else "runs"
            verb, extra = ("costs", " extra") if cause.base_runs > 0 else ("saves", "")
            lines.append(f"each layer {verb} {runs}{extra} {noun} of its base operator")
    if cause.strand == "budget":
        lines.append("accepting does not change this: reduce the cost, or change the budget")
    if cause.strand == "inputs":
        lines.append("losses and scores, which depend on the inputs, could not be judged")
    lines += _notes(finding)
    if finding.cause.strand in {"costs", "trained"}:  # costs follow from how the model changed
        models = {
            sentences.remark_line(remark)
            for name in finding.cases
            for remark in comparison.verdict_of(name).remarks
            if remark.kind == "model"
        }
        lines += sorted(models)[:1]
    title = finding_title(finding)
    ranges = finding.ranges()
    large = {reason.name for reason in finding.reasons if not reason.is_small} or {*ranges}
    others = [
        name
        for name, pair in ranges.items()
        if any(pair)
        and not title.startswith((f"{name} ", f"{name}:"))
        and not any(f"{mark} {name} " in title for mark in ",;")
        # At batch 32 it is news only if it did not change at batch 1.
        and name.removesuffix(BATCH_SUFFIX) not in ranges.keys() - {name}
    ]
    shown = [_range(finding, name) for name in others if name in large]
    small = sum(name not in large for name in others)
    joined = "and " if shown else ""
    shown += [f"{joined}{count_of(small, 'cost')} by less than 1 % of the step"] if small else []
    if shown:
        lines.append(f"also changed: {', '.join(shown)}")
    return lines


def _notes(finding: Finding) -> list[str]:
    """Say where an invariant is false."""
    notes = [reason.note for reason in finding.reasons if reason.kind == "invariant"]
    lines = [f"where: {sentences.where_false(notes)}"] if any(notes) else []
    if finding.cause.strand == "invariant":
        others = {reason.subject for reason in finding.reasons} - {finding.cause.what}
        lines += [f"the same error in: {', '.join(sorted(map(clean, others)))}"] if others else []
    return lines


def example_lines(finding: Finding, comparison: Comparison) -> list[str]:
    """Return the reasons of a finding's example, with the modules behind each change.

    Empty for an invariant, a status or missing coverage: there the title says everything.
    """
    if finding.cause.strand in {"invariant", "status", "coverage", "trained", "inputs"}:
        return []
    case, reasons = finding.example.case, finding.example.reasons
    blocks = reason_blocks(case, reasons, comparison)
    return as_text([Section(title="", body=tuple(blocks))]).splitlines()


def suspected_packages(finding: Finding, comparison: Comparison) -> str | None:
    """Return which package caused it, as far as the environments show; None for unpaired cases."""
    # Most cases share one environment object.
    pairs = {
        (id(old.environment), id(new.environment)): (old.environment, new.environment)
        for name in finding.cases
        if (old := comparison.references.get(name)) and (new := comparison.observed.get(name))
    }
    if not pairs or finding.cause.strand == "budget":
        return None  # it may have been over before
    changes = list({line for pair in pairs.values() for line in sentences.version_changes(*pair)})
    if not changes:
        return "no package changed, so the code under test did"
    if len(changes) == 1:
        return f"{changes[0]}, the only package that changed"
    return f"one of the {len(changes)} packages that changed (see environment), or the code itself"


def _inputs_title(finding: Finding) -> str:
    return f"the inputs changed: {sentences.both_sides(finding.example.reasons[0])}"


def _status_title(finding: Finding) -> str:
    reason = next(reason for reason in finding.example.reasons if reason.kind == "status")
    old, new = (clean(str(value), longest=_LONGEST_ERROR) for value in (reason.old, reason.new))
    return f"{old} -> {new}"


def _without_ratio(reason: Reason) -> str:
    if reason.kind != "metric" and reason.new is not None:
        return f"{reason.name}: {clean(str(reason.old))} -> {clean(str(reason.new))}"
    state = " is new" if reason.old is None else " is gone" if reason.new is None else ""
    return f"{clean(reason.title)}{state}"


def _range(finding: Finding, metric: str) -> str:
    spec = next(reason.spec for reason in finding.reasons if reason.name == metric)
    ends = [sentences.shown_change(value, spec) for value in finding.ranges()[metric]]
    return f"{clean(metric)} {' to '.join(dict.fromkeys(ends))}"


def _invariant_title(finding: Finding) -> str:
    reason = finding.example.reasons[0]
    sides = sentences.sides(reason.old, reason.new, none="unchecked")
    state = " is false" if finding.verdict == "new" else f": {sides}"
    if reason.new is not False or reason.subject not in INVARIANTS:
        return f"{clean(reason.name)}{state}"
    return f"{INVARIANTS[reason.subject].broken} ({reason.subject}{state})"


def _limit_title(finding: Finding) -> str:
    """Return a budget or a device with the example's value and its limit."""
    reason = finding.example.reasons[0]
    metric, _, new, _, _ = sentences.reason_cells(reason)
    return f"{metric}: {new}{sentences.against(reason)}"


def _coverage_title(finding: Finding) -> str:
    what = finding.cause.what
    if what == "not measured":
        names = {reason.name for one in finding.members for reason in one.reasons}
        listed = ", ".join(clean(name) for name in sorted(names, key=metric_order))
        return f"the version of peft_regress that made this run does not measure {listed}"
    if what == "definition":
        costs = _changes_title(finding)
        settings = sentences.definition_words(finding.example.reasons)
        return f"definition changed: {settings}{'; ' if costs else ''}{costs}"
    words = _COVERAGE.get(what, f"{clean(what)} cannot be compared")
    reason = next((one for one in finding.example.reasons if one.kind == what), None)
    return words if reason is None else f"{words}: {sentences.both_sides(reason)}"
