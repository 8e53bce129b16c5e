"""Operators with torch's forward kernels that keep only what the gradient of their input needs.

Each stands for modules whose own parameters, if any, are frozen.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cache
from types import MethodType
from typing import Any, ClassVar, Final, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual
from torch.nn import functional
from torch.nn.modules import batchnorm, conv

from peft_regress.memory.lean import Reason

Computed: TypeAlias = tuple[Tensor, tuple[Tensor, ...], Callable[..., Tensor]]
"""The output, what to keep, and the gradient of the input from that of the output and the kept."""

aten = torch.ops.aten


class _KeepsLess(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, compute: Callable[[Tensor], Computed], x: Tensor) -> Tensor:
        y, kept, ctx.gradient = compute(x)
        if y is x:
            ctx.mark_dirty(x)
        ctx.save_for_backward(*kept)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return None, ctx.gradient(*grads, *ctx.saved_tensors)


class Operator(ABC):
    """A way to compute what a module computes."""

    of: ClassVar[tuple[type[nn.Module], ...]]
    """The modules: those, and subclasses, whose `forward` is that of one of these classes."""
    keeps: ClassVar[str] = "nothing"
    needs_batch: ClassVar[bool] = False
    """Whether it may keep more than torch's operator, so that only measuring can choose it."""

    def refusal(self, layer: Any) -> Reason | None:
        """Return why the layer, as it is set now, must keep its operator; None if it need not."""
        return Reason.TRAINS if any(p.requires_grad for p in layer.parameters()) else None

    def takes(self, layer: Any, x: Tensor) -> bool:  # noqa: ARG002
        """Return whether such an input can be computed here."""
        return True

    def kept_bytes(self, y: Tensor, *, is_kept_anyway: bool) -> int:  # noqa: ARG002
        """Return what a call keeps by itself. is_kept_anyway: whether others keep the output."""
        return 0

    @abstractmethod
    def compute(self, layer: Any, x: Tensor) -> Computed:
        """Return the output and what its gradient needs; autograd is off."""


def _own(layer: nn.Module) -> Callable[..., Any]:
    """Return a module's forward as its class has it."""
    return MethodType(type(layer).forward, layer)


def _stand_in(shape: torch.Size, layout: torch.memory_format, grad: Tensor) -> Tensor:
    """Return a tensor for an input of which a kernel reads the shape and the layout alone."""
    if grad.shape == shape:
        return grad.detach()
    # Never written to: on a CPU its pages take no memory.
    return torch.empty(shape, dtype=grad.dtype, device=grad.device, memory_format=layout)


def _layout(x: Tensor) -> torch.memory_format:
    if x.dim() == 4 and not x.is_contiguous():  # noqa: PLR2004
        if x.is_contiguous(memory_format=torch.channels_last):
            return torch.channels_last
    return torch.contiguous_format


class Convolution(Operator):
    """A frozen convolution: the gradient needs the weight."""

    of = (
        nn.Conv1d, nn.Conv2d, nn.Conv3d,
        nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
    )  # fmt: skip

    def refusal(self, layer: conv._ConvNd) -> Reason | None:
        """Refuse paddings that are an operator of their own."""
        if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            return Reason.SETTINGS
        return super().refusal(layer)

    def takes(self, layer: conv._ConvNd, x: Tensor) -> bool:
        """Refuse a single image without a batch."""
        return x.dim() == layer.weight.dim()

    def compute(self, layer: conv._ConvNd, x: Tensor) -> Computed:
        """Let torch take the kernel of training: it has others for inference alone."""
        with torch.enable_grad():
            y = _own(layer)(x.detach().requires_grad_()).detach()
        shape, layout = x.shape, _layout(x)
        settings = (
            layer.stride, layer.padding, layer.dilation,
            layer.transposed, layer.output_padding, layer.groups,
        )  # fmt: skip

        def gradient(grad: Tensor, weight: Tensor) -> Tensor:
            x = _stand_in(shape, layout, grad)
            mask = [True, False, False]
            result: Tensor = aten.convolution_backward(grad, x, weight, None, *settings, mask)[0]
            return result

        return y, (layer.weight,), gradient


class BatchNorm(Operator):
    """BatchNorm by its running statistics, frozen: a scale for each channel."""

    of = (batchnorm._BatchNorm,)  # noqa: SLF001 - has the forward of all of them

    def refusal(self, layer: batchnorm._BatchNorm) -> Reason | None:
        """Refuse the mode in which the gradient depends on the input."""
        if layer.training or layer.running_mean is None or layer.running_var is None:
            return Reason.BATCH_STATISTICS
        return super().refusal(layer)

    def compute(self, layer: batchnorm._BatchNorm, x: Tensor) -> Computed:
        """Keep parameters and buffers."""
        statistics = [layer.running_mean, layer.running_var]
        kept = tuple(one for one in (*statistics, layer.weight) if one is not None)
        eps = layer.eps

        def gradient(grad: Tensor, mean: Tensor, var: Tensor, weight: Any = None) -> Tensor:
            # In eval mode the kernel uses no value of its input, in whose place stands `grad`.
            settings = weight, mean, var, None, None, False, eps, [True, False, False]
            given: Tensor = aten.native_batch_norm_backward(grad, grad.detach(), *settings)[0]
            return given

        return _own(layer)(x), kept, gradient


