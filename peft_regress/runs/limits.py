"""A budget as the numbers that a record keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peft_regress.budgets import parse_amount
from peft_regress.runs.schema import Limits

if TYPE_CHECKING:
    from peft_regress.budgets import Budget, Quantity


def limits_of(budget: Budget) -> Limits:
    """Return a budget's amounts in bytes and FLOPs."""

    def amount(text: str | None, quantity: Quantity) -> int | None:
        return None if text is None else parse_amount(text, quantity)

    return Limits(
        peak=amount(budget.peak, "byte"),
        update=amount(budget.update, "flop"),
        ship=amount(budget.ship, "byte"),
        score=budget.score,
        edge_train=amount(budget.edge_train, "byte"),
        device=budget.device,
    )
