"""Tensors that are not a model's plain ones: in closures, in subclasses, of other layouts."""

import dataclasses

import pytest
import torch
from network_zoo import BOTH, adamw, step
from network_zoo import with_function as of_width
from packaging.version import Version
from torch import Tensor, nn
from torch.testing._internal.two_tensor import TwoTensor

from peft_regress.cost import UnprofilableModelError

TORCH = Version(torch.__version__).release
BATCH, WIDTH = 3, 64
LAYERS = 2 * BATCH * (WIDTH * WIDTH + WIDTH * 2)


def with_function(function):
    return of_width(function, width=WIDTH)


def cost_of(model, *, fake):
    return step(model, (BATCH, WIDTH), optimizer=adamw, fake=fake)


def same_cost(make):
    """Return the cost on fake tensors, which has to be that on real ones."""
    cost = cost_of(make(), fake=True)
    assert cost == cost_of(make(), fake=False)
    return cost


@pytest.mark.parametrize("times", [1, 2])
def test_a_constant_in_a_closure_is_held_all_along_as_a_buffer_of_the_module(times):
    constant = torch.ones(WIDTH, WIDTH)

    def apply(x):
        for _ in range(times):
            x = nn.functional.linear(x, constant)
        return x

    cost = same_cost(lambda: with_function(apply))
    size = 4 * WIDTH * WIDTH
    assert cost.peak_buffer_bytes == size
    assert [(s.module, s.bytes) for s in cost.bytes_at_peak if s.category == "buffer"] == [
        ("1", size)
    ]
    assert cost.forward_flops == LAYERS + times * 2 * BATCH * WIDTH * WIDTH


class Factors(Tensor):
    """A matrix kept as its factors, multiplied whenever it is used."""

    @staticmethod
    def __new__(cls, u, v):
        return Tensor._make_wrapper_subclass(cls, (u.shape[0], v.shape[1]), dtype=u.dtype)

    def __init__(self, u, v):
        self.u, self.v = u, v

    @classmethod
    def __torch_dispatch__(cls, func, _types, args=(), kwargs=None):
        args = [a.u @ a.v if isinstance(a, Factors) else a for a in args]
        return func(*args, **(kwargs or {}))

    def __tensor_flatten__(self):
        return ["u", "v"], None

    @staticmethod
    def __tensor_unflatten__(parts, _context, _size, _stride):
        return Factors(parts["u"], parts["v"])


RANK = 8
PRODUCT = 2 * WIDTH * RANK * WIDTH


class Factored(nn.Module):
    def __init__(self):
        super().__init__()
        self.matrix = Factors(torch.ones(WIDTH, RANK), torch.ones(RANK, WIDTH))

    def forward(self, x):
        return x * (self.matrix * 2.0).sum()


def test_the_parts_of_a_subclass_are_replaced_and_held_and_its_products_counted():
    def make():
        model = with_function(lambda x: x)
        model[1] = Factored()
        return model

    cost = same_cost(make)
    assert cost.forward_flops == LAYERS + PRODUCT
    assert cost.peak_buffer_bytes == 4 * 2 * WIDTH * RANK


def test_a_parameter_of_two_tensors_costs_twice():
    def make(width):
        model = nn.Linear(WIDTH, 2, bias=False)
        parts = [torch.ones(2, WIDTH) for _ in range(width)]
        model.weight = nn.Parameter(TwoTensor(*parts) if width > 1 else parts[0])
        return model

    plain, double = same_cost(lambda: make(1)), same_cost(lambda: make(2))
    for name in ("forward_flops", "backward_flops", "peak_param_bytes", "peak_grad_bytes"):
        assert getattr(double, name) == 2 * getattr(plain, name), name


@BOTH
def test_an_operator_that_runs_functions_is_refused_by_name(fake):
    def apply(x):
        return torch.cond(torch.tensor(data=True), lambda a: a @ a.T @ a, lambda a: a, (x,))

    named = r"cond, reached in the forward .* module '1'"
    if TORCH < (2, 9):
        # Another operator of `torch.cond` comes first, or torch itself refuses it.
        named = r"reached in the forward .* module '1'|HOP cond"
    with pytest.raises((UnprofilableModelError, NotImplementedError), match=named):
        cost_of(with_function(apply), fake=fake)


def half(x):
    return x.bfloat16(), torch.ones(WIDTH), torch.zeros(WIDTH)


def batch_norm(x):
    y, one, zero = half(x)
    return nn.functional.batch_norm(y, zero, one, one, zero, training=True).float()


def layer_norm(x):
    y, one, zero = half(x)
    return nn.functional.layer_norm(y, (WIDTH,), one, zero).float()


def image(x):
    return x.view(BATCH, 1, 8, 8)


def group_norm(x):
    return nn.functional.group_norm(x.bfloat16(), 16, torch.ones(WIDTH)).float()


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + nn.functional.unfold(image(x), 3).sum(),
        lambda x: x + nn.functional.unfold(image(x), 2, stride=4).sum(),
        lambda x: x + nn.functional.fold(nn.functional.unfold(image(x), 3), 8, 3).sum(),
        batch_norm,
        layer_norm,
        group_norm,
    ],
    ids=["unfold", "few", "fold", "batch_norm", "layer_norm", "group_norm"],
)
def test_a_storage_is_as_large_as_the_real_one(function):
    """Of statistics, too, which are kept in float32 beside numbers of half precision."""
    fake, real = (cost_of(with_function(function), fake=fake) for fake in (True, False))
    if function is group_norm:  # torch runs another operator on fake tensors
        fake = dataclasses.replace(fake, aten_ops=real.aten_ops)
    assert fake == real
