"""How much of its budget each case uses."""

from __future__ import annotations

from collections.abc import Iterable

from peft_regress.gate.comparison import Comparison
from peft_regress.gate.verdicts import BudgetUse
from peft_regress.metrics import format_value
from peft_regress.report.document import Badge, CaseId
from peft_regress.report.table import Row, Table
from peft_regress.text import clean


def budget_table(
    comparison: Comparison, *, over_alone: bool = False, most: int | None = None
) -> Table:
    """Return a row for each part of each budget, of every case or of those that are over.

    most: the number of rows; if there are more, those of which most is used.
    """
    uses = [
        (case.id, use)
        for case in comparison.cases
        if not over_alone or case.verdict == "over_budget"
        for use in case.budgets
    ]
    if most is not None and len(uses) > most:
        uses = sorted(uses, key=lambda one: (not one[1].is_over, -(one[1].share or 0)))[:most]
    rows = tuple(budget_row(CaseId(clean(name), name), use) for name, use in uses)
    return budgets_of(rows)


def budgets_of(rows: Iterable[Row], *, most_rows: int | None = None) -> Table:
    """Return a table of budgets."""
    return Table(
        headings=("case", "budget of", "this run", "limit", "used", "", "margin"),
        rows=tuple(rows),
        numbers=(2, 3, 4, 6),
        not_in_text=(6,),
        caption="Budgets",
        most_rows=most_rows,
    )


def budget_row(case: str, use: BudgetUse) -> Row:
    """Return what a case uses of one budget."""

    def shown(value: float | None) -> str:
        return "-" if value is None else format_value(value, use.spec.unit)

    state = (
        Badge("over", "bad")
        if use.is_over
        else ""
        if use.is_judged
        else Badge("not judged", "plain")
    )
    share = "-" if use.share is None else f"{100 * use.share:.0f} %"
    limit = f"at least {shown(use.limit)}" if use.is_least else shown(use.limit)
    cells = (case, clean(use.name), shown(use.value), limit, share, state, _margin(use))
    return Row(cells=cells)


def _margin(use: BudgetUse) -> str:
    """Return the room that is left, or by how much the value is over."""
    if use.over_by is None:
        return ""
    size = format_value(abs(use.over_by), use.spec.unit)
    if use.spec.unit == "fraction":
        size = size.replace("%", "points")
    return f"{size} {'left' if use.over_by <= 0 else 'short' if use.is_least else 'over'}"
