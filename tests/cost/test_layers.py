"""Single layers against closed forms of their shapes: FLOPs forward and backward, fake and real."""

from dataclasses import dataclass
from math import prod

import pytest
import torch
from network_zoo import BOTH, Applying, by_module, step_between
from torch import nn

BATCH = 3


@dataclass(frozen=True)
class Layer:
    """A layer, the shape of its input, and its FLOPs by a closed form; None is not compared."""

    layer: nn.Module
    shape: tuple[int, ...]
    forward: int
    backward: int | None = None
    input_grad: bool = False
    paper_forward: int | None = None
    """What torch's own counter says, where it says something else."""


def linear(shape, *, input_grad, weight_grad, bias):
    """Any number of leading dimensions; the gradient of each operand is a product more."""
    layer = nn.Linear(5, 7, bias=bias)
    layer.weight.requires_grad_(weight_grad)
    once = 2 * prod(shape[:-1]) * 5 * 7
    return Layer(layer, shape, once, once * (weight_grad + input_grad), input_grad)


class Attention(nn.Module):
    """Attention of x to itself, or to its first half, with or without the weights wanted."""

    def __init__(self, *, cross, need_weights):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.cross, self.need_weights = cross, need_weights

    def forward(self, x):
        memory = x[:, : x.shape[1] // 2] if self.cross else x
        return self.attention(x, memory, memory, need_weights=self.need_weights)[0]


def attention(*, cross, need_weights, input_grad):
    """By one kernel or by products; the kernel computes the scores again in the backward pass."""
    tokens, width = 6, 8
    remembered = tokens // 2 if cross else tokens
    projections = 2 * BATCH * width * width * (tokens + 2 * remembered)
    one = 2 * BATCH * tokens * remembered * width
    out = 2 * BATCH * tokens * width * width
    scores = 4 * one if need_weights else 5 * one
    return Layer(
        Attention(cross=cross, need_weights=need_weights),
        (BATCH, tokens, width),
        projections + 2 * one + out,
        (1 + input_grad) * projections + scores + 2 * out,
        input_grad,
    )


def fused_attention(*, causal):
    """The CPU's kernel, which torch's counter does not know: two products, and five backward."""
    batch, heads, tokens, width = 2, 3, 7, 8
    kernel = nn.functional.scaled_dot_product_attention
    product = 2 * batch * heads * tokens * tokens * width
    return Layer(
        Applying(lambda x: kernel(x, x, x, is_causal=causal)),
        (batch, heads, tokens, width),
        2 * product,
        5 * product,
        input_grad=True,
        paper_forward=0,
    )


class Recurrent(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)[0]


def recurrent(kind, gates):
    """Of single products; the first state and the input get no gradient."""
    tokens, width = 6, 5
    from_input = 2 * BATCH * tokens * 4 * gates * width
    from_state = 2 * BATCH * tokens * width * gates * width
    return Layer(
        Recurrent(kind(4, width, batch_first=True)),
        (BATCH, tokens, 4),
        from_input + from_state,
        from_input + 2 * from_state - from_state // tokens,
    )


def lstm(directions, layers):
    """In one kernel, which takes both gradients of each product; four gates, of input and state."""
    steps, width, hidden = 4, 5, 6
    inputs = [width, *[directions * hidden] * (layers - 1)]
    forward = sum(2 * directions * BATCH * steps * 4 * hidden * (n + hidden) for n in inputs)
    layer = nn.LSTM(width, hidden, layers, batch_first=True, bidirectional=directions == 2)
    # Without oneDNN it is single products, of which the first input needs no gradient.
    backward = 2 * forward if torch.backends.mkldnn.is_available() else None
    return Layer(Recurrent(layer), (BATCH, steps, width), forward, backward)


def solving_operations(n, columns):
    """Count what elimination takes, and substitution in two triangles for each right-hand side."""
    # Below a pivot that has `rest` rows and columns after it: a division and multiply-adds a row.
    factors = sum(rest * (1 + 2 * rest) for rest in range(n))
    # Two operations for each known number; one triangle has divisions by its diagonal.
    return factors, columns * (2 * 2 * sum(range(n)) + n)


class Solve(nn.Module):
    """A linear system of x with right-hand sides of its own, or with x itself for them."""

    def __init__(self, n, columns):
        super().__init__()
        self.sides = nn.Parameter(torch.ones(n, columns)) if columns else None

    def forward(self, x):
        n = x.shape[-1]
        sides = x if self.sides is None else self.sides.expand(len(x), *self.sides.shape)
        return torch.linalg.solve(x + 10 * torch.eye(n), sides)


def system(n, columns):
    """The gradient of the right-hand sides is a system of the same factors, transposed."""
    factors, substitutions = solving_operations(n, columns)
    forward = BATCH * (factors + substitutions)
    return Layer(Solve(n, columns), (BATCH, n, n), forward, BATCH * substitutions)


def system_of_itself():
    """A gradient through the matrix of a system is a product more."""
    factors, substitutions = solving_operations(4, 4)
    backward = BATCH * (substitutions + 2 * 4 * 4 * 4)
    return Layer(Solve(4, 0), (BATCH, 4, 4), BATCH * (factors + substitutions), backward, True)


def cholesky(n=BATCH):
    """The gradient takes a product of the factor and its own, and two systems of the factor."""
    # Of column j: n - j dot products of length j, a division for each below the root.
    factor = sum((n - j) * 2 * j + n - j for j in range(n))
    of_rows = 2 * n * n * 4
    return function(
        lambda x: torch.linalg.cholesky(x @ x.T + torch.eye(n)),
        of_rows + factor,
        2 * of_rows + 2 * n**3 + 2 * n * n**2,
    )


def affine_grid(*spatial):
    d = len(spatial)

    def grid(x):
        theta = x.new_ones(BATCH, d, d + 1) * x.mean()
        return x + nn.functional.affine_grid(theta, [BATCH, 1, *spatial], align_corners=False).sum()

    product = 2 * BATCH * prod(spatial) * d * (d + 1)
    return Layer(Applying(grid), (BATCH, 4), product, product, input_grad=True)


class OwnProduct(torch.autograd.Function):
    @staticmethod
    def forward(_ctx, x):
        return x @ torch.eye(4)

    @staticmethod
    def backward(_ctx, grad):
        return grad @ torch.eye(4)


def function(of_rows, forward, backward=None):
    return Layer(Applying(of_rows), (BATCH, 4), forward, backward, input_grad=True)


YES_NO = (True, False)
LAYERS = {
    **{
        f"linear {shape} {input_grad:d}{weight_grad:d}{bias:d}": linear(
            shape, input_grad=input_grad, weight_grad=weight_grad, bias=bias
        )
        for shape, input_grad, weight_grad, bias in (
            ((3, 5), True, True, True),
            ((3, 5), False, True, False),
            ((3, 2, 5), True, False, True),
            ((3, 2, 4, 5), False, False, False),
        )
    },
    **{
        f"attention {cross:d}{weights:d}{grad:d}": attention(
            cross=cross, need_weights=weights, input_grad=grad
        )
        for cross in YES_NO
        for weights in YES_NO
        for grad in YES_NO
    },
    **{f"fused attention {causal}": fused_attention(causal=causal) for causal in YES_NO},
    "RNN": recurrent(nn.RNN, 1),
    "GRU": recurrent(nn.GRU, 3),
    **{f"LSTM {d}x{n}": lstm(d, n) for d in (1, 2) for n in (1, 2)},
    **{f"system {n}x{k}": system(n, k) for n, k in ((1, 3), (2, 1), (5, 3), (5, 1))},
    "system of itself": system_of_itself(),
    "cholesky": cholesky(),
    "affine grid 2-D": affine_grid(5, 7),
    "affine grid 3-D": affine_grid(3, 5, 7),
    "autograd function": function(OwnProduct.apply, 2 * BATCH * 4 * 4, 2 * BATCH * 4 * 4),
    "einsum": function(lambda x: torch.einsum("ni,mi,mj->nj", x, x, x), 2 * 2 * BATCH * BATCH * 4),
    "tensordot": function(lambda x: torch.tensordot(x, torch.eye(4), dims=1), 2 * BATCH * 4 * 4),
    "matrix power": function(
        lambda x: x @ torch.linalg.matrix_power(torch.eye(4), 4), 2 * (BATCH + 2 * 4) * 4 * 4
    ),
    "multi_dot": function(lambda x: x + torch.linalg.multi_dot([x[0], x.T, x]), 2 * 2 * BATCH * 4),
    # A broadcast multiplication, and no matrix product.
    "outer": function(lambda x: x + torch.outer(x[0], x[0])[0], 0),
    "fft": function(lambda x: torch.fft.fft(x).real, 0),
}


@BOTH
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_its_closed_form(name, fake):
    row = LAYERS[name]
    cost = step_between(row.layer, row.shape, input_grad=row.input_grad, fake=fake)
    assert cost.forward_flops == row.forward
    assert row.backward in {None, cost.backward_flops}
    assert row.paper_forward in {None, cost.paper_forward_flops}
    # The layer's alone: scale and mean around it are elementwise.
    assert all(module.startswith("layer") for module in by_module(cost))


def test_a_layer_called_twice_counts_twice_and_a_tied_one_where_it_is_called():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(6, 6)
            self.second = nn.Linear(6, 6)
            self.second.weight = self.first.weight

        def forward(self, x):
            return self.second(self.first(self.first(x)))

    cost = step_between(Tied(), (3, 6), input_grad=False)
    once = 2 * 3 * 6 * 6
    # The very first call needs no input gradient.
    assert by_module(cost) == {
        "layer.first": (2 * once, 3 * once),
        "layer.second": (once, 2 * once),
    }
