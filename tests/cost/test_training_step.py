"""Any training step: batches of any shape, losses of one's own, models of any output."""

import collections
from collections import UserDict
from typing import NamedTuple

import pytest
import torch
from network_zoo import BOTH, adamw, sgd, step
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from peft_regress.cost import NothingToTrainError, RandomTensor, profile_training_step
from peft_regress.cost.batches import leaves_of
from peft_regress.errors import InputError

BATCH = 3
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
    x = torch.randn(BATCH, 6)
    twice = measured({"x": x, "y": x}, lambda m, b: (m(b["x"]) * b["y"][:, :2]).sum(), fake=fake)
    assert twice == measured(x, lambda m, b: (m(b) * b[:, :2]).sum(), fake=fake)


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
