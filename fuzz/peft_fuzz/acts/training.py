"""Give an adapter other numbers: drawn ones, or by steps of training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Final

import torch
from torch import Tensor

from peft_fuzz.acts.act import Act, Lines
from peft_fuzz.acts.merging import Unmerge
from peft_fuzz.acts.switching import Enable
from peft_fuzz.oracle.checks import fail
from peft_fuzz.oracle.life import Life
from peft_fuzz.oracle.plan import Change, Plan

STEP: Final = 0.05
"""How far the largest change of a training step goes; 12 steps of bfloat16 near 1."""


def _fitted(act: Act, plan: Plan) -> Act:
    if not plan.enabled:
        return Enable()
    return Unmerge() if plan.merged else act


def _change(plan: Plan, *, fills: bool = False) -> Change:
    trained = frozenset(plan.active) & (plan.trainable or frozenset())
    return Change(adapters=trained, trains=True, fills=fills)


class Fill(Act, frozen=True, kw_only=True, tag="fill"):
    """Put seeded numbers into what trains of the active adapters."""

    title: ClassVar = "filling an adapter"
    is_usual: ClassVar = True
    computes_as_filled: ClassVar = True

    seed: int = 0

    def fitted(self, plan: Plan) -> Act:
        return _fitted(self, plan)

    def is_legal(self, plan: Plan) -> bool:
        return plan.trains and plan.enabled

    def carry_out(self, life: Life) -> None:
        life.fill(life.filled(), self.seed)
        life.forget(*life.plan.active)

    def change(self, plan: Plan) -> Change:
        return _change(plan, fills=True)

    def lines(self, script: Lines) -> Iterator[str]:
        yield f"fill(model, seed={1000 + self.seed})"


class Train(Act, frozen=True, kw_only=True, tag="train"):
    """Take a training step, with the optimizer of the last `Train` or a new one."""

    title: ClassVar = "training"
    is_usual: ClassVar = True
    computes_as_filled: ClassVar = True

    keep_optimizer: bool = False

    def fitted(self, plan: Plan) -> Act:
        return _fitted(self, plan)

    def is_legal(self, plan: Plan) -> bool:
        return plan.trains and plan.enabled

    def carry_out(self, life: Life) -> None:
        if life.optimizer is None or not self.keep_optimizer:
            life.optimizer = torch.optim.SGD(life.trainable_tensors(), lr=1.0)
            life.optimized = frozenset(life.plan.active)
        life.optimizer.zero_grad(set_to_none=True)
        output = life.model(life.x).float()
        if not output.requires_grad and life.draws():
            return  # dropout has left out all that trains
        weights = torch.randn(
            output.shape, generator=torch.Generator().manual_seed(life.on.network.seed)
        )
        (output * weights).sum().backward()
        for group in life.optimizer.param_groups:
            for tensor in group["params"]:
                if tensor.grad is not None and tensor.numel():
                    gradient = tensor.grad.float()  # float16 does not hold 1 / small
                    largest = gradient.abs().max()
                    if largest > 0:
                        tensor.grad.copy_(gradient * (STEP / largest))
        life.optimizer.step()
        life.forget(*life.plan.active)
        life.adopt_biases()

    def change(self, plan: Plan) -> Change:
        return _change(plan)

    def check(self, life: Life, before: Plan, tensors: Mapping[str, Tensor]) -> None:
        if before.trainable is None or life.draws() or life.all_empty():
            return  # dropout may have left out all that trains
        owners = life.owners()
        moved = {owners.get(id(tensor)) for _, tensor in life.changed_since(tensors)}
        for name in life.optimized.intersection(before.active):
            if name in before.trainable and name not in moved and life.weights_matter(name):
                message = f"After a training step no parameter of adapter {name} has"
                fail("trained", f"{message} moved.")

    def traits(self) -> Iterator[str]:
        if self.keep_optimizer:
            yield "kept optimizer"

    def lines(self, script: Lines) -> Iterator[str]:
        if not self.keep_optimizer or not script.has_optimizer:
            script.has_optimizer = True
            yield "optimizer = torch.optim.SGD("
            yield "    [p for p in model.parameters() if p.requires_grad], lr=1.0"
            yield ")"
        yield f"train(model, x, optimizer, seed={script.seed})"
