"""One profile, at a batch of a prime, tells the cost at every batch."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from peft_regress import registry
from peft_regress.cases import split_adapter_name
from peft_regress.cost.profile import loss_of_images, random_images, record_training_step
from peft_regress.cost.step_cost import MANY
from peft_regress.measure.costs import CostSettings, adapted_model


def log_of(name, architecture, *, batch, resolution=64):
    method, rank = split_adapter_name(name)
    network = registry.get("architecture", architecture)
    chosen = registry.get("method", method).at(rank, heads=(network.head,))
    settings = CostSettings(batch=batch, resolution=resolution)
    return record_training_step(
        adapted_model(chosen, network, settings),
        chosen.make_optimizer,
        batch=random_images(settings.input_shape, 10, "cross-entropy", torch.float32),
        loss=loss_of_images(10),
    )


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("full", "shufflenet_v2_x0_5"),
        ("dora-r4", "resnet18"),
        ("galore-r4", "resnet18"),
        ("bn_head", "mobilenet_v3_small"),
    ],
)
def test_the_cost_at_any_batch_is_that_of_a_profile_there(name, architecture):
    """All of it: FLOPs by operator, bytes by module, the phase of the peak."""
    many = log_of(name, architecture, batch=MANY)
    for batch in (1, 8):
        assert many.at_batch(batch).cost() == log_of(name, architecture, batch=batch).cost()
    cost = many.at_batch(8).cost()
    room = many.at_batch(8).room
    assert room >= max(cost.peak_bytes, cost.first_step_peak_bytes)
    assert many.largest_batch(room) == 8
    assert many.largest_batch(room - 1) == 7
    assert many.largest_batch(cost.peak_param_bytes - 1) == 0


@pytest.mark.parametrize("fake", [True, False])
def test_the_room_counts_copies_of_images_in_blocks_of_16_channels(fake):
    """Of the second convolution: the first one's images have few channels, which are not copied."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1, bias=False).requires_grad_(False),
        nn.Conv2d(8, 24, 1, bias=False).requires_grad_(False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 10, bias=False),
    )
    log = record_training_step(
        model,
        lambda model: torch.optim.SGD(model[-1:].parameters(), lr=0.1, foreach=False),
        batch=random_images((2, 3, 10, 10), 10, "cross-entropy", torch.float32),
        loss=loss_of_images(10),
        fake=fake,
    )
    pixels = 2 * 10 * 10
    weights = 3 * 8 + 8 * 24 + 24 * 10
    alive = 4 * (weights + pixels * (3 + 8 + 24)) + 2 * 8  # with labels
    assert log.room == -(-10 * (alive + 4 * pixels * (16 + 32)) // 11)
    assert replace(log, copies={}).room == log.cost().peak_bytes


@pytest.mark.slow
@pytest.mark.parametrize("name", ["full", "lora-r4"])
def test_attention_grows_with_the_batch_alone(name):
    many = log_of(name, "vit_b_16", batch=MANY, resolution=224)
    assert many.at_batch(3).cost() == log_of(name, "vit_b_16", batch=3, resolution=224).cost()
