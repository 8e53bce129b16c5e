"""Add and delete adapters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import ClassVar

from torch import nn

from peft_fuzz.acts.act import Act, Lines
from peft_fuzz.methods.method import moves_base
from peft_fuzz.oracle import library
from peft_fuzz.oracle.checks import fail
from peft_fuzz.oracle.life import Life
from peft_fuzz.oracle.plan import Change, Plan, adapted, trains_bias
from peft_fuzz.oracle.state import check_all, check_output
from peft_regress.cases import Name


class Add(Act, frozen=True, kw_only=True, tag="add"):
    """Add another of the example's adapters."""

    title: ClassVar = "adding an adapter"
    stage: ClassVar = "wrap"
    may_refuse: ClassVar = True
    is_usual: ClassVar = True
    computes_as_filled: ClassVar = True

    adapter: Name

    def fitted(self, plan: Plan) -> Act:
        names = {adapter.name for adapter in plan.on.adapters} - {*plan.settings}
        return self if self.adapter in names else addition(plan) or self

    def is_legal(self, plan: Plan) -> bool:
        if self.adapter not in {adapter.name for adapter in plan.on.adapters}:
            return False
        wanted = plan.on.settings_of(self.adapter)
        several_biases = plan.has_bias and trains_bias(wanted)
        must_be_alone = moves_base(wanted) or (plan.moved and self.adapter not in plan.settings)
        return plan.is_open and not several_biases and not must_be_alone

    def refusal(self, plan: Plan) -> str | None:
        if self.adapter in plan.settings:
            return f"an adapter {self.adapter} exists"
        if not adapted(plan.on.settings_of(self.adapter), plan.on.network):
            return f"adapter {self.adapter} matches no layer"
        return None

    def after(self, plan: Plan) -> Plan:
        return plan.with_adapter(self.adapter, plan.on.settings_of(self.adapter))

    def carry_out(self, life: Life) -> None:
        config = library.configuration(life.method, life.on.settings_of(self.adapter))
        keywords = library.autocast_argument(life.model.add_adapter, autocast=life.autocast)
        life.model.add_adapter(self.adapter, config, **keywords)

    def change(self, plan: Plan) -> Change:
        return Change(
            base=self.refusal(plan) is None, puts_in=(self.adapter,), through="add_adapter"
        )

    def finish(self, life: Life, before: Plan) -> None:
        life.adopt_base(self.adapter)

    def check_accepted(self, life: Life, reason: str) -> None:
        if self.adapter not in life.plan.settings:
            super().check_accepted(life, reason)
        check_all(life, self.change(life.plan))

    def lines(self, script: Lines) -> Iterator[str]:
        config = script.configuration(self.adapter)
        yield f"torch.manual_seed({script.seed})"
        yield f"model.add_adapter({self.adapter!r}, {config}{script.autocast})"


def addition(plan: Plan) -> Add | None:
    """Return the act that adds the next adapter of the example; None if all are there."""
    left = [each.name for each in plan.on.adapters if each.name not in plan.settings]
    return Add(adapter=left[0]) if left else None


class Delete(Act, frozen=True, kw_only=True, tag="delete"):
    """Delete an adapter."""

    title: ClassVar = "deleting an adapter"

    adapter: Name

    def is_legal(self, plan: Plan) -> bool:
        # What it has trained of the base's biases would stay, and no file would have that.
        if self.adapter not in plan.settings or not plan.enabled or plan.has_bias:
            return False
        rest = [name for name in plan.active if name != self.adapter]
        return self.adapter in plan.merged or (not plan.merged and plan.copies_apart(rest))

    def refusal(self, plan: Plan) -> str | None:
        return f"adapter {self.adapter} is merged" if self.adapter in plan.merged else None

    def after(self, plan: Plan) -> Plan:
        name = self.adapter
        settings = {key: value for key, value in plan.settings.items() if key != name}
        left = tuple(key for key in plan.active if key != name)
        trainable = None if plan.trainable is None else plan.trainable - {name}
        if name in plan.active and not left and settings:
            # The library warns and takes another one; `finish` activates the first.
            left = (next(iter(settings)),)
            trainable = frozenset(left)
        # A model without adapters is to be unloaded; its calls are not documented.
        return replace(
            plan, settings=settings, active=left, trainable=trainable, ended=not settings
        )

    def carry_out(self, life: Life) -> None:
        life.model.delete_adapter(self.adapter)
        life.forget(self.adapter)

    def finish(self, life: Life, before: Plan) -> None:
        """Check that nothing of it is left; activate another adapter in its place."""
        name = self.adapter
        if name in life.model.peft_config:
            fail("leftover", f"The configuration of the deleted {name} is still there.")
        for path, module in life.holders():
            for attribute, value in {**vars(module), **module._modules}.items():  # noqa: SLF001
                if attribute in {"_modules", "_parameters", "_buffers"}:
                    continue
                if isinstance(value, str) and "adapter" not in attribute:
                    continue  # such as the name of a layer, which may be the adapter's, too
                if name in _names(value):
                    message = f"{attribute} of {path} still has the deleted adapter {name}."
                    fail("leftover", message)
        if before.active == (name,) and life.plan.active:
            life.model.set_adapter(life.plan.active[0])

    def check_accepted(self, life: Life, reason: str) -> None:
        # The library may take the weights out before it deletes.
        plan = replace(life.plan, merged=())
        life.plan = self.after(plan)
        check_output(life, self.change(plan))

    def lines(self, script: Lines) -> Iterator[str]:
        yield f"model.delete_adapter({self.adapter!r})"
        yield f"deleted = {self.adapter!r}"


def _names(value: object) -> set[object]:

    if isinstance(value, str):
        return {value}
    if isinstance(value, (Mapping, list, set, tuple, nn.ModuleDict, nn.ParameterDict)):
        return {each for each in value if isinstance(each, str)}
    return set()
