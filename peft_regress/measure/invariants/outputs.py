"""The outputs of a model on a few items, and when two of them agree."""

import copy
import math
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor, nn

from peft_regress.cost.batches import map_batch
from peft_regress.measure.invariants.facts import false

# Bounds on the largest difference of two outputs, relative to the largest logit. Identity and
# merging are judged in float32 for every base: in bfloat16 a correct merge is off by up to 0.15,
# since the rounded weight loses a small update. Correct libraries gave, on the four default
# architectures after 22 steps: 0 for reloading; 0 for identity, or up to 1.8e-6 if the weight is
# computed again (HRA); up to 5.1e-6 for merging, which changes the order of sums. The margin is for
# other processors; a merge that scales one layer wrongly is off by 1e-4 and more. On a bfloat16
# base the start itself is rounded: the residual weight of PiSSA and OLoRA (2e-4), and DoRA's
# magnitude (1e-2).
IDENTITY_TOLERANCE: Final = 1e-5
HALF_IDENTITY_TOLERANCE: Final = 3e-2
MERGE_TOLERANCE: Final = 3e-5
RELOAD_TOLERANCE: Final = 1e-6
# Of a filled adapter under autocast to bfloat16: correct libraries gave up to 0.11 (LoRA, rank 16)
# on shufflenet_v2_x0_5. It shows what is missing, doubled or raises.
AUTOCAST_TOLERANCE: Final = 0.3
# Of a tensor that was merged and unmerged, relative to the largest number in it, merged or not. In
# float32 correct libraries gave, on all methods and the four default architectures: 0 where layers
# are swapped or a copy is kept (LN tuning, HiRA); up to 1.8e-7 where a product is added and taken
# away (LoRA, DoRA, AdaLoRA, LoHa, LoKr), and 9.3e-8 where one is divided by (IA3); up to 4.3e-7 for
# rotations (OFT, BOFT), and 1.4e-6 for a product of reflections (HRA). On a bfloat16 base a sum is
# off by up to 2e-2 by rounding alone, so it is judged in float32, as merging is.
UNMERGE_TOLERANCE: Final = 1e-5
# Another machine computed the stored output, in float32: the same bound as for merging.
STORED_TOLERANCE: Final = 3e-5

Outputs: TypeAlias = tuple[Tensor, ...]
"""What a model returns for a batch: its floating-point tensors, in float32."""

_HALF: Final = (torch.float16, torch.bfloat16)


def in_float32(model: nn.Module, batch: Any) -> tuple[nn.Module, Any]:
    """Return the model and a batch in float32; a model of half precision is copied."""
    if not is_half(model):
        return model, batch
    batch = map_batch(batch, lambda leaf: leaf.float() if leaf.dtype in _HALF else leaf)
    return copy.deepcopy(model).float(), batch


def is_half(model: nn.Module) -> bool:
    """Return whether a parameter of the model has half precision."""
    return any(parameter.dtype in _HALF for parameter in model.parameters())


def agree(one: Outputs, other: Outputs, *, tolerance: float) -> bool:
    """Compare outputs relative to their size, since untrained nets have logits near 0.003."""
    pairs = zip(one, other, strict=False)
    return len(one) == len(other) and all(_agree(a, b, tolerance=tolerance) for a, b in pairs)


def _agree(one: Tensor, other: Tensor, *, tolerance: float) -> bool:
    if one.shape != other.shape:
        return False
    if not bool(torch.isfinite(other).all()):  # such as the logits of classes that are masked out
        varies = one != other
        one, other = one[varies], other[varies]
    if not bool(torch.isfinite(one).all()):
        return False
    return not one.numel() or bool((one - other).abs().max() <= tolerance * other.abs().max())


def without_loss(outputs: Outputs) -> Outputs:
    """Return outputs but for scalars, such as a loss that has a penalty; these if there is none."""
    return tuple(tensor for tensor in outputs if tensor.ndim) or outputs


def check_loss(
    found: float, wanted: float, note: str, *, tolerance: float = RELOAD_TOLERANCE
) -> None:
    """Raise `FactError` with a note for another loss than the wanted one."""
    if not math.isclose(found, wanted, rel_tol=tolerance):
        raise false(note, size=abs(found - wanted) / max(abs(found), abs(wanted)))


def check_agree(
    one: Outputs, other: Outputs, *, tolerance: float, first: Callable[[], str] = lambda: ""
) -> None:
    """Raise `FactError` for outputs that differ, relative to the largest number of the other ones.

    first: returns the first layer that differs; '' if it is not known.
    """
    if agree(one, other, tolerance=tolerance):
        return
    layer = first()
    layers = [layer] if layer else []
    where = f", first in layer {layer}" if layer else ""
    if [tensor.shape for tensor in one] != [tensor.shape for tensor in other]:
        raise false(f"the outputs have other shapes{where}", tensors=layers, size=math.inf)
    one, other = (tuple(map(torch.nan_to_num, outputs)) for outputs in (one, other))
    pairs = ((a, b) for a, b in zip(one, other, strict=True) if a.numel())
    worst = max((float((a - b).abs().max() / b.abs().max()) for a, b in pairs), default=0.0)
    note = f"the outputs differ by {worst:.2g} of the largest{where}"
    raise false(note, tensors=layers, size=worst)


_MOST_STORED: Final = 4096


def rows_of(outputs: Outputs) -> list[list[float]]:
    """Return outputs as lists to store: logits (count, classes) whole, else samples by tensor."""
    outputs = tuple(map(torch.nan_to_num, outputs))  # a run file holds no infinities
    if len(outputs) == 1 and outputs[0].ndim == 2:  # noqa: PLR2004
        rows: list[list[float]] = outputs[0].tolist()
        return rows
    flat = (tensor.flatten() for tensor in outputs)
    return [one[:: max(1, -(-len(one) // _MOST_STORED))].tolist() for one in flat]


def agree_with_rows(outputs: Outputs, rows: list[list[float]], *, tolerance: float) -> bool:
    """Compare outputs with what `rows_of` returned for another run's."""
    found = rows_of(outputs)
    if [len(row) for row in found] != [len(row) for row in rows]:
        return False
    if len(outputs) == 1:
        # Logits row by row: relative to the largest of all.
        found, rows = ([[number for row in side for number in row]] for side in (found, rows))
    pairs = zip(found, rows, strict=True)
    return all(_agree(torch.tensor(a), torch.tensor(b), tolerance=tolerance) for a, b in pairs)
