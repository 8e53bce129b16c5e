"""What torch itself computes wrongly is no finding about an adapter, and is not drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from msgspec.structs import replace
from torch import nn

from peft_regress.fuzz import example as e
from peft_regress.fuzz import networks
from peft_regress.fuzz.checks import AbsentError
from peft_regress.fuzz.draw.networks import networks as drawn_networks
from peft_regress.fuzz.draw.networks import runs
from peft_regress.fuzz.run import run

if TYPE_CHECKING:
    from pathlib import Path

# pytorch/pytorch#169688: 4 + 2 - 5 positions, by twos: one.
ONE_POSITION = e.Layer(
    name="conv", kind="conv2d", inputs=2, outputs=4, kernel=(3, 5), stride=(1, 2), padding=(0, 1),
    groups=2,
)  # fmt: skip


def network(layer: e.Layer = ONE_POSITION, **fields: Any) -> e.Network:
    return e.Network(layers=(layer,), **{"sizes": (4, 4), "dtype": "bfloat16", **fields})


def lora(of: e.Network, *acts: e.Act) -> e.Example:
    adapter = e.Adapter(name="default", settings={"target_modules": ["conv"], "r": 2})
    return e.Example(network=of, method="lora", adapters=(adapter,), acts=acts)


@pytest.mark.parametrize("channels_last", [False, True])
def test_one_position_in_bfloat16_is_left_out(channels_last: bool, tmp_path: Path) -> None:
    outcome = run(lora(network(channels_last=channels_last)), tmp_path)
    assert outcome.absent is not None
    assert "pytorch/pytorch#169688" in outcome.absent
    assert not runs(network(channels_last=channels_last))


@pytest.mark.parametrize(
    "other",
    [
        network(dtype="float32"),
        network(sizes=(4, 5)),  # two positions
        network(replace(ONE_POSITION, stride=(2, 1)), sizes=(4, 3)),  # by ones
    ],
)
def test_other_networks_stay(other: e.Network, tmp_path: Path) -> None:
    assert runs(other)
    assert run(lora(other), tmp_path).absent is None


def test_a_model_that_becomes_such_a_network_is_left_out(tmp_path: Path) -> None:
    life = lora(network(dtype="float32"), e.Convert(dtype="bfloat16"))
    outcome = run(life, tmp_path)
    assert outcome.absent is not None
    assert "pytorch/pytorch#169688" in outcome.absent


def test_a_base_that_torch_computes_wrongly_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = nn.Conv2d.forward

    def off_in_half_precision(self: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        return right(self, x) * (2 if x.dtype is torch.bfloat16 else 1)

    plain = network(replace(ONE_POSITION, stride=()))
    assert run(lora(plain), tmp_path).absent is None
    monkeypatch.setattr(nn.Conv2d, "forward", off_in_half_precision)
    outcome = run(lora(plain), tmp_path)
    assert outcome.failure is None
    assert outcome.absent is not None
    assert "torch computes the network in torch.bfloat16 with an error of" in outcome.absent


def test_the_hooks_are_gone_afterwards() -> None:
    built = networks.build(network())
    with pytest.raises(AbsentError):
        networks.base_output(built, networks.make_input(network()))
    assert not any(module._forward_hooks for module in built.modules())


@given(drawn_networks(("conv1d", "conv2d", "conv3d")))
@settings(max_examples=200, deadline=None)
def test_a_kernel_of_one_weight_is_not_dilated(drawn: e.Network) -> None:
    """uxlfoundation/oneDNN#5942: it can end the process."""
    for layer in drawn.layers:
        dilation = layer.dilation or (1,) * len(layer.kernel)
        assert all(
            step == 1 or width > 1 for step, width in zip(dilation, layer.kernel, strict=True)
        )


def test_an_example_with_such_a_kernel_is_left_out(tmp_path: Path) -> None:
    one = e.Layer(
        name="conv", kind="conv2d", inputs=2, outputs=2, kernel=(3, 1), dilation=(2, 2),
        padding=(1, 1),
    )  # fmt: skip
    outcome = run(lora(network(one, sizes=(6, 6), dtype="float32")), tmp_path)
    assert outcome.absent is not None
    assert "uxlfoundation/oneDNN#5942" in outcome.absent
