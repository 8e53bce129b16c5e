"""The batch on which models are compared with each other, and what their layers compute on it."""

import copy
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from peft_regress.catalogue.methods.method import base_name, base_prefix
from peft_regress.cost.batches import map_batch
from peft_regress.measure.invariants.facts import attempt, check_none, judged, null
from peft_regress.measure.invariants.outputs import Outputs, agree, check_agree, in_float32
from peft_regress.measure.objective import Context, Objective

LayerOutputs: TypeAlias = dict[str, Tensor]

_IMAGES = 4  # dimensions: (count, channels, height, width)


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A small batch of real items, and the unadapted model."""

    base: nn.Module
    objective: Objective
    batch: Any

    def outputs(self, model: nn.Module, how: Context | None = None) -> Outputs:
        """Return what a model computes, in its own type; `how` as for `Objective.outputs`."""
        return self.objective.outputs(model, self.batch, how)

    def outputs_in_float32(self, model: nn.Module) -> Outputs:
        """Return what a model computes in float32."""
        return self.objective.outputs(*in_float32(model, self.batch))

    def layers(self, model: nn.Module, how: Context | None = None) -> LayerOutputs:
        """Return the last output of each layer in float32, by its name in the base."""
        model, batch = in_float32(model, self.batch)
        return self._facts(model, batch, lambda out: out.detach().float().clone(), how)

    def check_same(
        self,
        found: Outputs,
        wanted: Outputs,
        *,
        tolerance: float,
        layers: Callable[[], tuple[LayerOutputs, LayerOutputs]],
    ) -> None:
        """Raise `FactError` for outputs that differ, naming the first layer that does, as computed.

        layers: computes what the layers of both models return.
        """

        def first() -> str:
            ones, others = attempt(layers) or ({}, {})
            off = (
                name
                for name, one in ones.items()
                if name in others and not agree((one,), (others[name],), tolerance=tolerance)
            )
            return next(off, "")

        check_agree(found, wanted, tolerance=tolerance, first=first)

    @judged
    def dtypes_as_asked(self, adapted: nn.Module, *, adapter_in_float32: bool) -> None:
        """Name weights and layers without the base's type, adapter parameters not in float32.

        Activations are checked for each layer: an adapter that returns float32 instead of the
        base's bfloat16 doubles what all later layers keep for the backward pass.
        """
        prefix = base_prefix(adapted, self.base)
        of_base = {name: parameter.dtype for name, parameter in self.base.named_parameters()}
        added = torch.float32 if adapter_in_float32 else None
        wrong = []
        for name, parameter in adapted.named_parameters():
            asked = of_base.get(base_name(name, prefix), added)
            if asked is not None and parameter.dtype != asked:
                wrong.append(name)
        # Of mixed types the model may not even compute.
        check_none(wrong or self._unlike_base(adapted, lambda out: out.dtype))

    @judged
    def channels_last_kept(self, adapted: nn.Module) -> None:
        """Name layers that are channels last in the base alone."""
        adapted, base = _channels_last(adapted), _channels_last(self.base)

        def is_channels_last(out: Tensor) -> bool:
            return out.ndim == _IMAGES and out.is_contiguous(memory_format=torch.channels_last)

        batch = channels_last(self.batch)
        probe = Probe(base=base, objective=self.objective, batch=batch)
        if not any(probe._facts(base, batch, is_channels_last).values()):
            raise null("no layer is channels last")
        check_none(probe._unlike_base(adapted, is_channels_last))

    def _unlike_base(self, adapted: nn.Module, fact: Callable[[Tensor], Any]) -> list[str]:
        """Return the layers of the base that have another fact in the adapted model.

        A layer that returns no tensor there cannot be compared, nor one without such a name, since
        an adapter put it into another module.
        """
        wanted = self._facts(self.base, self.batch, fact)
        found = self._facts(adapted, self.batch, fact)
        return [name for name, value in wanted.items() if value and found.get(name, value) != value]

    def _facts(
        self,
        model: nn.Module,
        batch: Any,
        fact: Callable[[Tensor], Any],
        how: Context | None = None,
    ) -> dict[str, Any]:
        prefix = "" if model is self.base else base_prefix(model, self.base)
        facts: dict[str, Any] = {}

        def note(name: str) -> Callable[..., None]:
            def hook(_module: nn.Module, _args: Any, out: Any) -> None:
                if isinstance(out, Tensor):
                    facts[name] = fact(out)

            return hook

        with ExitStack() as hooks:
            for name, module in model.named_modules():
                if name.startswith(prefix) and name:
                    hook = note(name.removeprefix(prefix))
                    hooks.enter_context(module.register_forward_hook(hook))
            self.objective.outputs(model, batch, how)
        return facts


def channels_last(batch: Any) -> Any:
    """Return a batch with its images channels last."""

    def as_image(leaf: Tensor) -> Tensor:
        last = torch.channels_last
        return leaf.contiguous(memory_format=last) if leaf.ndim == _IMAGES else leaf

    return map_batch(batch, as_image)


def _channels_last(model: nn.Module) -> nn.Module:
    """Return a channels-last copy; `model.to(memory_format=...)` raises beside a Conv3d."""
    model = copy.deepcopy(model)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.ndim == _IMAGES:
            tensor.data = tensor.data.to(memory_format=torch.channels_last)
    return model