class _Elementwise(Operator):
    """An activation, which may work in place."""

    def takes(self, layer: Any, x: Tensor) -> bool:
        """Refuse to change a view, or a leaf, in place."""
        return not (layer.inplace and (x._is_view() or x.is_leaf))  # noqa: SLF001


class ReluByMask(_Elementwise):
    """A ReLU whose output nothing else keeps."""

    of = (nn.ReLU,)
    keeps = "a mask, a byte an element"
    needs_batch = True

    def kept_bytes(self, y: Tensor, *, is_kept_anyway: bool) -> int:  # noqa: ARG002
        """Return the bytes of the mask."""
        return y.numel()

    def compute(self, layer: nn.ReLU, x: Tensor) -> Computed:
        """Keep where the gradient is 0."""
        y = _own(layer)(x)
        return y, (y <= 0,), _zero_where


def _zero_where(grad: Tensor, mask: Tensor) -> Tensor:
    return grad.masked_fill(mask, 0)


class HardtanhByMask(_Elementwise):
    """A Hardtanh, such as ReLU6, whose output nothing else keeps: torch keeps its input."""

    of = (nn.ReLU6, nn.Hardtanh)
    keeps = ReluByMask.keeps

    def kept_bytes(self, y: Tensor, *, is_kept_anyway: bool) -> int:  # noqa: ARG002
        """Return the bytes of the mask."""
        return y.numel()

    def compute(self, layer: nn.Hardtanh, x: Tensor) -> Computed:
        """Keep where the gradient is 0: the output is a bound where the input is one or beyond."""
        y = _own(layer)(x)
        return y, ((y <= layer.min_val).logical_or_(y >= layer.max_val),), _zero_where


class HardtanhByOutput(_Elementwise):
    """A Hardtanh, such as ReLU6, whose output another operator keeps."""

    of = HardtanhByMask.of
    keeps = "its output, which is kept anyway"
    needs_batch = True

    def kept_bytes(self, y: Tensor, *, is_kept_anyway: bool) -> int:
        """Return the bytes of the output, unless others keep it."""
        return 0 if is_kept_anyway else y.untyped_storage().nbytes()

    def compute(self, layer: nn.Hardtanh, x: Tensor) -> Computed:
        """Keep the output."""
        bounds = layer.min_val, layer.max_val

        def gradient(grad: Tensor, y: Tensor) -> Tensor:
            result: Tensor = aten.hardtanh_backward(grad, y, *bounds)
            return result

        y = _own(layer)(x)
        return y, (y,), gradient


class DropoutByMask(_Elementwise):
    """Dropout on a CPU, where torch keeps its noise in the type of the input."""

    of = (nn.Dropout,)
    keeps = ReluByMask.keeps

    def takes(self, layer: nn.Dropout, x: Tensor) -> bool:
        """Refuse what keeps no noise, or a mask already."""
        does_drop = layer.training and 0 < layer.p < 1
        return does_drop and x.device.type == "cpu" and super().takes(layer, x)

    def kept_bytes(self, y: Tensor, *, is_kept_anyway: bool) -> int:  # noqa: ARG002
        """Return the bytes of the mask."""
        return y.numel()

    def compute(self, layer: nn.Dropout, x: Tensor) -> Computed:
        """Draw what torch draws: 0 or 1 / (1 - p)."""
        p = layer.p
        noise = functional.dropout(torch.ones_like(x), p, training=True)
        y = x.mul_(noise) if layer.inplace else x * noise

        def gradient(grad: Tensor, mask: Tensor) -> Tensor:
            return grad * mask.to(grad.dtype).div_(1 - p)

        return y, (noise != 0,), gradient


class _Pooling(Operator):
    """Pooling of images, whose gradient needs the shape of its input."""

    def takes(self, layer: Any, x: Tensor) -> bool:  # noqa: ARG002
        """Refuse a single image without a batch."""
        return x.dim() == 4  # noqa: PLR2004


