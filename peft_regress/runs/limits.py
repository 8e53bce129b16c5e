"""A budget as its author writes it -> the limits that a record holds."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from msgspec import UNSET

from peft_regress.budgets import SHARES, Budget, Quantity, parse_amount
from peft_regress.cases import Case
from peft_regress.runs.schema import Limits, Record


def limits_of(budget: Budget) -> Limits:
    """Return a budget in bytes and FLOPs. Its amounts were checked when it was made."""

    def parsed(text: str | None, quantity: Quantity) -> int | None:
        return None if text is None else parse_amount(text, quantity)

    shares = {name: share for name in SHARES if (share := getattr(budget, name)) is not None}
    return Limits(
        peak=parsed(budget.peak, "byte"),
        update=parsed(budget.update, "flop"),
        ship=parsed(budget.ship, "byte"),
        score=None if budget.score is None else float(budget.score),
        edge_train=parsed(budget.edge_train, "byte"),
        device=budget.device,
        of=budget.of,
        **{name: float(share) for name, share in shares.items()},
    )


def with_budget(record: Record, budget_of: Callable[[Case], Budget | None]) -> Record:
    """Return a record with the budget of its case, unless the case states one itself."""
    budget = budget_of(record.case) if record.budget is UNSET else None
    return record if budget is None else msgspec.structs.replace(record, budget=limits_of(budget))
