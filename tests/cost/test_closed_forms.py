"""FLOPs of every layer, forward and backward, against closed forms that know nothing of operators.

A closed form takes a layer's hyperparameters, the shapes that a hook sees on real tensors, and
which of its operands autograd wants a gradient of. It is compared as an integer, layer by layer.
"""

from __future__ import annotations

import copy
from functools import partial
from math import ceil, prod
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from network_zoo import CLASSES, NETWORKS, RANK, Between, adapted, fake_cost, pairings, sgd
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torchvision.models.swin_transformer import ShiftedWindowAttention

from peft_regress.cost import profile_step

if TYPE_CHECKING:
    from network_zoo import Method

    from peft_regress.cost import StepCost

torch.set_num_threads(1)


class Products(NamedTuple):
    """FLOPs of one module in one step, what its children compute not included."""

    forward: int
    backward: int


def product(forward: int, *operands: Tensor | bool) -> Products:
    """Count a product of two operands: each one's gradient is as large a product again."""
    wanted = sum(t.requires_grad if isinstance(t, Tensor) else t for t in operands)
    return Products(forward, wanted * forward)


def total(*parts: Products) -> Products:
    return Products(sum(p.forward for p in parts), sum(p.backward for p in parts))


def convolution(layer: _ConvNd, x: Tensor, y: Tensor) -> Products:
    """Each result (of a transposed one: each input) meets a kernel's worth of its group."""
    kernel = prod(layer.kernel_size)
    if isinstance(layer, _ConvTransposeNd):
        flops = 2 * x.numel() * (layer.out_channels // layer.groups) * kernel
    else:
        flops = 2 * y.numel() * (layer.in_channels // layer.groups) * kernel
    return product(flops, x, layer.weight)


def linear(layer: nn.Linear, x: Tensor, y: Tensor) -> Products:
    return product(2 * y.numel() * layer.in_features, x, layer.weight)


def fused_attention(layer: nn.MultiheadAttention, x: Tensor) -> Products:
    """Self-attention of x: (batch, tokens, width) by one kernel that computes the scores twice.

    In its backward pass it takes five products: the scores again, the gradients of the scores, the
    values, the queries and the keys.
    """
    batch, tokens, width = x.shape
    inner = x.requires_grad or layer.in_proj_weight.requires_grad
    one = 2 * batch * tokens * tokens * width
    return total(
        product(2 * batch * tokens * width * 3 * width, x, layer.in_proj_weight),
        Products(2 * one, 5 * one * inner),
        product(2 * batch * tokens * width * width, inner, layer.out_proj.weight),
    )


def shifted_window_attention(layer: ShiftedWindowAttention, x: Tensor) -> Products:
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


def closed_forms(model: nn.Module, shape: tuple[int, ...]) -> dict[str, Products]:
    """Run the forward pass for real and apply the closed form of every layer that was called."""
    model = copy.deepcopy(model)
    found: dict[str, Products] = {}

    def note(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
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
        found[name] = total(found.get(name, Products(0, 0)), products)

    for name, module in model.named_modules():
        module.register_forward_hook(partial(note, name.removeprefix("base_model.model.")))
    model(torch.randn(shape))
    return found


def by_module(cost: StepCost) -> dict[str, Products]:
    found: dict[str, Products] = {}
    for site in cost.flops_by_site:
        if site.phase in {"forward", "backward"}:
            forward = site.flops if site.phase == "forward" else 0
            products = Products(forward, site.flops - forward)
            found[site.module] = total(found.get(site.module, Products(0, 0)), products)
    return found


# --- Whole networks -------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "method"), pairings("closed forms"))
def test_every_layer_of_a_network_is_its_closed_form(name: str, method: Method) -> None:
    cost = fake_cost(name, method)
    expected = closed_forms(adapted(name, method), NETWORKS[name].shape)
    assert len(expected) > 10
    assert by_module(cost) == expected
    assert (cost.forward_flops, cost.backward_flops) == total(*expected.values())


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1"])
def test_head_only_has_one_gradient_that_of_the_head_s_weight(name: str) -> None:
    backward = {module: p.backward for module, p in by_module(fake_cost(name, "head")).items()}
    head = NETWORKS[name].head
    features = adapted(name, "head").get_submodule(head).weight[0].numel()
    # squeezenet's head is a convolution, on one position here.
    assert {m: flops for m, flops in backward.items() if flops} == {
        head: 2 * NETWORKS[name].shape[0] * features * CLASSES
    }


@pytest.mark.parametrize("name", ["resnet18", "shufflenet_v2_x0_5"])
def test_an_adapter_of_rank_r_is_two_thin_layers(name: str) -> None:
    """By the base layer's numbers: down (r, in, *kernel) at its stride, then up (out, r, 1, 1)."""
    model = adapted(name, "lora")
    found = by_module(fake_cost(name, "lora"))
    positions: dict[str, int] = {}

    def note(name: str, layer: nn.Conv2d, _inputs: Any, output: Tensor) -> None:
        positions[name] = output.numel() // layer.out_channels

    for module_name, module in model.named_modules():
        if module_name.endswith(".base_layer") and isinstance(module, nn.Conv2d):
            module.register_forward_hook(partial(note, module_name.removesuffix(".base_layer")))
    model(torch.randn(NETWORKS[name].shape))
    assert len(positions) > 10
    first = next(iter(positions))
    for wrapped, count in positions.items():
        base = model.get_submodule(f"{wrapped}.base_layer")
        layer = wrapped.removeprefix("base_model.model.")
        down = 2 * count * RANK * base.in_channels * prod(base.kernel_size)
        up = 2 * count * RANK * base.out_channels
        # No gradient of the images; the base weight is frozen.
        above = wrapped != first
        assert found[f"{layer}.lora_A.default"] == (down, down * (1 + above))
        assert found[f"{layer}.lora_B.default"] == (up, 2 * up)
        once = 2 * count * base.weight.numel()
        assert found[f"{layer}.base_layer"] == (once, once * above)


# --- Single layers --------------------------------------------------------------------------------


def counted_products(layer: _ConvNd, shape: tuple[int, ...]) -> int:
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
def convolutions(draw: st.DrawFn) -> tuple[_ConvNd, tuple[int, ...]]:
    n = draw(st.integers(1, 3))
    groups = draw(st.integers(1, 3))
    kinds = {
        1: (nn.Conv1d, nn.ConvTranspose1d),
        2: (nn.Conv2d, nn.ConvTranspose2d),
        3: (nn.Conv3d, nn.ConvTranspose3d),
    }[n]
    in_channels = groups * draw(st.integers(1, 3))

    def each(low: int, high: int) -> tuple[int, ...]:
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
    case: tuple[_ConvNd, tuple[int, ...]], weight_grad: bool, bias_grad: bool, input_grad: bool
) -> None:
    """The gradient of a bias alone, as BitFit has it, is a sum and no product."""
    layer, shape = case
    layer.weight.requires_grad_(weight_grad)
    if layer.bias is not None:
        layer.bias.requires_grad_(bias_grad)
    model = Between(layer, input_grad=input_grad)
    cost = profile_step(model, sgd, input_shape=shape, num_classes=CLASSES, loss="sum")
    assert by_module(cost) == closed_forms(model, shape)
    once = 2 * counted_products(layer, shape)
    assert by_module(cost) == {"layer": (once, once * (weight_grad + input_grad))}


@pytest.mark.parametrize(
    ("shape", "input_grad", "weight_grad", "bias"),
    [
        ((3, 5), True, True, True),
        ((3, 5), False, True, False),
        ((3, 2, 5), True, False, True),
        ((3, 2, 5), False, False, False),
        ((3, 2, 4, 5), True, True, False),
        ((3, 2, 4, 5), False, False, True),
        ((1, 1, 5), True, False, False),
        ((1, 1, 5), False, True, True),
    ],
)
def test_a_linear_layer_takes_any_number_of_leading_dimensions(
    shape: tuple[int, ...], input_grad: bool, weight_grad: bool, bias: bool
) -> None:
    layer = nn.Linear(5, 7, bias=bias)
    layer.weight.requires_grad_(weight_grad)
    model = Between(layer, input_grad=input_grad)
    cost = profile_step(model, sgd, input_shape=shape, num_classes=CLASSES, loss="sum")
    once = 2 * prod(shape[:-1]) * 5 * 7
    assert by_module(cost) == {"layer": (once, once * (weight_grad + input_grad))}


class Attention(nn.Module):
    """Attention of x to itself, or to its first half, with or without the weights wanted."""

    def __init__(self, *, cross: bool, need_weights: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.cross, self.need_weights = cross, need_weights

    def forward(self, x: Tensor) -> Tensor:
        memory = x[:, : x.shape[1] // 2] if self.cross else x
        y, _ = self.attention(x, memory, memory, need_weights=self.need_weights)
        return y


@pytest.mark.parametrize("input_grad", [True, False])
@pytest.mark.parametrize("cross", [True, False])
@pytest.mark.parametrize("need_weights", [True, False])
def test_attention_by_one_kernel_or_by_matrix_products(
    need_weights: bool, cross: bool, input_grad: bool
) -> None:
    batch, tokens, width = 3, 6, 8
    model = Between(
        Attention(cross=cross, need_weights=need_weights),
        input_grad=input_grad,
    )
    cost = profile_step(
        model, sgd, input_shape=(batch, tokens, width), num_classes=CLASSES, loss="sum"
    )
    remembered = tokens // 2 if cross else tokens
    projections = 2 * batch * width * width * (tokens + 2 * remembered)
    one = 2 * batch * tokens * remembered * width
    out = 2 * batch * tokens * width * width
    # Only the fused kernel computes the scores again in the backward pass.
    attention = 4 * one if need_weights else 5 * one
    backward = (1 + input_grad) * projections + attention + 2 * out
    assert by_module(cost) == {"layer.attention": (projections + 2 * one + out, backward)}


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm2d(4),
        nn.LayerNorm((4, 5, 5)),
        nn.GroupNorm(2, 4),
        nn.InstanceNorm2d(4, affine=True),
        nn.PReLU(4),
        nn.SiLU(),
        nn.Hardswish(),
        nn.AvgPool2d(2),
        nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d(1),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Upsample(scale_factor=2, mode="nearest"),
        nn.Dropout(0.5),
        nn.ChannelShuffle(2),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_what_does_no_matrix_work_is_nothing(layer: nn.Module) -> None:
    model = Between(layer, input_grad=True)
    cost = profile_step(model, sgd, input_shape=(3, 4, 5, 5), num_classes=CLASSES, loss="sum")
    assert by_module(cost) == {}


def test_a_layer_called_twice_counts_twice_and_a_tied_one_where_it_is_called() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(6, 6)
            self.second = nn.Linear(6, 6)
            self.second.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(self.first(x)))

    model = Between(Tied(), input_grad=False)
    cost = profile_step(model, sgd, input_shape=(3, 6), num_classes=CLASSES, loss="sum")
    once = 2 * 3 * 6 * 6
    # The very first call needs no input gradient.
    assert by_module(cost) == {
        "layer.first": (2 * once, 3 * once),
        "layer.second": (once, 2 * once),
    }
    assert by_module(cost) == closed_forms(model, (3, 6))


# --- Linear systems, operation by operation -------------------------------------------------------


def solving_operations(n: int, columns: int) -> tuple[int, int]:
    """Eliminate and substitute, counting: for the factors, and for all right-hand sides."""
    factors = 0
    for pivot in range(n):
        for _row in range(pivot + 1, n):
            factors += 1  # division by the pivot
            for _column in range(pivot + 1, n):
                factors += 2  # a multiply-add
    substitutions = 0
    for _ in range(columns):
        for row in range(n):
            for _known in range(row):
                substitutions += 2  # the unit triangle
        for row in reversed(range(n)):
            for _known in range(row + 1, n):
                substitutions += 2
            substitutions += 1  # division by the diagonal
    return factors, substitutions


@pytest.mark.parametrize(
    ("n", "columns", "fake"), [(1, 3, True), (2, 1, False), (5, 3, True), (5, 1, False)]
)
def test_a_linear_system_is_as_many_operations_as_elimination_takes(
    n: int, columns: int, fake: bool
) -> None:
    batch = 3

    class Solve(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sides = nn.Parameter(torch.ones(n, columns))

        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.solve(x + 10 * torch.eye(n), self.sides.expand(batch, n, columns))

    model = Between(Solve(), input_grad=False)
    cost = profile_step(
        model, sgd, input_shape=(batch, n, n), num_classes=CLASSES, loss="sum", fake=fake
    )
    factors, substitutions = solving_operations(n, columns)
    # The gradient of the right-hand sides is a system of the same factors, transposed.
    assert by_module(cost) == {"layer": (batch * (factors + substitutions), batch * substitutions)}


def test_a_gradient_through_the_matrix_of_a_system_is_a_product_more() -> None:
    class Solve(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.solve(x + 10 * torch.eye(4), x)

    cost = profile_step(
        Between(Solve()), sgd, input_shape=(3, 4, 4), num_classes=CLASSES, loss="sum"
    )
    factors, substitutions = solving_operations(4, 4)
    product = 2 * 4 * 4 * 4
    assert by_module(cost) == {
        "layer": (3 * (factors + substitutions), 3 * (substitutions + product))
    }
