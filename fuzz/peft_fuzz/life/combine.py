"""Add a weighted combination of adapters, and say what it must compute where that is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from peft_fuzz import example as e
from peft_fuzz import oracle, owned
from peft_fuzz.checks import AbsentError, fail

if TYPE_CHECKING:
    from peft_fuzz.life.life import Life

EXACT: Final = 1e-2
"""How far an entry may be off, of the largest one; bfloat16 has three digits."""


def combine(life: Life, act: e.Weighted) -> None:
    """Add a combination; remember what it must compute where its documentation is exact.

    That is so of one adapter, and of `cat`. Raises NotHeldError if `dare_linear` does not divide
    what it keeps by the density.
    """
    if not hasattr(life.model, "add_weighted_adapter"):
        message = f"{life.method.name} of the installed peft has no weighted combinations"
        raise AbsentError(message)
    keywords = {} if act.density is None else {"density": act.density}
    life.model.add_weighted_adapter(
        [*act.adapters], [*act.weights], act.name, combination_type=act.combination, **keywords
    )
    if act.combination == "dare_linear" and len(act.adapters) > 1:
        _check_dare(life, act)
    if len(act.adapters) > 1 and act.combination != "cat":
        return
    if any((life.plan.settings[name] or {}).get("use_dora") for name in act.adapters):
        return
    own = dict(life.oracle.base.named_parameters())
    total: dict[str, Tensor] = {}
    for name, weight in zip(act.adapters, act.weights, strict=True):
        new = oracle.parameters(life.oracle, life.model, life.plan, life.method, (name,))
        if new is None or any(value.shape != own[key].shape for key, value in new.items()):
            return
        for key, value in new.items():
            old = own[key].detach()
            total[key] = total.get(key, old) + weight * (value - old)
    life.known[act.name,] = life.oracle.output(total)


def _check_dare(life: Life, act: e.Weighted) -> None:
    """Raise NotHeldError if an entry of A or B is no sum of the adapters' entries over the density.

    DARE drops entries at random and divides those it keeps by the density (Yu et al.,
    arXiv:2311.03099, section 3). peft gives A and B the root of weight times scale each. Which
    entries are kept is not known: each must be one of the four sums. Negative weights are left out.
    """
    if min(act.weights) < 0 or not act.density:
        return
    for path, module in owned.holders(life.model):
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
