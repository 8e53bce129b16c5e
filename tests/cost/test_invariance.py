"""What a profile must not depend on: values, order, threads, instruction set, hash seed."""

import dataclasses
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from network_zoo import adapted, digest, fake_cost, pairings, profiled, real_cost


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
    held = Counter()
    for category, module, _operator, size in cost.bytes_at_peak:
        held[category, re.sub(r"^classifier\..*", "classifier", module)] += size
    return dataclasses.replace(cost, bytes_at_peak=tuple(sorted(held.items())))


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
def test_profiles_in_a_row_are_the_same_whatever_the_weights_are(method):
    model = adapted("squeezenet1_1", method)
    costs = [profiled(model, "squeezenet1_1", method) for _ in range(2)]
    if method == "lora":
        torch.manual_seed(12345)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(float("nan"))
    assert costs[0] == costs[1] == profiled(model, "squeezenet1_1", method)
    # Nor does it matter which model object it is, or what was profiled in between.
    profiled(adapted("squeezenet1_1", "head"), "squeezenet1_1", "head")
    assert profiled(adapted("squeezenet1_1", method), "squeezenet1_1", method) == costs[0]


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
