"""What reports say of cases: why each has its verdict, its budgets, and what stands beside."""

from collections.abc import Iterable, Iterator

from peft_regress.gate import verdicts
from peft_regress.gate.attribution import explain_metric
from peft_regress.gate.comparison import Comparison
from peft_regress.metrics import BATCH_SUFFIX, METRICS, format_value
from peft_regress.report import sentences
from peft_regress.report.document import Badge, CaseId, Line, Section, as_text
from peft_regress.report.layout import PLAIN, Layout, Row, Table
from peft_regress.report.verdict.next_steps import accepting, history_of_drift
from peft_regress.text import clean, count_of

_OF_NEW_CASES = ("written", "unseen")
"""The remarks on a script that tell no more once the case is accepted."""
_ACCEPTABLE = (verdicts.FAILING | verdicts.INCOMPLETE | verdicts.UNACCEPTED) - {"missing"}
_MOST_REASONS = 8
_MOST_MODULES = 3
_MOST_LINES = 8
_DRIFT = "each step was within its bound, but they add up; this shows them:"


def case_text(case: verdicts.CaseVerdict, comparison: Comparison, layout: Layout = PLAIN) -> str:
    """Explain one case's verdict: each reason with its modules, the environment, what to type."""
    return as_text([case_section(case, comparison)], layout)


def case_section(case: verdicts.CaseVerdict, comparison: Comparison) -> Section:
    """Return one case's verdict, as its test and its page show it."""
    old, new = comparison.references.get(case.id), comparison.observed.get(case.id)
    body: list[str | Section] = []
    if old is None and new is not None:
        body.append("no accepted baseline has this case, so nothing judges it")
        if new.record.error is not None:
            error = new.record.error
            body.append(f"{new.record.status}: {clean(f'{error.type}: {error.message}')}")
    if case.verdict == "missing":
        body.append("it was expected but has no record: it did not run, or it was renamed")
    body += reason_blocks(case.id, case.reasons, comparison)
    told = (one for one in case.remarks if one.kind != "unseen" or case.verdict == "new")
    body += [sentences.remark_line(one) for one in told if not one.fails_strictly]
    strictly = "fails by strictness: " if comparison.strict else ""
    strict_lines = [sentences.remark_line(one) for one in case.remarks if one.fails_strictly]
    body += [f"{strictly}{line}" for line in dict.fromkeys(strict_lines)]
    if old is not None and new is not None:
        if case.reasons:
            changes = sentences.version_changes(old.environment, new.environment)
            body.append("environment: " + ("; ".join(changes) or "as in the baseline"))
        body.append(f"baseline: {clean(old.run_name)}")
    if case.verdict == "over_budget":
        body.append("accepting does not change this: reduce the cost, or change the budget")
    elif case.verdict in _ACCEPTABLE:
        step = accepting(comparison)
        body.append(f"{step.purpose}: `{' '.join(step.words)}`")
    return Section(
        title=f"{clean(case.id)}: {sentences.short_verdict(case.verdict)}",
        body=tuple(Line(one, _MOST_LINES) if isinstance(one, str) else one for one in body),
    )


def reason_blocks(
    case: str, reasons: Iterable[verdicts.Reason], comparison: Comparison
) -> Iterator[str | Section]:
    """Yield each reason with the modules behind it."""
    every = [reason for reason in reasons if reason.verdict != "known_defect"]
    shown = [reason for reason in every if not reason.is_small] or every
    small = [reason for reason in every if reason not in shown]
    metrics = {reason.name for reason in shown}
    for reason in shown[:_MOST_REASONS]:
        below: list[str] = []
        if reason.since is not None:
            words = history_of_drift(case, reason.name, comparison.invocation)
            below = [_DRIFT, " ".join(words)]
        elif reason.name.removesuffix(BATCH_SUFFIX) not in metrics - {reason.name}:
            # At batch 32 the modules are the same as at batch 1.
            below = _module_lines(reason, case, comparison)
        line = _reason_line(reason)
        yield Section(title=line, body=tuple(below)) if below else line
    if len(shown) > _MOST_REASONS:
        rest = ", ".join(clean(reason.title) for reason in shown[_MOST_REASONS:])
        yield f"and {len(shown) - _MOST_REASONS} more: {clean(rest)}"
    if small:
        rest = ", ".join(clean(reason.title) for reason in small)
        yield f"and by less than 1 % of the step: {rest}"


