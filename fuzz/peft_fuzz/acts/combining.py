"""Add a weighted combination of adapters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Final

import torch
from hypothesis import strategies as st
from msgspec.structs import replace as changed
from torch import Tensor

from peft_fuzz.acts.act import MIXTURE, Act, Choices, Lines
from peft_fuzz.acts.adapters import addition
from peft_fuzz.oracle import owned
from peft_fuzz.oracle.checks import AbsentError, fail
from peft_fuzz.oracle.life import Life
from peft_fuzz.oracle.plan import Plan
from peft_regress.cases import Name

EXACT: Final = 1e-2
"""How far an entry may be off, of the largest one; bfloat16 has three digits."""
WEIGHTS: Final = (1.0, 0.5, -1.0, -0.5)
PRUNING: Final = ("ties", "dare_linear", "dare_ties", "magnitude_prune")
"""Combinations that leave entries out, as many as `density` says; each has an SVD form, too."""
COMBINATIONS: Final = ("cat", "cat", "svd", "linear", *PRUNING, *(f"{one}_svd" for one in PRUNING))


class Weighted(Act, frozen=True, kw_only=True, tag="weighted"):
    """Add a weighted combination of adapters under a new name."""

    title: ClassVar = "combining adapters"
    may_refuse: ClassVar = True

    adapters: tuple[Name, ...]
    weights: tuple[float, ...]
    combination: str
    name: Name
    density: float | None = None
    """The share of entries that combinations by pruning (`ties`, `dare_linear` ...) keep."""

    @classmethod
    def drawn(cls, choices: Choices) -> Sequence[st.SearchStrategy[Any]]:
        def build(adapters: list[str], weights: list[float], kind: str, density: float) -> Act:
            kind = kind if len(adapters) > 1 else "linear"
            return cls(
                adapters=tuple(adapters),
                weights=tuple(weights[: len(adapters)]),
                combination=kind,
                name=MIXTURE,
                density=density if kind.startswith(PRUNING) else None,
            )

        return [
            st.builds(
                build,
                st.lists(st.sampled_from(choices.names), min_size=1, max_size=2, unique=True),
                st.lists(st.sampled_from(WEIGHTS), min_size=2, max_size=2),
                st.sampled_from(COMBINATIONS),
                st.sampled_from((0.5, 1.0)),
            )
        ]

    def fitted(self, plan: Plan) -> Act:
        if len(self.adapters) > 1 and len(plan.settings) == 1:
            return addition(plan) or self
        there = tuple(name for name in self.adapters if name in plan.settings)
        there = there or (next(iter(plan.settings)),)
        return changed(self, adapters=there, weights=self.weights[: len(there)])

    def is_legal(self, plan: Plan) -> bool:
        names = self.adapters
        return (
            "weighted" in plan.abilities
            and {*names} <= {*plan.settings}
            and len({*names}) == len(names) == len(self.weights) > 0
            and self.name not in plan.settings
            and plan.is_open
            and not plan.has_bias
            and not plan.moved
            and not plan.padded
            and not any(plan.copies(name) for name in names)
            and not any(plan.settings[name] is None for name in names)
            and not any(name in plan.scales for name in names)
        )

    def after(self, plan: Plan) -> Plan:
        return replace(plan.with_adapter(self.name, None), trainable=None)

    def carry_out(self, life: Life) -> None:
        """Add it; remember what it must compute where its documentation is exact.

        That is so of one adapter, and of `cat`. `dare_linear` must divide what it keeps by the
        density.
        """
        if not hasattr(life.model, "add_weighted_adapter"):
            message = f"{life.method.name} of the installed peft has no weighted combinations"
            raise AbsentError(message)
        keywords = {} if self.density is None else {"density": self.density}
        life.model.add_weighted_adapter(
            [*self.adapters],
            [*self.weights],
            self.name,
            combination_type=self.combination,
            **keywords,
        )
        if self.combination == "dare_linear" and len(self.adapters) > 1:
            _check_dare(life, self)
        if len(self.adapters) == 1 or self.combination == "cat":
            self._note_output(life)

    def _note_output(self, life: Life) -> None:
        if any((life.plan.settings[name] or {}).get("use_dora") for name in self.adapters):
            return
        own = dict(life.oracle.base.named_parameters())
        total: dict[str, Tensor] = {}
        for name, weight in zip(self.adapters, self.weights, strict=True):
            new = life.parameters((name,))
            if new is None or any(value.shape != own[key].shape for key, value in new.items()):
                return
            for key, value in new.items():
                old = own[key].detach()
                total[key] = total.get(key, old) + weight * (value - old)
        life.known[self.name,] = life.oracle.output(total)

    def named(self) -> Iterator[str]:
        yield self.name

    def lines(self, script: Lines) -> Iterator[str]:
        arguments = f"{list(self.adapters)!r}, {list(self.weights)!r}, {self.name!r}"
        kind = f"combination_type={self.combination!r}"
        more = "" if self.density is None else f", density={self.density!r}"
        yield f"model.add_weighted_adapter({arguments}, {kind}{more})"


def _check_dare(life: Life, act: Weighted) -> None:
    """Raise NotHeldError if an entry of A or B is no sum of the adapters' entries over the density.

    DARE drops entries at random and divides those it keeps by the density (Yu et al.,
    arXiv:2311.03099, section 3). peft gives A and B the root of weight times scale each. Which
    entries are kept is not known: each must be one of the four sums. Negative weights are left out.
    """
    if min(act.weights) < 0 or not act.density:
        return
    for path, module in life.holders():
        scales = getattr(module, "scaling", {})
        if not {*act.adapters} <= {*scales}:
            continue
        parts = [owned.held(module, name) for name in act.adapters]
        for key, mixed in owned.held(module, act.name).items():
            keys = [key.replace(act.name, name) for name in act.adapters]
            if not all(one in held for one, held in zip(keys, parts, strict=True)):
                continue
            sums = [torch.zeros_like(mixed, dtype=torch.float64)]
            for name, weight, one, held in zip(act.adapters, act.weights, keys, parts, strict=True):
                if held[one].shape != mixed.shape:
                    return
                share = held[one].detach().double() * (weight * scales[name]) ** 0.5 / act.density
                sums += [each + share for each in sums]
            distance = torch.stack([(mixed.detach() - one).abs() for one in sums]).amin(dim=0)
            if float(distance.amax()) > EXACT * float(sums[-1].abs().amax()):
                message = (
                    f"Entries of {path}.{key} are neither dropped nor divided by the density "
                    f"{act.density}."
                )
                fail("function", message)
