"""Check the base weights under the adapters: type, layout, and that unmerging gives them back."""

from __future__ import annotations

import torch
from torch import Tensor

from peft_fuzz.bounds import HALF, WEIGHT, apart
from peft_fuzz.checks import fail
from peft_fuzz.life.life import Life


def check_weights(life: Life) -> None:
    """Raise NotHeldError if base weights have another type, layout, or (unmerged) value."""
    adopted = False
    for path, module in life.base_layers():
        mine = dict(life.reference.get_submodule(path).named_parameters())
        for name, tensor in module.named_parameters():
            if name not in mine:
                continue
            where, expected = f"{path}.{name}", mine[name].detach()
            _check_form(where, tensor.detach(), expected)
            if life.plan.merged:
                size = float(tensor.detach().abs().max())
                life.merged_size[where] = max(size, life.merged_size.get(where, 0.0))
            elif life.plan.unmerged and _check_value(life, where, tensor.detach(), expected):
                life.replaced.setdefault(where, expected.clone())
                with torch.no_grad():
                    mine[name].copy_(tensor)
                adopted = True
    if adopted:
        life.renew_oracle()


def _check_form(where: str, tensor: Tensor, expected: Tensor) -> None:
    if tensor.dtype != expected.dtype:
        fail("dtype", f"{where} is {type_name(tensor.dtype)}, not {type_name(expected.dtype)}.")
    if tensor.shape != expected.shape:
        fail("merged", f"{where} is {tuple(tensor.shape)}, not {tuple(expected.shape)}.")
    if expected.is_contiguous() and not tensor.is_contiguous():
        fail("layout", f"{where} is no longer contiguous, so it cannot be saved.")


def _check_value(life: Life, where: str, tensor: Tensor, expected: Tensor) -> bool:
    """Check a weight that came back; return whether it is the base's from now on."""
    large = max(float(expected.abs().max()), life.merged_size.get(where, 0.0))
    bound = WEIGHT[expected.dtype] * life.plan.unmerged * large
    distance = apart(tensor, expected)
    if distance > bound:
        fail(
            "unmerged",
            f"After unmerging {where} is {distance:.1e} away from what it was; "
            f"rounding allows {bound:.1e}.",
        )
    return expected.dtype in HALF and distance > 0


def type_name(dtype: torch.dtype) -> str:
    """Return a dtype's name without its library's."""
    return str(dtype).removeprefix("torch.")