def _reason_line(reason: verdicts.Reason) -> str:
    """Return a reason as one line: what changed, from where to where, and its bound."""
    metric, old, new, change, _ = sentences.reason_cells(reason)
    if reason.kind == "invariant":
        what = f"{metric}: {old} -> {new}" if reason.verdict != "new" else f"{metric} is false"
        return sentences.with_note(what, [reason.note])
    sides = f"{old} -> {new}" if old else new
    return f"{metric}: {sides}  {change}{sentences.against(reason)}".rstrip()


def _module_lines(reason: verdicts.Reason, case: str, comparison: Comparison) -> list[str]:
    """Name the modules behind a change of a case, the largest first."""
    old, new = comparison.references.get(case), comparison.observed.get(case)
    spec = METRICS.get(reason.name)
    if old is None or new is None or spec is None:
        return []
    found = explain_metric(reason.name, old.record, new.record).shortest
    lines = [
        f"{clean(row.module) or '(no module)'} {clean(row.what)}: "
        f"{'+' if row.change > 0 else '-'}{format_value(abs(row.change), spec.unit)}"
        for row in found[:_MOST_MODULES]
    ]
    if len(found) > _MOST_MODULES:
        lines.append(f"and {count_of(len(found) - _MOST_MODULES, 'more module')}")
    return lines


def remarks(comparison: Comparison) -> dict[str, list[str]]:
    """Return what readers should know, in words, with the cases it is about.

    What fails a strict run comes first. A number that differs from case to case is left out, and
    so are trainings, and the files of a judged script.
    """
    found = [
        (case.id, remark)
        for case in comparison.cases
        for remark in case.remarks
        if remark.subject != "training"
        if case.verdict == "new" or remark.kind not in _OF_NEW_CASES
    ]
    found.sort(key=lambda one: not one[1].fails_strictly)
    return sentences.by_words(
        (_in_many_cases(remark), remark.text if remark.kind == "new metric" else "", case)
        for case, remark in found
    )


def _in_many_cases(remark: verdicts.Remark) -> str:
    subject = clean(remark.subject)
    if remark.kind == "new metric":
        state = "new and false" if remark.new is False else "new"
        return f"{subject} is {state}: the baseline could not know it"
    if remark.kind == "not judged":
        return f"{subject} is not judged: {clean(remark.text)}"
    if remark.kind == "within own bound":
        return f"{subject} changed within a bound of its own ({clean(remark.text)})"
    return sentences.remark_line(remark)


def budgets_of(
    uses: Iterable[tuple[str, verdicts.BudgetUse]],
    *,
    most: int | None = None,
    most_rows: int | None = None,
) -> Table:
    """Return a row for each part of the budgets of cases, or for the `most` that are used most."""
    shown = list(uses)
    if most is not None and len(shown) > most:
        shown = sorted(shown, key=lambda one: (not one[1].is_over, -(one[1].share or 0)))[:most]
    return Table(
        headings=("case", "budget of", "this run", "limit", "used", "", "margin"),
        rows=tuple(_budget_row(name, use) for name, use in shown),
        numbers=(2, 3, 4, 6),
        not_in_text=(6,),
        caption="Budgets",
        most_rows=most_rows,
    )


def _budget_row(case: str, use: verdicts.BudgetUse) -> Row:
    def shown(value: float | None) -> str:
        return "-" if value is None else format_value(value, use.spec.unit)

    state = Badge("over", "bad") if use.is_over else Badge("not judged", "plain")
    share = "-" if use.share is None else f"{100 * use.share:.0f} %"
    limit = f"at least {shown(use.limit)}" if use.is_least else shown(use.limit)
    return Row.of(
        CaseId(clean(case), case),
        clean(use.name),
        shown(use.value),
        limit,
        share,
        "" if use.over_by is not None and not use.is_over else state,
        _margin(use),
    )


def _margin(use: verdicts.BudgetUse) -> str:
    """Return the room that is left, or by how much the value is over."""
    if use.over_by is None:
        return ""
    size = format_value(abs(use.over_by), use.spec.unit)
    if use.spec.unit == "fraction":
        size = size.replace("%", "points")
    return f"{size} {'left' if use.over_by <= 0 else 'short' if use.is_least else 'over'}"
