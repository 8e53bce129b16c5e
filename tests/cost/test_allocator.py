"""Memory against the CPU allocator's own events on real steps, to the byte.

The profiler shows what the recorder cannot see: buffers that an operator frees before it
returns (oneDNN's copies of images and weights in its own layout), and Python numbers that autograd
keeps as tensors of 8 bytes. Without those, nothing may differ.
"""

import copy

import memory_check
import pytest
from memory_check import allocator_peak
from network_zoo import (
    CLASSES,
    NETWORKS,
    Between,
    adamw,
    adapted,
    fake_cost,
    pairings,
    real_step,
    step,
)
from torch import nn

NUMBER = 8


def allocator_peak_of(make_model, shape):
    return allocator_peak(lambda: real_step(make_model(), shape).run)


def assert_same_except_for_what_no_recorder_sees(cost, allocator):
    assert allocator.tensor_peak_bytes == cost.peak_bytes
    # So the recorder misses at most an operator's own buffers, and never counts too much.
    assert cost.peak_bytes <= allocator.peak_bytes
    unseen = sum(allocator.own_bytes.values()) + allocator.number_bytes
    assert allocator.peak_bytes <= cost.peak_bytes + unseen
    assert allocator.number_bytes < 1000 * NUMBER


@pytest.mark.parametrize(("name", "method"), pairings("the allocator"))
def test_a_network_s_peak_is_the_allocator_s(name, method):
    cost = fake_cost(name, method)  # first: to import peft allocates a few tensors as well
    allocator = allocator_peak_of(lambda: adapted(name, method), NETWORKS[name].shape)
    assert_same_except_for_what_no_recorder_sees(cost, allocator)


LAYERS = {
    "normalizations": [
        nn.BatchNorm2d(8),
        nn.LayerNorm((8, 6, 6)),
        nn.GroupNorm(2, 8),
        nn.InstanceNorm2d(8, affine=True),
        nn.LocalResponseNorm(3),
    ],
    "pointwise": [
        nn.PReLU(8),
        nn.ReLU(inplace=True),
        nn.SiLU(),
        nn.SiLU(inplace=True),
        nn.Mish(),
        nn.Hardswish(),
        nn.Hardsigmoid(inplace=True),
        nn.GELU(),
        nn.GELU(approximate="tanh"),
        nn.Softmax(dim=1),
        nn.Dropout(0.5),
        nn.Dropout2d(0.5),
        nn.PixelShuffle(2),
    ],
    "sizes": [
        nn.Upsample(scale_factor=2, mode="nearest"),
        nn.AvgPool2d(2),
        nn.MaxPool2d(3, stride=2),
        nn.AdaptiveMaxPool2d(2),
        nn.Upsample(scale_factor=2, mode="nearest-exact"),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.ChannelShuffle(2),
        nn.ConstantPad2d(2, 1.0),
        nn.ReflectionPad2d(2),
        nn.Conv2d(8, 8, 3, groups=4, padding="same", padding_mode="circular"),
        nn.ConvTranspose2d(8, 6, 3, stride=2, output_padding=1),
    ],
}


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_s_peak_is_the_allocator_s_and_its_products_are_of_convolutions_alone(kind):
    """In a row, layers keep what each of them saves."""
    shape = (16, 8, 6, 6)

    def make_model():
        return Between(nn.Sequential(*copy.deepcopy(LAYERS[kind])))

    cost = step(make_model(), shape, classes=CLASSES, optimizer=adamw)
    assert cost.peak_phase != "optimizer"
    operators = {s.operator for s in cost.flops_by_site if s.phase != "optimizer"}
    convolutions = {"aten.convolution", "aten.convolution_backward"}
    assert operators == (convolutions if kind == "sizes" else set())
    assert_same_except_for_what_no_recorder_sees(cost, allocator_peak_of(make_model, shape))


class Lstm(nn.Module):
    """Two layers in both directions: their workspaces are most of what is kept."""

    def __init__(self):
        super().__init__()
        self.layer = nn.LSTM(8, 20, num_layers=2, bidirectional=True, batch_first=True)

    def forward(self, x):
        return self.layer(x)[0]


def test_what_a_layer_keeps_beside_its_results_counts():
    def make_model():
        return Between(Lstm())

    shape = (16, 5, 8)
    cost = step(make_model(), shape, classes=CLASSES, optimizer=adamw)
    assert_same_except_for_what_no_recorder_sees(cost, allocator_peak_of(make_model, shape))


@pytest.mark.nightly
def test_the_tool_s_table_is_of_the_networks_tested_here(monkeypatch, capsys):
    assert tuple(NETWORKS) == memory_check.ARCHITECTURES
    monkeypatch.setattr(memory_check, "ARCHITECTURES", ("squeezenet1_1",))
    memory_check.main()
    columns, _, squeezenet = capsys.readouterr().out.splitlines()
    assert columns == "| architecture | full | head | lora-r4 |"
    name, *cells = squeezenet.strip("| ").split(" | ")
    assert name == "squeezenet1_1"
    assert all(-15 < float(cell.removesuffix(" %")) <= 0 for cell in cells)
