"""oneDNN's own defects are no findings about adapters: lives are computed without it."""

from __future__ import annotations

import json

import msgspec
import pytest
import torch

from peft_fuzz.example import Example
from peft_fuzz.networks import build
from peft_fuzz.run import run

LAYERS = {
    # With torch 2.13 on a CPU with AVX512-BF16: memory instead of an output, a gradient of 1e33,
    # and the end of the process.
    "pytorch#169688": ("conv2d", [4, 4], {"inputs": 2, "outputs": 4, "kernel": [3, 5],
                       "stride": [1, 2], "padding": [0, 1], "groups": 2}),
    "gradient": ("conv3d", [1, 5, 4], {"inputs": 8, "outputs": 16, "kernel": [2, 2, 2],
                 "padding": [1, 1, 1]}),
    "oneDNN#5942": ("conv2d", [3, 1], {"inputs": 6, "outputs": 4, "kernel": [3, 1],
                    "stride": [2, 3], "padding": [0, 2], "dilation": [1, 2], "groups": 2}),
}  # fmt: skip


def example(name):
    kind, sizes, fields = LAYERS[name]
    content = {
        "network": {
            "layers": [{"name": "layer0", "kind": kind, **fields}],
            "sizes": sizes,
            "dtype": "bfloat16",
            "channels_last": kind == "conv2d",
        },
        "method": "lora",
        "adapters": [{"name": "default", "settings": {"target_modules": ["layer0"], "r": 2}}],
        "acts": [{"act": "fill"}, {"act": "train"}],
    }
    return msgspec.json.decode(json.dumps(content).encode(), type=Example)


@pytest.mark.parametrize("name", LAYERS)
def test_a_network_that_onednn_gets_wrong_is_sound(name, tmp_path):
    outcome = run(example(name), tmp_path)
    assert (outcome.failure, outcome.absent) == (None, None)


@pytest.mark.parametrize("name", LAYERS)
def test_drawing_and_shrinking_compute_without_it(name, monkeypatch):
    on = []
    monkeypatch.setattr(
        build.Sequence, "forward", lambda _, x: on.append(torch.backends.mkldnn.enabled)
    )
    build.runs(example(name).network)
    assert on == [False]


def test_it_is_on_again_afterwards(tmp_path):
    assert torch.backends.mkldnn.enabled
    run(example("gradient"), tmp_path)
    assert torch.backends.mkldnn.enabled
