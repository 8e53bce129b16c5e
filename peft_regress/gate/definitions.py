"""What a changed definition says: the settings that differ, and what the case costs now. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from msgspec import UNSET

from peft_regress.gate.verdicts import Reason
from peft_regress.runs.schema import Record

_COSTS: Final = (
    "trainable_params",
    "adapter_bytes",
    "forward_flops",
    "backward_flops",
    "optimizer_flops",
    "peak_bytes",
)
"""What a reader asks of another definition; nothing is judged."""


def definition_reasons(old: Record, new: Record) -> Iterator[Reason]:
    """Yield each setting that differs; without any, both digests."""
    changed = changed_settings(old, new) or {"": (old.definition, new.definition)}
    for name, (was, now) in changed.items():
        metric = f"definition {name}".rstrip()
        yield Reason(metric=metric, old=was, new=now, verdict="incomparable")


def changed_settings(old: Record, new: Record) -> dict[str, tuple[str | None, str | None]]:
    """Return the settings of both sides that differ, by name; none if a side did not record any."""
    if old.settings is UNSET or new.settings is UNSET:
        return {}
    sides = old.settings, new.settings
    pairs = {name: (sides[0].get(name), sides[1].get(name)) for name in {**sides[0], **sides[1]}}
    return {name: (was, now) for name, (was, now) in pairs.items() if was != now}


def cost_reasons(old: Record, new: Record) -> Iterator[Reason]:
    """Yield the main costs that another definition changed."""
    for name in _COSTS:
        was, now = old.metrics.get(name), new.metrics.get(name)
        if was is None or now is None or was.value == now.value:
            continue
        yield Reason(
            metric=name,
            old=was.value,
            new=now.value,
            relative_change=now.value / was.value - 1 if was.value else None,
            verdict="incomparable",
            spec=now.spec,
        )
