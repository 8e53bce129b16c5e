"""How far two results may be apart, by dtype, with the evidence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

HALF: Final = (torch.bfloat16, torch.float16)
FUNCTION: Final[Mapping[torch.dtype, float]] = {
    torch.float64: 1e-8,
    torch.float32: 2e-5,
    torch.bfloat16: 1e-1,
    torch.float16: 1.25e-2,
}
"""Of outputs, relative to the sum of the absolute values of all terms (`magnitude`).

Float32: merging and two ways to one state differ by 1e-7 to 1e-6 on peft 0.21.2. Bfloat16 has steps
of 2**-8 = 4e-3: merged and unmerged outputs differ by 2e-3 to 7e-3 (peft 0.21.2, Conv2d); float16
has steps of 2**-11 = 5e-4. Both are given 25 steps, as an adapter's two products round twice and
may cancel. A wrong factor, bias or axis changes an
output by 1e-2 and more, as filled adapters are as large as the weights; what half precision hides,
float32 shows.
"""

UNKNOWN_TERMS: Final = 10.0
"""How much further outputs may be apart after unmerging where no formula gives the terms.

Then the bound is relative to the output, in which terms may have cancelled. RandLoRA's filled
adapters are 10**5 times as large as the weights: 4.8e-5 after unmerging once, with peft 0.21.2.
Not in half precision, where it would allow any output.
"""

GRADIENT: Final = 1e-3
"""Of gradients in float32, relative to the adapter's largest and the output's terms.

1e-7 to 1e-5 were seen with 14 methods of peft 0.21.2, most with AdaLoRA; a wrong factor changes a
gradient by a tenth and more.
"""

WEIGHT: Final[Mapping[torch.dtype, float]] = {
    torch.float64: 1e-8,
    torch.float32: 1e-4,
    torch.bfloat16: 0.5,
    torch.float16: 0.1,
}
"""Of weights after unmerging, relative to the largest weight, merged or not.

Float32: 4e-9 to 3e-7, RandLoRA 6e-6, on peft 0.21.2; DoRA's are larger by what its normalisation
divides by, which the bound allows for up to a thousand steps. In bfloat16 4e-4 to 2e-2 were seen,
and 6e-2 for DoRA: half precision is only asked whether the weights are those at all, and what came
back is taken for the base from there on.
"""


def apart(actual: Tensor, expected: Tensor) -> float:
    """Return the largest absolute difference; infinite for other shapes or NaN."""
    if actual.shape != expected.shape:
        return float("inf")
    if not actual.numel():
        return 0.0
    difference = float((actual.double() - expected.double()).abs().max())
    return float("inf") if math.isnan(difference) else difference


def overflows(size: float, dtype: torch.dtype) -> bool:
    """Return whether numbers of this size may leave a dtype's range on the way: tell nothing then.

    float16 ends at 65504, which a few filled layers reach.
    """
    return not size < torch.finfo(dtype).max / 10
