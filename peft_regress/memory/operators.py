"""Operators with torch's forward kernels that keep what the gradient of their input needs alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from peft_regress.memory.lean import Keeps, Reason

Computed: TypeAlias = tuple[Tensor, tuple[Tensor, ...], Callable[..., Tensor]]
"""The output, what is kept, and the input's gradient from that of the output and what is kept."""
Compute: TypeAlias = Callable[[Any, Tensor], Computed]
"""Of a module and its input, with autograd off."""

aten = torch.ops.aten


class _Lean(torch.autograd.Function):
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


@dataclass(frozen=True, eq=False)
class Operator:
    """A way to compute what a module computes."""

    of: tuple[type[nn.Module], ...]
    """The modules: those whose `forward` is that of one of these classes."""
    keeps: Keeps
    fits: Callable[[Any, Tensor | None], bool]
    """Whether it can compute a module as that is set now; on this input, if one is given."""
    is_never_worse: bool
    """Whether it keeps no more than torch's operator, whatever else is kept."""
    compute: Compute

    def refusal(self, layer: Any, x: Tensor | None = None) -> Reason | None:
        """Return why a module, as it is set now, must compute by torch's operator."""
        own = (getattr(layer, name, None) for name in ("weight", "bias"))
        if any(tensor is not None and tensor.requires_grad for tensor in own):
            return Reason.TRAINS
        if isinstance(layer, _BatchNorm) and (layer.training or layer.running_mean is None):
            return Reason.BATCH_STATISTICS
        return None if self.fits(layer, x) else Reason.SETTINGS

    def kept_bytes(self, y: Tensor, *, is_kept_too: bool) -> int:
        """Return what a call with this output keeps; is_kept_too: another operator keeps that."""
        each = {Keeps.NOTHING: 0, Keeps.MASK: 1, Keeps.INDICES: 4, Keeps.OUTPUT: y.itemsize}
        is_free = self.keeps is Keeps.OUTPUT and is_kept_too
        return 0 if is_free else each[self.keeps] * y.numel()

    def is_for_torch(self, layer: Any, x: Any) -> bool:
        """Return whether torch's operator must run a call, or nothing is kept."""
        return (
            not isinstance(x, Tensor)
            or not (x.requires_grad and torch.is_grad_enabled() and x.is_floating_point())
            or self.refusal(layer, x) is not None
            or (getattr(layer, "inplace", False) and (x._is_view() or x.is_leaf))  # noqa: SLF001
            or x.device.type != "cpu"  # no other was compared
            or torch.is_autocast_enabled("cpu")
            or torch.compiler.is_compiling()
            or torch._C._get_tracing_state() is not None  # noqa: SLF001
            or torch._C._are_functorch_transforms_active()  # noqa: SLF001
            or unpack_dual(x).tangent is not None  # type: ignore[no-untyped-call]
        )


OPERATORS: Final[list[Operator]] = []
"""Of two for one module that keep as little, the first is chosen."""


def _operator(
    *of: type[nn.Module],
    keeps: Keeps = Keeps.NOTHING,
    fits: Callable[[Any, Tensor | None], bool] = lambda _layer, _x: True,
    is_never_worse: bool = True,
) -> Callable[[Compute], Compute]:
    def register(compute: Compute) -> Compute:
        OPERATORS.append(Operator(of, keeps, fits, is_never_worse, compute))
        return compute

    return register


def _plain(layer: nn.Module) -> Callable[..., Any]:
    """Return a module's forward as its class has it."""
    return MethodType(type(layer).forward, layer)


def _shape_of(x: Tensor, *, is_copied: bool = False) -> Callable[[Tensor], Tensor]:
    """Return what makes, of a gradient, a tensor in the place of x for a kernel that reads none.

    is_copied: the kernel copies it if it is not dense.
    """
    shape, is_dense = x.shape, x.is_contiguous()
    is_channels_last = not is_dense and x.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if is_channels_last else torch.contiguous_format

    def stand_in(grad: Tensor) -> Tensor:
        if grad.shape == shape:
            return grad.detach()
        if is_copied or is_channels_last:
            # Never written to: on a CPU its pages take no memory.
            return torch.empty(shape, dtype=grad.dtype, device=grad.device, memory_format=layout)
        return grad.new_empty(1).expand(shape)

    return stand_in


def _can_convolve(layer: Any, x: Tensor | None) -> bool:
    """Refuse paddings that are operators of their own, and an image without a batch."""
    has_batch = x is None or x.dim() == layer.weight.dim()
    return has_batch and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


@_operator(
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    fits=_can_convolve,
)
def _convolution(layer: Any, x: Tensor) -> Computed:
    with torch.enable_grad():  # torch has other kernels for inference alone
        y = _plain(layer)(x.detach().requires_grad_()).detach()
    stand_in = _shape_of(x, is_copied=True)
    padding = layer.stride, layer.padding, layer.dilation
    settings = *padding, layer.transposed, layer.output_padding, layer.groups, [True, False, False]

    def gradient(grad: Tensor, weight: Tensor) -> Tensor:
        return aten.convolution_backward(grad, stand_in(grad), weight, None, *settings)[0]  # type: ignore[no-any-return]

    return y, (layer.weight,), gradient


