"""Types and memory formats of layer outputs: those of the base model must be kept."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch

from peft_regress.measure.invariants.outputs import output

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn


def dtypes_as_asked(
    adapted: nn.Module, base: nn.Module, *, head: str, probe: Tensor, has_adapter: bool
) -> bool:
    """Return whether base weights and activations have the base's type, and the adapter float32.

    Activations are checked for each layer: an adapter that returns float32 instead of the base's
    bfloat16 doubles what all later layers keep for the backward pass.
    """
    prefix = _prefix(adapted, head)
    of_base = {name: parameter.dtype for name, parameter in base.named_parameters()}
    for name, parameter in adapted.named_parameters():
        plain = name.removeprefix(prefix).replace(".base_layer.", ".")
        asked = of_base.get(plain, torch.float32 if has_adapter else None)
        if parameter.dtype != asked:
            return False
    return _as_in_base(adapted, base, prefix=prefix, probe=probe, fact=lambda out: out.dtype)


def channels_last_kept(adapted: nn.Module, base: nn.Module, *, head: str, probe: Tensor) -> bool:
    """Return whether each layer that is channels last in the base is so in the adapted model."""
    adapted, base = (
        copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for model in (adapted, base)
    )

    def is_channels_last(out: Tensor) -> bool:
        return out.ndim == _IMAGES and out.is_contiguous(memory_format=torch.channels_last)

    return _as_in_base(
        adapted,
        base,
        prefix=_prefix(adapted, head),
        probe=probe.contiguous(memory_format=torch.channels_last),
        fact=is_channels_last,
    )


_IMAGES = 4  # dimensions: (count, channels, height, width)


def _prefix(adapted: nn.Module, head: str) -> str:
    """Return the prefix that a library puts before the base's names, found by the head's name."""
    named: list[str] = [
        name for name, _ in adapted.named_modules() if f".{name}".endswith(f".{head}")
    ]
    return min(named, key=len).removesuffix(head)


def _as_in_base(
    adapted: nn.Module,
    base: nn.Module,
    *,
    prefix: str,
    probe: Tensor,
    fact: Callable[[Tensor], Any],
) -> bool:
    """Return whether each layer of the base has the same fact in the adapted model."""
    wanted = _facts(base, "", probe, fact)
    found = _facts(adapted, prefix, probe, fact)
    return all(found.get(name) == value for name, value in wanted.items() if value)


def _facts(
    model: nn.Module, prefix: str, probe: Tensor, fact: Callable[[Tensor], Any]
) -> dict[str, Any]:
    """Return a fact of each layer's output, by the layer's name without the prefix."""
    facts: dict[str, Any] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any, out: Any) -> None:
            if isinstance(out, torch.Tensor):
                facts[name] = fact(out)

        return hook

    handles = [
        module.register_forward_hook(note(name.removeprefix(prefix)))
        for name, module in model.named_modules()
        if name.startswith(prefix) and name
    ]
    try:
        output(model, probe)
    finally:
        for handle in handles:
            handle.remove()
    return facts
