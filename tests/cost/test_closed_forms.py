"""FLOPs of every layer, forward and backward, against closed forms that know nothing of operators.

A closed form takes a layer's hyperparameters, the shapes that a hook sees on real tensors, and
which of its operands autograd wants a gradient of. It is compared as an integer, layer by layer.
"""

import copy
from functools import partial
from math import ceil, prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from network_zoo import NETWORKS, Between, adapted, by_module, fake_cost, pairings, step_between
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torchvision.models.swin_transformer import ShiftedWindowAttention


def product(forward, *operands):
    """Count a product of two operands: each one's gradient is as large a product again.

    Returns FLOPs forward and backward.
    """
    wanted = sum(t.requires_grad if isinstance(t, Tensor) else t for t in operands)
    return forward, wanted * forward


def total(*parts):
    return tuple(map(sum, zip((0, 0), *parts, strict=True)))


def convolution(layer, x, y):
    """Each result (of a transposed one: each input) meets a kernel's worth of its group."""
    kernel = prod(layer.kernel_size)
    if isinstance(layer, _ConvTransposeNd):
        flops = 2 * x.numel() * (layer.out_channels // layer.groups) * kernel
    else:
        flops = 2 * y.numel() * (layer.in_channels // layer.groups) * kernel
    return product(flops, x, layer.weight)


def linear(layer, x, y):
    return product(2 * y.numel() * layer.in_features, x, layer.weight)


def fused_attention(layer, x):
    """Self-attention of x: (batch, tokens, width) by one kernel that computes the scores twice.

    In its backward pass it takes five products: the scores again, the gradients of the scores, the
    values, the queries and the keys.
    """
    batch, tokens, width = x.shape
    inner = x.requires_grad or layer.in_proj_weight.requires_grad
    one = 2 * batch * tokens * tokens * width
    return total(
        product(2 * batch * tokens * width * 3 * width, x, layer.in_proj_weight),
        (2 * one, 5 * one * inner),
        product(2 * batch * tokens * width * width, inner, layer.out_proj.weight),
    )


def shifted_window_attention(layer, x):
    """Attention within windows of x: (batch, height, width, channels), padded to whole windows."""
    batch, height, width, channels = x.shape
    down, across = layer.window_size
    tokens = batch * ceil(height / down) * down * ceil(width / across) * across
    inner = x.requires_grad or layer.qkv.weight.requires_grad
    one = 2 * tokens * down * across * channels
    return total(
        product(2 * tokens * channels * 3 * channels, x, layer.qkv.weight),
        product(one, inner, inner),  # scores: queries by keys
        product(one, inner, inner),  # scores by values
        product(2 * tokens * channels * channels, inner, layer.proj.weight),
    )


def closed_forms(model, shape):
    """Run the forward pass for real and apply the closed form of every layer that was called."""
    model = copy.deepcopy(model)
    found = {}

    def note(name, module, inputs, output):
        x = inputs[0]
        if isinstance(module, _ConvNd):
            products = convolution(module, x, output)
        elif isinstance(module, nn.Linear):
            products = linear(module, x, output)
        elif isinstance(module, nn.MultiheadAttention):
            products = fused_attention(module, x)
        elif isinstance(module, ShiftedWindowAttention):
            products = shifted_window_attention(module, x)
        else:
            return
        found[name] = total(found.get(name, (0, 0)), products)

    for name, module in model.named_modules():
        module.register_forward_hook(partial(note, name.removeprefix("base_model.model.")))
    model(torch.randn(shape))
    return found


@pytest.mark.parametrize(("name", "method"), pairings("closed forms"))
def test_every_layer_of_a_network_is_its_closed_form(name, method):
    cost = fake_cost(name, method)
    expected = closed_forms(adapted(name, method), NETWORKS[name].shape)
    assert len(expected) > 10
    assert by_module(cost) == expected
    assert (cost.forward_flops, cost.backward_flops) == total(*expected.values())


def counted_products(layer, shape):
    """Count multiplications one by one: on ones, every product adds 1 to the sum of the results.

    Padding is filled with ones as well; of a transposed convolution it takes results away, not
    products, and is left out.
    """
    probe = copy.deepcopy(layer).double()
    nn.init.ones_(probe.weight)
    probe.bias = None
    x = torch.ones(shape, dtype=torch.float64)
    if not isinstance(layer, _ConvTransposeNd):
        sides = [side for padding in reversed(layer.padding) for side in (padding, padding)]
        x = nn.functional.pad(x, sides, value=1.0)
    probe.padding = (0,) * len(layer.padding)
    return int(probe(x).sum())


@st.composite
def convolutions(draw):
    n = draw(st.integers(1, 3))
    groups = draw(st.integers(1, 3))
    kinds = {
        1: (nn.Conv1d, nn.ConvTranspose1d),
        2: (nn.Conv2d, nn.ConvTranspose2d),
        3: (nn.Conv3d, nn.ConvTranspose3d),
    }[n]
    in_channels = groups * draw(st.integers(1, 3))

    def each(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(n))

    layer = draw(st.sampled_from(kinds))(
        in_channels,
        groups * draw(st.integers(1, 3)),
        each(1, 3),
        stride=each(1, 3),
        padding=each(0, 1),
        dilation=each(1, 2),
        groups=groups,
        bias=draw(st.booleans()),
    )
    return layer, (draw(st.integers(1, 3)), in_channels, *each(5, 7))


@settings(max_examples=25, deadline=None)
@given(
    case=convolutions(),
    weight_grad=st.booleans(),
    bias_grad=st.booleans(),
    input_grad=st.booleans(),
)
def test_any_convolution_is_its_closed_form_and_as_many_products_as_one_can_count(
    case, weight_grad, bias_grad, input_grad
):
    """The gradient of a bias alone, as BitFit has it, is a sum and no product."""
    layer, shape = case
    layer.weight.requires_grad_(weight_grad)
    if layer.bias is not None:
        layer.bias.requires_grad_(bias_grad)
    cost = step_between(layer, shape, input_grad=input_grad)
    assert by_module(cost) == closed_forms(Between(layer, input_grad=input_grad), shape)
    once = 2 * counted_products(layer, shape)
    assert by_module(cost) == {"layer": (once, once * (weight_grad + input_grad))}
    # What torch's counter reports: the gradient of a grouped weight is too large.
    assert cost.paper_forward_flops == once
    assert cost.paper_backward_flops == once * (layer.groups * weight_grad + input_grad)
