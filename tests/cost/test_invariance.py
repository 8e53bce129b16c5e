"""What a profile must not depend on: values, order, threads, instruction set, hash seed."""

import dataclasses
import gc
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from network_zoo import (
    CLASSES,
    adamw,
    adapted,
    digest,
    fake_cost,
    pairings,
    profiled,
    real_cost,
    step,
)
from tiny_network import tiny_network
from torch import nn

from peft_regress import registry


@pytest.mark.parametrize(("name", "method"), pairings("real steps"))
def test_fake_equals_real_to_the_byte_and_the_integer(name, method):
    fake, real = fake_cost(name, method), real_cost(name, method)
    if name == "efficientnet_b0" and method != "head":
        # It drops in place out of a flattened view, see below.
        fake, real = (_with_one_classifier(cost) for cost in (fake, real))
        assert real.aten_ops - fake.aten_ops in {0, 2}
        real = dataclasses.replace(real, aten_ops=fake.aten_ops)
    assert fake == real


def _with_one_classifier(cost):
    """Add up what the two layers of the classifier hold at the peak."""
    held: Counter[tuple[str, str]] = Counter()
    for category, module, _operator, size in cost.bytes_at_peak:
        held[category, re.sub(r"^classifier\..*", "classifier", module)] += size
    return dataclasses.replace(cost, bytes_at_peak=tuple(sorted(held.items())))


class InPlaceOnView(nn.Module):
    """On real tensors, autograd takes the view anew by as_strided; on fake ones it replays it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.fc = nn.Linear(8 * 4 * 4, CLASSES)

    def forward(self, x):
        return self.fc(self.conv(x).flatten(1).relu_())


class TransposedNorm(nn.Module):
    """Of a gradient that lies otherwise, the CPU's layer norm makes a contiguous one at once.

    The fake kernel keeps the strides, so that a copy follows.
    """

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 8)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x):
        y = self.norm(self.fc(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        return self.head(nn.functional.adaptive_avg_pool2d(y, 1).flatten(1))


@pytest.mark.parametrize(("network", "more_ops"), [(InPlaceOnView, 2), (TransposedNorm, -1)])
def test_where_torch_runs_other_operators_on_fake_tensors(network, more_ops):
    """The two places known: no FLOP and no high of memory differs."""
    model = network()
    fake, real = (
        step(model, (2, 3, 4, 4), classes=CLASSES, optimizer=adamw, fake=fake)
        for fake in (True, False)
    )
    assert real.aten_ops - fake.aten_ops in {0, more_ops}
    assert dataclasses.replace(real, aten_ops=fake.aten_ops) == fake


@pytest.mark.parametrize("method", ["dora", "galore"])
@pytest.mark.parametrize(
    "name",
    [
        "squeezenet1_1",
        pytest.param("mobilenet_v3_small", marks=pytest.mark.slow),
        pytest.param("resnet18", marks=pytest.mark.slow),
        pytest.param("mobilenet_v2", marks=pytest.mark.nightly),
        pytest.param("shufflenet_v2_x0_5", marks=pytest.mark.nightly),
    ],
)
def test_fake_equals_real_for_the_package_s_other_methods(name, method):
    model = adapted(name, method).eval()
    fake, real = (profiled(model, name, method, fake=fake) for fake in (True, False))
    assert fake == real
    assert (fake.projection_flops > 0) == (method == "galore")


@pytest.mark.parametrize(
    "method", ["lora", *(pytest.param(m, marks=pytest.mark.slow) for m in ("dora", "galore"))]
)
def test_three_profiles_in_a_row_are_the_same(method):
    model = adapted("squeezenet1_1", method)
    costs = [profiled(model, "squeezenet1_1", method) for _ in range(3)]
    assert costs[0] == costs[1] == costs[2]
    # Nor does it matter which model object it is, or what was profiled in between.
    profiled(adapted("squeezenet1_1", "head"), "squeezenet1_1", "head")
    assert profiled(adapted("squeezenet1_1", method), "squeezenet1_1", method) == costs[0]


def test_weights_and_random_state_do_not_matter():
    model = adapted("squeezenet1_1", "full")
    costs = [profiled(model, "squeezenet1_1", "full")]
    torch.manual_seed(12345)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    costs += [profiled(model, "squeezenet1_1", "full", fake=fake) for fake in (True, False)]
    assert costs[0] == costs[1] == costs[2]


SCRIPT = """
import torch
torch.set_num_threads({threads})
from network_zoo import digest, fake_cost, real_cost
print(digest(fake_cost("squeezenet1_1", "lora")))
print(digest(fake_cost("mobilenet_v3_small", "full")))
print(digest(real_cost("squeezenet1_1", "full")))
"""
VARIANTS = {
    "one-thread-no-vectors": (1, {"ATEN_CPU_CAPABILITY": "default", "PYTHONHASHSEED": "0"}),
    "two-threads-avx2": (2, {"ATEN_CPU_CAPABILITY": "avx2", "PYTHONHASHSEED": "1"}),
    "two-threads-as-the-machine-has-it": (2, {"PYTHONHASHSEED": "12345"}),
}


@pytest.mark.parametrize(
    "variant",
    [
        pytest.param(
            name, marks=pytest.mark.slow if name == "two-threads-avx2" else pytest.mark.nightly
        )
        for name in VARIANTS
    ],
)
def test_threads_instruction_set_and_hash_seed_do_not_matter(variant):
    """A process of its own for each; whole profiles, on fake tensors and on real ones."""
    threads, variables = VARIANTS[variant]
    environment = {n: v for n, v in os.environ.items() if n != "ATEN_CPU_CAPABILITY"} | variables
    script = SCRIPT.format(threads=threads)
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment | {"PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [
        digest(fake_cost("squeezenet1_1", "lora")),
        digest(fake_cost("mobilenet_v3_small", "full")),
        digest(fake_cost("squeezenet1_1", "full")),
    ]


@pytest.mark.nightly
def test_two_hundred_profiles_of_adapted_networks_leave_nothing_behind():
    lora = registry.get("method", "lora")

    def profile():
        model = lora.adapt(tiny_network(), heads=("head",), rank=4, seed=0)
        step(
            model,
            (2, 3, 12, 12),
            classes=4,
            optimizer=lambda stand_in: lora.make_optimizer(stand_in, rank=4),
        )

    def alive():
        gc.collect()
        return len(gc.get_objects()), _resident_bytes()

    for _ in range(20):  # until every cache of torch and peft is full
        profile()
    objects_before, bytes_before = alive()
    for _ in range(200):
        profile()
    objects, resident_bytes = alive()
    assert objects - objects_before < 100
    assert resident_bytes - bytes_before < 2**20


def _resident_bytes():
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except FileNotFoundError:
        return 0  # not Linux: the objects are counted all the same
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