class MaxPooling(_Pooling):
    """The largest of each window; what was largest is known by its index."""

    of = (nn.MaxPool2d,)
    keeps = "indices, 4 bytes an element of its output"

    def refusal(self, layer: nn.MaxPool2d) -> Reason | None:
        """Refuse the form with two outputs."""
        return Reason.SETTINGS if layer.return_indices else None

    def kept_bytes(self, y: Tensor, *, is_kept_anyway: bool) -> int:  # noqa: ARG002
        """Return the bytes of the indices."""
        return y.numel() * torch.int32.itemsize

    def takes(self, layer: nn.MaxPool2d, x: Tensor) -> bool:
        """Refuse images with more pixels than such an index can tell apart."""
        return super().takes(layer, x) and math.prod(x.shape[2:]) <= torch.iinfo(torch.int32).max

    def compute(self, layer: nn.MaxPool2d, x: Tensor) -> Computed:
        """Keep the indices."""
        settings = layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.ceil_mode
        sizes = [one if isinstance(one, bool) else _pair(one) for one in settings]
        y, indices = aten.max_pool2d_with_indices(x, *sizes)
        shape, layout = x.shape, _layout(x)

        def gradient(grad: Tensor, kept: Tensor) -> Tensor:
            x = _stand_in(shape, layout, grad)
            operator = aten.max_pool2d_with_indices_backward
            result: Tensor = operator(grad, x, *sizes, kept.long())
            return result

        return y, (indices.int(),), gradient


def _pair(size: Any) -> Any:
    return [size, size] if isinstance(size, int) else size


class AveragePooling(_Pooling):
    """The mean of each window."""

    of = (nn.AvgPool2d, nn.AdaptiveAvgPool2d)

    def refusal(self, layer: Any) -> Reason | None:
        """Refuse the mean of an image, of which torch keeps the shape alone."""
        is_mean = getattr(layer, "output_size", None) in {1, (1, 1)}
        return Reason.KEPT_ANYWAY if is_mean else None

    def compute(self, layer: Any, x: Tensor) -> Computed:
        """Keep the shape."""
        shape, layout = x.shape, _layout(x)
        backward, settings = aten._adaptive_avg_pool2d_backward, []  # noqa: SLF001
        if isinstance(layer, nn.AvgPool2d):
            sizes = map(_pair, (layer.kernel_size, layer.stride, layer.padding))
            rest = layer.ceil_mode, layer.count_include_pad, layer.divisor_override
            backward, settings = aten.avg_pool2d_backward, [*sizes, *rest]

        def gradient(grad: Tensor) -> Tensor:
            result: Tensor = backward(grad, _stand_in(shape, layout, grad), *settings)
            return result

        return _own(layer)(x), (), gradient


OPERATORS: Final[tuple[Operator, ...]] = (
    Convolution(), BatchNorm(), ReluByMask(), HardtanhByMask(), HardtanhByOutput(),
    DropoutByMask(), MaxPooling(), AveragePooling(),
)  # fmt: skip
"""Each is tried where it applies; of two that keep as little, the first."""


def operators_for(layer: nn.Module) -> list[Operator]:
    """Return the operators that can stand for a module, if its settings allow it."""
    forward = type(layer).forward
    return [one for one in OPERATORS if any(forward is kind.forward for kind in one.of)]


@cache
def _forward_by(operator: Operator) -> Callable[..., Any]:
    def forward(self: nn.Module, x: Any, *args: Any, **kwargs: Any) -> Any:
        if (
            args
            or kwargs
            or is_for_torch(x)
            or operator.refusal(self) is not None
            or not operator.takes(self, x)
        ):
            return _own(self)(x, *args, **kwargs)

        def compute(x: Tensor) -> Computed:
            return operator.compute(self, x)

        return _KeepsLess.apply(compute, x)  # type: ignore[no-untyped-call]

    # Of this name pickle finds what the class has.
    forward.lean_operator = operator  # type: ignore[attr-defined]
    return forward


def is_for_torch(x: Any) -> bool:
    """Return whether torch's operator must run: nothing is kept, or another tool transforms it."""
    return (
        not isinstance(x, Tensor)
        or not x.requires_grad
        or not torch.is_grad_enabled()
        or not x.is_floating_point()
        or x.device.type not in {"cpu", "cuda"}
        or torch.is_autocast_enabled(x.device.type)
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()  # noqa: SLF001 - no public way to ask
        or unpack_dual(x).tangent is not None
    )


def has_own_forward(layer: nn.Module) -> bool:
    """Return whether another library has replaced the forward of a module."""
    return getattr(layer.forward, "__func__", None) is not type(layer).forward


def replace(layer: nn.Module, operator: Operator) -> None:
    """Let a module compute by an operator."""
    # An attribute of its own, and not another class: it is copied with the module, and libraries
    # ask for classes.
    vars(layer)["forward"] = MethodType(_forward_by(operator), layer)


def restore(model: nn.Module) -> None:
    """Let all modules of a model compute by torch's operators again."""
    for layer in model.modules():
        function = getattr(vars(layer).get("forward"), "__func__", None)
        if hasattr(function, "lean_operator"):
            del vars(layer)["forward"]
