"""Merge adapters into the base weights, take them out again, or take all adapters off."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from hypothesis import strategies as st
from msgspec.structs import replace as changed
from torch import Tensor, nn

from peft_fuzz.acts.act import Act, Choices, Lines, present
from peft_fuzz.oracle import owned
from peft_fuzz.oracle.checks import fail
from peft_fuzz.oracle.life import Life
from peft_fuzz.oracle.plan import Change, Plan
from peft_regress.cases import Name


class Merge(Act, frozen=True, kw_only=True, tag="merge"):
    """Merge adapters into the base weights; None for the active ones."""

    title: ClassVar = "merging"
    may_refuse: ClassVar = True

    adapters: tuple[Name, ...] | None = None
    safe: bool = False
    broken: bool = False
    """Put a NaN into an adapter's parameter first, and expect `safe` to refuse; then restore it."""

    @property
    def changes_nothing(self) -> bool:
        return self.broken

    @classmethod
    def drawn(cls, choices: Choices) -> Sequence[st.SearchStrategy[Any]]:
        return [
            st.builds(cls, adapters=st.none(), safe=st.booleans()),
            st.builds(cls, adapters=choices.field("adapters"), safe=st.booleans()),
            st.just(cls(safe=True, broken=True)),
        ]

    def fitted(self, plan: Plan) -> Act:
        if self.broken:
            return self
        if {*plan.active} <= {*plan.merged}:
            return Unmerge()
        if self.adapters is None:
            return self
        return changed(self, adapters=present(self.adapters, plan))

    def is_legal(self, plan: Plan) -> bool:
        which = plan.active if self.adapters is None else self.adapters
        return (
            "merge" in plan.abilities
            and plan.enabled
            and {*which} <= {*plan.settings}
            and len({*which}) == len(which)
            and bool({*which} - {*plan.merged})
            and (len({*which, *plan.merged}) == 1 or "several_active" in plan.abilities)
            and (not self.broken or (self.safe and not plan.merged))
            and not plan.has_bias
        )

    def after(self, plan: Plan) -> Plan:
        if self.broken:
            return plan
        which = plan.active if self.adapters is None else self.adapters
        new = [name for name in which if name not in plan.merged]
        return replace(plan, merged=(*plan.merged, *new))

    def carry_out(self, life: Life) -> None:
        if self.broken:
            self._merge_broken(life)
            return
        keywords = {"safe_merge": True} if self.safe else {}
        life.model.merge_adapter(None if self.adapters is None else [*self.adapters], **keywords)

    def change(self, plan: Plan) -> Change:
        return Change(known_by="merged")

    def _merge_broken(self, life: Life) -> None:
        """Raise NotHeldError unless a safe merge of a NaN is refused and leaves all as it was."""
        adapters = life.plan.active if self.adapters is None else self.adapters
        found = _first_layer(life, adapters)
        if found is None:
            return
        path, layer, tensor = found
        base = owned.base_layer(layer)
        before = {name: value.detach().clone() for name, value in base.named_parameters()}
        good = tensor.detach().clone()
        with torch.no_grad():
            tensor.fill_(float("nan"))
        try:
            life.model.merge_adapter([*adapters], safe_merge=True)
        except ValueError:
            for name, value in base.named_parameters():
                if not torch.equal(value, before[name]):
                    message = f"The safe merge has refused, but {path}.{name} has changed."
                    fail("refused_safe_merge", message)
        else:
            if any(bool(value.isnan().any()) for value in base.parameters()):
                message = f"The safe merge has put NaN into {path} and raised nothing."
                fail("refused_safe_merge", message)
        life.model.unmerge_adapter()
        with torch.no_grad():
            tensor.copy_(good)
            for name, value in base.named_parameters():
                value.copy_(before[name])

    def traits(self) -> Iterator[str]:
        if self.safe:
            yield "safe merge"
        if self.broken:
            yield "NaN in the adapter"
        if self.adapters is not None:
            yield "merge of named adapters"

    def lines(self, script: Lines) -> Iterator[str]:
        names = "" if self.adapters is None else f"{list(self.adapters)!r}, "
        if self.broken:
            yield "spoil(model)  # puts a NaN into an adapter"
            yield "try:"
            yield f"    model.merge_adapter({names}safe_merge=True)"
            yield "except ValueError as error:"
            yield "    print('refused, as it must be:', error)"
        else:
            safe = "safe_merge=True" if self.safe else ""
            yield f"model.merge_adapter({names}{safe})".replace(", )", ")")


