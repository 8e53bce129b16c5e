"""Any training step: batches of any shape, losses of one's own, models of any output."""

import collections
from collections import UserDict
from typing import NamedTuple

import pytest
import torch
import torchvision
from network_zoo import BOTH, adamw, sgd, step
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from peft_regress.cost import (
    NothingToTrainError,
    RandomTensor,
    profile_training_step,
    training_cost,
)
from peft_regress.cost.batches import leaves_of
from peft_regress.errors import InputError

BATCH, TOKENS, WORDS, WIDTH = 3, 5, 11, 4
FORWARD = 2 * BATCH * 6 * 2


def measured(batch, loss=lambda m, b: m(b).sum(), *, model=None, optimizer=sgd, **settings):
    model = nn.Linear(6, 2) if model is None else model
    return profile_training_step(model, optimizer, batch=batch, loss=loss, **settings)


def entropy(model, batch):
    return cross_entropy(model(batch[0]), batch[1])


def held(cost):
    """Return the bytes of the batch's tensors."""
    sites = cost.bytes_at_highs
    return [s.bytes for s in sites if s.category == "activation" and not s.operator]


# --- The same step as profile_step's --------------------------------------------------------------


@BOTH
def test_a_step_written_out_costs_what_the_classifier_s_step_costs(fake):
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    batch = torch.randn(BATCH, 6), torch.randint(2, (BATCH,))

    def loss(model, batch):
        x, y = batch
        logits = model(x)
        objective = cross_entropy(logits, y)
        objective.logits = logits  # alive until the end of the step, as there
        return objective

    cost = measured(batch, loss, model=model, optimizer=adamw, fake=fake)
    assert cost == step(model, (BATCH, 6), optimizer=adamw)
    assert cost.tensors == ("fake tensors" if fake else "real tensors")


# --- Batches --------------------------------------------------------------------------------------


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


class Encoding(UserDict[str, Tensor]):
    """As transformers' BatchEncoding: a mapping with attributes, and no dict."""

    def __getattr__(self, name):
        if name == "data":
            raise AttributeError
        return self.data[name]


BATCHES = {
    # kind: (makes the batch of x and y, takes them out of it)
    "tuple": (lambda x, y: (x, y), lambda b: b),
    "list": (lambda x, y: [x, [y]], lambda b: (b[0], b[1][0])),
    "named": (Pair, lambda b: (b.x, b.y)),
    "dict": (lambda x, y: {"x": x, "y": y}, lambda b: (b["x"], b["y"])),
    "ordered": (lambda x, y: collections.OrderedDict(x=x, y=y), lambda b: (b["x"], b["y"])),
    "mapping": (lambda x, y: Encoding(x=x, y=y), lambda b: (b.x, b["y"])),
    "nested": (
        lambda x, y: {"in": (x, "text", None), "y": [{"y": y}]},
        lambda b: (b["in"][0], b["y"][0]["y"]),
    ),
}  # fmt: skip


@BOTH
@pytest.mark.parametrize("kind", BATCHES)
def test_a_batch_may_be_any_tree_and_counts_as_activations(kind, fake):
    make, take = BATCHES[kind]
    batch = make(torch.randn(BATCH, 6), torch.randint(2, (BATCH,)))
    seen = []

    def loss(model, batch):
        seen.append(type(batch))
        x, y = take(batch)
        return cross_entropy(model(x), y)

    before = [tensor.clone() for tensor in leaves_of(batch)]
    cost = measured(batch, loss, fake=fake)
    assert set(seen) == {type(batch)}
    assert cost == measured(tuple(before), entropy)
    assert sum(held(cost)) == 4 * BATCH * 6 + 8 * BATCH
    assert all(torch.equal(a, b) for a, b in zip(leaves_of(batch), before, strict=True))


@BOTH
def test_a_tensor_that_a_batch_holds_twice_counts_once(fake):
    tokens = torch.randint(WORDS, (BATCH, TOKENS))
    model = Language()
    twice = measured(
        {"tokens": tokens, "labels": tokens},
        lambda m, b: next_word_loss(m(b["tokens"]), b["labels"]),
        model=model,
        fake=fake,
    )
    once = lambda m, b: next_word_loss(m(b), b)  # noqa: E731
    assert twice == measured(tokens, once, model=model, fake=fake)


@BOTH
def test_a_slice_of_all_data_counts_with_its_own_bytes(fake):
    data = torch.randn(1000, 6)
    cost = measured(data[:BATCH], fake=fake)
    assert cost.peak_activation_bytes < 4 * 100


