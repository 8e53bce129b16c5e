"""Say which adapters act, in which mode and type; copy the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any, ClassVar

import torch
from hypothesis import strategies as st
from msgspec.structs import replace as changed

from peft_fuzz.acts.act import Act, Choices, Lines, present
from peft_fuzz.networks.build import DTYPES, lay_out
from peft_fuzz.networks.network import DType
from peft_fuzz.oracle.life import Life
from peft_fuzz.oracle.plan import Change, Plan
from peft_regress.cases import Name


class Activate(Act, frozen=True, kw_only=True, tag="activate"):
    """Make exactly these adapters active; several ones always through the tuner."""

    title: ClassVar = "activating an adapter"
    computes_as_filled: ClassVar = True
    takes_out: ClassVar = True

    adapters: tuple[Name, ...]

    def fitted(self, plan: Plan) -> Act:
        return changed(self, adapters=present(self.adapters, plan))

    def is_legal(self, plan: Plan) -> bool:
        names = self.adapters
        return (
            {*names} <= {*plan.settings}
            and len({*names}) == len(names) > 0
            and (len(names) == 1 or "several_active" in plan.abilities)
            and plan.enabled
            and (not plan.merged or "unmerge" in plan.abilities)
            and plan.copies_apart(names)
        )

    def after(self, plan: Plan) -> Plan:
        return replace(plan.taken_out(), active=self.adapters, trainable=frozenset(self.adapters))

    def carry_out(self, life: Life) -> None:
        names = self.adapters
        if len(names) == 1:
            life.model.set_adapter(names[0])
        else:
            life.model.base_model.set_adapter([*names])

    def lines(self, script: Lines) -> Iterator[str]:
        if len(self.adapters) == 1:
            yield f"model.set_adapter({self.adapters[0]!r})"
        else:
            yield f"model.base_model.set_adapter({list(self.adapters)!r})"


class Disable(Act, frozen=True, kw_only=True, tag="disable"):
    """Disable all adapters until they are enabled; or, as `within`, only around a call."""

    title: ClassVar = "disabling adapters"
    takes_out: ClassVar = True

    within: bool = False

    def fitted(self, plan: Plan) -> Act:
        return self if plan.enabled else Enable()

    def is_legal(self, plan: Plan) -> bool:
        # The first pass of a disabled layer takes merged weights out.
        can_take_out = not self.within and "unmerge" in plan.abilities
        return bool(plan.active) and plan.enabled and (not plan.merged or can_take_out)

    def after(self, plan: Plan) -> Plan:
        return plan if self.within else replace(plan.taken_out(), enabled=False)

    def carry_out(self, life: Life) -> None:
        if not self.within:
            life.model.base_model.disable_adapter_layers()
            return
        with life.model.disable_adapter():
            output = life.observe()
        life.compare(output, life.oracle.output(), "disabled", "the base")

    def change(self, plan: Plan) -> Change:
        return Change(known_by="disabled", is_called_first=True)

    def as_others(self) -> tuple[Act, ...]:
        return (Disable(), Enable()) if self.within else (self,)

    def lines(self, script: Lines) -> Iterator[str]:
        if self.within:
            yield "with model.disable_adapter():"
            yield "    inside = output(model, x)"
        else:
            yield "model.base_model.disable_adapter_layers()"


class Enable(Act, frozen=True, kw_only=True, tag="enable"):
    """Enable the adapters again."""

    title: ClassVar = "enabling adapters"
    computes_as_filled: ClassVar = True

    def is_legal(self, plan: Plan) -> bool:
        return not plan.enabled

    def after(self, plan: Plan) -> Plan:
        return replace(plan, enabled=True)

    def carry_out(self, life: Life) -> None:
        life.model.base_model.enable_adapter_layers()

    def lines(self, script: Lines) -> Iterator[str]:
        yield "model.base_model.enable_adapter_layers()"


class Mode(Act, frozen=True, kw_only=True, tag="mode"):
    """Switch the model to training or evaluation mode."""

    title: ClassVar = "a change of the mode"
    is_usual: ClassVar = True
    computes_as_filled: ClassVar = True

    training: bool

    def fitted(self, plan: Plan) -> Act:
        return Mode(training=not plan.training)

    def is_legal(self, plan: Plan) -> bool:
        return self.training != plan.training

    def after(self, plan: Plan) -> Plan:
        return replace(plan, training=self.training)

    def carry_out(self, life: Life) -> None:
        life.model.train(self.training)

    def traits(self) -> Iterator[str]:
        if self.training:
            yield "training mode"

    def lines(self, script: Lines) -> Iterator[str]:
        yield "model.train()" if self.training else "model.eval()"


class Copy(Act, frozen=True, kw_only=True, tag="copy"):
    """Go on with a deep copy of the model."""

    title: ClassVar = "copying the model"

    def is_legal(self, plan: Plan) -> bool:
        return True

    def carry_out(self, life: Life) -> None:
        life.model = deepcopy(life.model)
        life.optimizer = None

    def lines(self, script: Lines) -> Iterator[str]:
        yield "model = copy.deepcopy(model)"


class Convert(Act, frozen=True, kw_only=True, tag="convert"):
    """Convert the model with `to(...)`."""

    title: ClassVar = "converting the model"

    dtype: DType | None = None
    channels_last: bool | None = None

    @classmethod
    def drawn(cls, choices: Choices) -> Sequence[st.SearchStrategy[Any]]:
        dtypes: tuple[DType, ...] = ("bfloat16", "float32", "float16")
        layouts = [cls(channels_last=last) for last in (True, False)]
        return [st.sampled_from([*(cls(dtype=dtype) for dtype in dtypes), *layouts])]

    def is_legal(self, plan: Plan) -> bool:
        # `to` knows channels last for weights of four dimensions alone.
        is_flat = "conv3d" not in plan.kinds.values()
        return (
            (self.dtype is not None or self.channels_last is not None)
            and not plan.merged
            and (self.channels_last is None or is_flat)
        )

    def carry_out(self, life: Life) -> None:
        life.known.clear()
        for module in (life.model, life.origin, life.reference):
            if self.dtype is not None:
                module.to(DTYPES[self.dtype])
            if self.channels_last is not None:
                lay_out(
                    module, torch.channels_last if self.channels_last else torch.contiguous_format
                )
        if self.dtype is not None and life.x.is_floating_point():
            life.x = life.x.to(DTYPES[self.dtype])
        life.renew_oracle()
        life.check_base()

    def change(self, plan: Plan) -> Change:
        return Change(is_another_model=True)

    def traits(self) -> Iterator[str]:
        if self.dtype is not None:
            yield "converted dtype"
        if self.dtype not in {None, "float32"}:
            yield "half precision"

    def lines(self, script: Lines) -> Iterator[str]:
        keywords = [] if self.dtype is None else [f"torch.{self.dtype}"]
        if self.channels_last is not None:
            layout = "channels_last" if self.channels_last else "contiguous_format"
            keywords.append(f"memory_format=torch.{layout}")
        yield f"model.to({', '.join(keywords)})"
        yield f"original.to({', '.join(keywords)})"
        if self.dtype is not None:
            yield f"x = x.to(torch.{self.dtype}) if x.is_floating_point() else x"