def _first_layer(life: Life, adapters: Sequence[str]) -> tuple[str, nn.Module, Tensor] | None:
    """Return the first adapted layer with a parameter of its own, and the last of these.

    What several layers hold is left out: a layer may hold what only another one computes with.
    """
    held = [
        ((path, adapter), module, tensor)
        for path, module in life.holders()
        if owned.is_tuner_layer(module)
        for adapter in adapters
        for tensor in owned.held(module, adapter).values()
    ]
    holders = Counter(id(tensor) for _, _, tensor in held)
    own = [
        (place, module, tensor)
        for place, module, tensor in held
        if tensor.is_floating_point()
        and isinstance(tensor, nn.Parameter)
        and holders[id(tensor)] == 1
    ]
    if not own:
        return None
    (path, _), layer, tensor = [one for one in own if one[0] == own[0][0]][-1]
    return path, layer, tensor


class Unmerge(Act, frozen=True, kw_only=True, tag="unmerge"):
    """Take all merged adapters out of the base weights."""

    title: ClassVar = "unmerging"
    takes_out: ClassVar = True

    def fitted(self, plan: Plan) -> Act:
        return self if plan.merged else Merge()

    def is_legal(self, plan: Plan) -> bool:
        return bool(plan.merged) and "unmerge" in plan.abilities and plan.enabled

    def after(self, plan: Plan) -> Plan:
        return plan.taken_out()

    def carry_out(self, life: Life) -> None:
        life.model.unmerge_adapter()

    def change(self, plan: Plan) -> Change:
        return Change(known_by="unmerged")

    def lines(self, script: Lines) -> Iterator[str]:
        yield "model.unmerge_adapter()"


class Unload(Act, frozen=True, kw_only=True, tag="unload"):
    """Take all adapters off; with `merge`, merge them first. The life ends here."""

    title: ClassVar = "unloading"
    may_refuse: ClassVar = True

    merge: bool = False

    def is_legal(self, plan: Plan) -> bool:
        if not self.merge:
            return plan.is_open and bool(plan.active)
        return (
            "merge" in plan.abilities
            and plan.enabled
            and plan.merged in {(), plan.active}
            and bool(plan.active)
            and not plan.has_bias
        )

    def after(self, plan: Plan) -> Plan:
        return replace(plan, ended=True)

    def carry_out(self, life: Life) -> None:
        """Unload, and check that the base has its function and nothing of peft."""
        effect = life.plan.active if self.merge else ()
        expected = life.known.get(effect) if effect else life.output_with_copies()
        base = life.model.merge_and_unload() if self.merge else life.model.unload()
        for path, module in base.named_modules():
            if owned.is_tuner_layer(module) or owned.is_copy_holder(module):
                fail("leftover", f"{path} is still adapted after unloading.")
        if hasattr(base, "peft_config"):
            fail("leftover", "The unloaded base still has the attribute peft_config.")
        own = life.origin.state_dict()
        more = sorted({*base.state_dict()} ^ {*own})
        if more:
            fail("leftover", f"Unloaded and original base differ in the key {more[0]}.")
        for name, tensor in base.state_dict().items():
            if tensor.dtype != own[name].dtype:
                fail("dtype", f"{name} is {tensor.dtype} after unloading.")
            if own[name].is_contiguous() and not tensor.is_contiguous():
                fail("layout", f"{name} is not contiguous, so it cannot be saved.")
        with torch.no_grad():
            output = base.eval()(life.x)
        if expected is not None and not (self.merge and life.on.network.shares_a_module):
            life.compare(output, expected, "merged" if self.merge else "leftover", "before")

    def change(self, plan: Plan) -> Change:
        return Change(is_another_model=True)

    def lines(self, script: Lines) -> Iterator[str]:
        yield f"model = model.{'merge_and_unload' if self.merge else 'unload'}()"
