"""One profile, at a batch of a prime, tells the cost at every batch."""

import pytest
import torch

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
    room = max(cost.peak_bytes, cost.first_step_peak_bytes)
    assert many.largest_batch(room) == 8
    assert many.largest_batch(room - 1) == 7
    assert many.largest_batch(cost.peak_param_bytes - 1) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["full", "lora-r4"])
def test_attention_grows_with_the_batch_alone(name):
    many = log_of(name, "vit_b_16", batch=MANY, resolution=224)
    assert many.at_batch(3).cost() == log_of(name, "vit_b_16", batch=3, resolution=224).cost()
