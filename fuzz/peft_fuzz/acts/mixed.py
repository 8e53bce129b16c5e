"""Compute a batch in which each item names its adapter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Final

from hypothesis import strategies as st
from msgspec.structs import replace as changed

from peft_fuzz.acts.act import COPIED, MIXTURE, UNKNOWN, Act, Choices, Lines
from peft_fuzz.oracle.life import Life
from peft_fuzz.oracle.plan import Plan
from peft_regress.cases import Name

BASE: Final = "__base__"
COPIED_KINDS: Final = frozenset({"conv1d", "conv2d", "embedding", "linear"})
"""Layers whose copies (`modules_to_save`) peft's mixed batches know (utils/other.py)."""


class Mixed(Act, frozen=True, kw_only=True, tag="mixed"):
    """Compute a batch in which each item names its adapter (`__base__` for none)."""

    title: ClassVar = "a mixed batch"

    adapters: tuple[Name, ...]

    @classmethod
    def drawn(cls, choices: Choices) -> Sequence[st.SearchStrategy[Any]]:
        names, batch = choices.names, choices.batch
        item = st.sampled_from([*names, *names, COPIED, MIXTURE, *names, BASE, UNKNOWN])
        items = st.lists(item, min_size=batch, max_size=batch)
        return [items.map(lambda drawn: cls(adapters=tuple(drawn)))]

    def fitted(self, plan: Plan) -> Act:
        known, last = {*plan.settings, BASE, UNKNOWN}, [*plan.settings][-1]
        return changed(self, adapters=tuple(n if n in known else last for n in self.adapters))

    def is_legal(self, plan: Plan) -> bool:
        kinds = plan.kinds
        copied = {kinds[layer] for name in plan.settings for layer in plan.copies(name)}
        # A combination is where its parts are.
        targets = {layer for name in plan.settings for layer in plan.targets(name) or ()}
        return (
            "mixed" in plan.abilities
            and len(self.adapters) == plan.on.network.batch
            and plan.is_open
            and not plan.training
            and bool(plan.active)
            and not plan.has_bias
            and copied <= COPIED_KINDS
            and not any(kinds[name] == "attention" for name in targets)  # a TypeError says so
        )

    def refusal(self, plan: Plan) -> str | None:
        unknown = sorted({*self.adapters} - {*plan.settings, BASE})
        return f"there is no adapter {unknown[0]}" if unknown else None

    def carry_out(self, life: Life) -> None:
        """Check that each item is as its adapter alone computes it."""
        output = life.observe(adapter_names=[*self.adapters])
        for item, name in enumerate(self.adapters):
            alone = life.output_of(() if name == BASE else (name,))
            if alone is not None:
                part = slice(item, item + 1)
                life.compare(output[part], alone[part], "two_ways", f"adapter {name} alone")

    def attempt(self, life: Life) -> None:
        life.observe(adapter_names=[*self.adapters])

    def lines(self, script: Lines) -> Iterator[str]:
        yield f"mixed = output(model, x, adapter_names={list(self.adapters)!r})"
        yield f"alone = one_by_one(model, x, {list(self.adapters)!r})"
