"""How much of its budget each case uses."""

from __future__ import annotations

from typing import Any, Final

from peft_regress.gate.comparison import Comparison
from peft_regress.gate.verdicts import BudgetUse
from peft_regress.metrics import format_value
from peft_regress.report.table import Row, Table
from peft_regress.text import clean

_HEADINGS: Final = ("case", "budget of", "this run", "limit", "used", "")


def has_budgets(comparison: Comparison) -> bool:
    """Return whether any case has a budget."""
    return any(case.budgets for case in comparison.cases)


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
    return Table(
        headings=_HEADINGS,
        rows=tuple(_row(name, use) for name, use in uses),
        numbers=(2, 3, 4),
    )


def encode_budget(use: BudgetUse) -> dict[str, Any]:
    """Return `{budget, value, limit, used, over}`."""
    return {
        "budget": use.name,
        "value": use.value,
        "limit": use.limit,
        "used": use.share,
        "over": use.is_over if use.is_judged else None,
    }


def _row(case: str, use: BudgetUse) -> Row:
    def shown(value: float | None) -> str:
        return "-" if value is None else format_value(value, use.spec.unit)

    state = "over" if use.is_over else "" if use.is_judged else "not judged"
    share = "-" if use.share is None else f"{100 * use.share:.0f} %"
    limit = f"at least {shown(use.limit)}" if use.is_least else shown(use.limit)
    return Row(cells=(clean(case), clean(use.name), shown(use.value), limit, share, state))