@_operator(_BatchNorm)
def _batch_norm(layer: _BatchNorm, x: Tensor) -> Computed:
    statistics = layer.running_mean, layer.running_var, layer.weight
    eps = layer.eps

    def gradient(grad: Tensor, mean: Tensor, var: Tensor, weight: Any = None) -> Tensor:
        # By running statistics the kernel uses no value of its input, in whose place is `grad`.
        settings = weight, mean, var, None, None, False, eps, [True, False, False]
        return aten.native_batch_norm_backward(grad, grad.detach(), *settings)[0]  # type: ignore[no-any-return]

    return _plain(layer)(x), tuple(one for one in statistics if one is not None), gradient


def _zero_where(grad: Tensor, mask: Tensor) -> Tensor:
    return grad.masked_fill(mask, 0)


@_operator(nn.ReLU, keeps=Keeps.MASK, is_never_worse=False)
def _relu(layer: nn.ReLU, x: Tensor) -> Computed:
    y = _plain(layer)(x)
    return y, (y <= 0,), _zero_where


# Torch keeps the input, in place a copy of it. The output is a bound where that is one, or beyond.


@_operator(nn.ReLU6, nn.Hardtanh, keeps=Keeps.MASK)
def _hardtanh(layer: nn.Hardtanh, x: Tensor) -> Computed:
    y = _plain(layer)(x)
    return y, ((y <= layer.min_val).logical_or_(y >= layer.max_val),), _zero_where


@_operator(nn.ReLU6, nn.Hardtanh, keeps=Keeps.OUTPUT, is_never_worse=False)
def _hardtanh_by_output(layer: nn.Hardtanh, x: Tensor) -> Computed:
    y = _plain(layer)(x)
    bounds = layer.min_val, layer.max_val
    return y, (y,), lambda grad, y: aten.hardtanh_backward(grad, y, *bounds)


@_operator(nn.Dropout, keeps=Keeps.MASK, fits=lambda layer, _: layer.training and 0 < layer.p < 1)
def _dropout(layer: nn.Dropout, x: Tensor) -> Computed:
    p = layer.p
    noise = functional.dropout(torch.ones_like(x), p, training=True)  # 0 or 1 / (1 - p)
    y = x.mul_(noise) if layer.inplace else x * noise
    return y, (noise != 0,), lambda grad, mask: grad * mask.to(grad.dtype).div_(1 - p)


def _has_short_indices(layer: Any, x: Tensor | None) -> bool:
    return not layer.return_indices and (
        x is None or x.shape[-2:].numel() < torch.iinfo(torch.int32).max
    )


@_operator(nn.MaxPool2d, keeps=Keeps.INDICES, fits=_has_short_indices)
def _max_pool(layer: nn.MaxPool2d, x: Tensor) -> Computed:
    windows = layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.ceil_mode
    y, indices = aten.max_pool2d_with_indices(x, *windows)
    stand_in = _shape_of(x)

    def gradient(grad: Tensor, indices: Tensor) -> Tensor:
        pool = aten.max_pool2d_with_indices_backward
        return pool(grad, stand_in(grad), *windows, indices.long())  # type: ignore[no-any-return]

    return y, (indices.int(),), gradient


# Of the mean of all pixels torch keeps the shape alone.
@_operator(nn.AdaptiveAvgPool2d, fits=lambda layer, _: layer.output_size not in {1, (1, 1)})
def _adaptive_average_pool(layer: nn.AdaptiveAvgPool2d, x: Tensor) -> Computed:
    pool, stand_in = aten._adaptive_avg_pool2d_backward, _shape_of(x)  # noqa: SLF001
    return _plain(layer)(x), (), lambda grad: pool(grad, stand_in(grad))


@_operator(nn.AvgPool2d)
def _average_pool(layer: nn.AvgPool2d, x: Tensor) -> Computed:
    windows = layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode
    settings = *windows, layer.count_include_pad, layer.divisor_override
    pool, stand_in = aten.avg_pool2d_backward, _shape_of(x)
    return _plain(layer)(x), (), lambda grad: pool(grad, stand_in(grad), *settings)


def has_own_forward(layer: nn.Module) -> bool:
    """Return whether a module computes in another way than its class says."""
    return getattr(layer.forward, "__func__", None) is not type(layer).forward or any(
        layer.children()
    )


def operators_of(layer: nn.Module) -> list[Operator]:
    """Return the operators that compute what a module's class computes."""
    forward = type(layer).forward
    return [one for one in OPERATORS if any(forward is kind.forward for kind in one.of)]


def replace(model: nn.Module, operators: Mapping[str, Operator]) -> None:
    """Let modules compute by these operators, by name, and all others of the model by torch's."""
    for name, layer in model.named_modules():
        if hasattr(vars(layer).get("forward"), "operator"):
            del vars(layer)["forward"]
        if name in operators:
            # An attribute is copied with the module, whose class others ask for.
            vars(layer)["forward"] = MethodType(_forward_by(operators[name]), layer)


def _forward_by(operator: Operator) -> Callable[..., Any]:
    # Of this name pickle finds the method of the class.
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if kwargs or len(args) != 1 or operator.is_for_torch(self, args[0]):
            return _plain(self)(*args, **kwargs)
        return _Lean.apply(partial(operator.compute, self), *args)  # type: ignore[no-untyped-call]

    forward.operator = operator  # type: ignore[attr-defined]
    return forward