@BOTH
def test_the_step_does_not_reach_back_to_what_made_the_batch(fake):
    source = torch.randn(BATCH, 6, requires_grad=True)
    leaf, made = source.detach().requires_grad_(), source * 2
    for batch in (leaf, made):
        cost = measured(batch, fake=fake)
        assert cost.backward_flops == 2 * FORWARD  # the weight's and the batch's
    assert source.grad is leaf.grad is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.int32, torch.bool, torch.complex64])
def test_a_random_tensor_in_a_batch_is_drawn_where_the_step_runs(dtype):
    found = []

    def loss(model, batch):
        found.append(batch)
        return (
            model.weight.sum() * batch.abs().sum().real if dtype.is_complex else model.weight.sum()
        )

    batch = [RandomTensor((2, 3), dtype)]
    for fake in (True, False):
        measured(batch, lambda m, b: loss(m, b[0]), model=nn.Linear(1, 1), fake=fake)
    assert {(tuple(t.shape), t.dtype) for t in found} == {((2, 3), dtype)}


# --- Losses ---------------------------------------------------------------------------------------


@BOTH
def test_tensors_in_the_closure_of_a_loss_are_used_and_count_as_buffers(fake):
    weights = torch.rand(2)
    batch = torch.randn(BATCH, 6), torch.randint(2, (BATCH,))
    loss = lambda m, b: cross_entropy(m(b[0]), b[1], weight=weights)  # noqa: E731
    cost = measured(batch, loss, fake=fake)
    assert cost.peak_buffer_bytes == 4 * 2


@BOTH
@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (lambda m, b: m(b), InputError, r"the loss of Linear must be a scalar.*\(3, 2\)"),
        (lambda m, b: None, InputError, "the loss of Linear must be a scalar tensor, not .*None"),
        (lambda m, b: b.sum(), NothingToTrainError, "the loss of Linear depends on no trainable"),
        (lambda m, b: m(b).argmax(), NothingToTrainError, "the loss of Linear depends on no"),
    ],
    ids=["matrix", "none", "constant", "integer"],
)
def test_a_loss_that_has_no_gradient_is_refused(loss, error, message, fake):
    with pytest.raises(error, match=message):
        measured(torch.randn(BATCH, 6), loss, fake=fake)


# --- Models ---------------------------------------------------------------------------------------


class Language(nn.Module):
    """Next words by one linear layer."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(WORDS, WIDTH)
        self.head = nn.Linear(WIDTH, WORDS)

    def forward(self, tokens):
        return self.head(self.embedding(tokens))


def next_word_loss(logits, tokens):
    return cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


class TwoHeads(nn.Module):
    """A detector in small: classes and boxes from one trunk, as keyword-only arguments ask."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.classes = nn.Conv2d(8, 5, 1)
        self.boxes = nn.Conv2d(8, 4, 1)

    def forward(self, *, image):
        hidden = self.drop(self.norm(self.trunk(image)).relu())
        return {"classes": self.classes(hidden), "boxes": (self.boxes(hidden),)}


@BOTH
def test_two_heads_with_a_loss_of_one_s_own_are_the_closed_form(fake):
    """In train mode; what the step does to BatchNorm's statistics is undone."""
    model = TwoHeads().train()
    batch = {
        "image": torch.randn(2, 3, 8, 8),
        "targets": [torch.randint(5, (2, 8, 8)), torch.randn(2, 4, 8, 8)],
    }
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def loss(model, batch):
        out = model(image=batch["image"])
        classes, boxes = batch["targets"]
        return cross_entropy(out["classes"], classes) + mse_loss(out["boxes"][0], boxes)

    cost = measured(batch, loss, model=model, fake=fake)
    positions = 2 * 8 * 8
    trunk, heads = 2 * positions * 3 * 9 * 8, 2 * positions * 8 * (5 + 4)
    assert cost.forward_flops == trunk + heads
    assert cost.backward_flops == trunk + 2 * heads  # the image needs no gradient
    assert {s.module for s in cost.flops_by_site if s.phase == "backward"} == {
        "trunk", "classes", "boxes",
    }  # fmt: skip
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert model.training


def test_a_detector_of_torchvision_is_measured_on_real_copies():
    """Its two stages pick boxes by value; to pick and to pool is no matrix work."""
    torch.manual_seed(0)
    detector = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=3, min_size=64, max_size=64
    )
    targets = [{"boxes": torch.tensor([[1.0, 1, 30, 30]]), "labels": torch.tensor([1])}] * 2

    def loss(model, batch):
        return sum(model(*batch).values())

    cost = training_cost(detector, ([torch.randn(3, 64, 64)] * 2, targets), loss=loss)
    assert cost.step.tensors == "real tensors"
    kinds = {site.operator for site in cost.step.flops_by_site if site.phase == "forward"}
    assert kinds == {"aten.convolution", "aten.addmm"}
