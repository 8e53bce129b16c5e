"""The batch on which models are compared with each other, and with the unadapted one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from peft_regress.measure.invariants.facts import Fact
from peft_regress.measure.invariants.layers import LayerOutputs, layer_outputs, where_differing
from peft_regress.measure.invariants.outputs import Outputs, agree, in_float32

if TYPE_CHECKING:
    from torch import nn

    from peft_regress.measure.objective import Objective


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A small batch of real items, and the unadapted model."""

    base: nn.Module
    objective: Objective
    batch: Any

    def outputs(self, model: nn.Module) -> Outputs:
        """Return what a model computes, in its own type."""
        return self.objective.outputs(model, self.batch)

    def outputs_in_float32(self, model: nn.Module) -> Outputs:
        """Return what a model computes in float32."""
        return self.objective.outputs(*in_float32(model, self.batch))

    def layers(self, model: nn.Module) -> LayerOutputs:
        """Return what each layer computes in float32, by its name in the base."""
        model, batch = in_float32(model, self.batch)
        return layer_outputs(model, self.base, objective=self.objective, probe=batch)

    def same(
        self,
        found: Outputs,
        wanted: Outputs,
        *,
        tolerance: float,
        layers: Callable[[], tuple[LayerOutputs, LayerOutputs]],
    ) -> Fact:
        """Return whether outputs agree; if not, name the first layer that differs."""
        if agree(found, wanted, tolerance=tolerance):
            return Fact(holds=True)
        return where_differing(found, wanted, layers, tolerance=tolerance)
