"""A budget as its author writes it -> the limits that a record holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peft_regress.budgets import parse_amount
from peft_regress.runs.schema import Limits

if TYPE_CHECKING:
    from peft_regress.budgets import Budget, Quantity


def limits_of(budget: Budget) -> Limits:
    """Return a budget in bytes and FLOPs. Its amounts were checked when it was made."""

    def parsed(text: str | None, quantity: Quantity) -> int | None:
        return None if text is None else parse_amount(text, quantity)

    return Limits(
        peak=parsed(budget.peak, "byte"),
        update=parsed(budget.update, "flop"),
        ship=parsed(budget.ship, "byte"),
        score=None if budget.score is None else float(budget.score),
        edge_train=parsed(budget.edge_train, "byte"),
        device=budget.device,
    )
