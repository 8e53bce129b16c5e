"""What a step saves for its backward pass although no gradient needs it."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from peft_regress.cost import RandomTensor, training_cost

FLOATS = 2 * 4 * 6 * 6
"""Of an activation; a float takes 4 bytes."""


class Network(nn.Module):
    """A convolution that trains, and frozen layers that `rest` calls."""

    def __init__(self, rest):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4).eval()
        self.depthwise = nn.Conv2d(4, 4, 1, groups=4)
        self.last = nn.Conv2d(4, 4, 1)
        for layer in (self.norm, self.depthwise):
            layer.requires_grad_(False)
        self.rest = rest

    def forward(self, x):
        return self.rest(self, self.first(x))


def step_of(rest):
    return training_cost(Network(rest), RandomTensor((2, 3, 6, 6))).step


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        # The input of the norm; its output is none that an operator saves.
        (lambda net, x: net.norm(x), {("norm", "BatchNorm"): 4 * FLOATS}),
        # A function in place of a module; in place it saves a copy.
        (lambda _net, x: functional.relu6(x), {("", "ReLU6"): 3 * FLOATS}),
        (lambda _net, x: functional.relu6(x, inplace=True), {("", "ReLU6"): 3 * FLOATS}),
        # What two save counts once, with the mask that one of them needs.
        (lambda net, x: net.depthwise(functional.relu(x)), {("", "ReLU"): 3 * FLOATS}),
        # A gradient needs the output of the activation, and of the norm nothing.
        (lambda net, x: net.last(net.norm(x).relu()), {("norm", "BatchNorm"): 4 * FLOATS}),
        (lambda _net, x: functional.max_pool2d(x, 1), {("", "max pooling"): 8 * FLOATS}),
        (lambda net, x: net.norm.train()(x), {}),
        (lambda net, x: net.last(x), {}),
        (lambda _net, x: functional.silu(x), {}),
    ],
)  # fmt: skip
def test_what_no_gradient_needs_is_known_by_module_and_operator(rest, expected):
    found = {site[1:3]: site.bytes for site in step_of(rest).spared_at_peak}
    assert found == expected


def test_the_peak_without_it_is_attainable():
    def rest(net, x):
        for _ in range(5):
            x = functional.relu6(net.depthwise(net.norm(x)))
        return x

    step = step_of(rest)
    spared = sum(site.bytes for site in step.spared_at_peak)
    # In the forward pass an operator has its input and output at once.
    assert step.peak_bytes - spared <= step.attainable_bytes < step.peak_bytes - spared + 8 * FLOATS
    needed = step_of(lambda net, x: net.last(x))
    assert needed.attainable_bytes == needed.peak_bytes


def test_what_the_training_loop_holds_is_not_spared():
    held = []

    def rest(net, x):
        held[:] = [x]
        return net.norm(x)

    assert not step_of(rest).spared_at_peak


def test_real_and_fake_tensors_tell_the_same():
    network = Network(lambda net, x: net.depthwise(functional.relu6(net.norm(x), inplace=True)))
    fake, real = (
        training_cost(network, torch.zeros(2, 3, 6, 6), fake=fake).step for fake in (True, False)
    )
    assert fake == real
    assert fake.spared_at_peak
