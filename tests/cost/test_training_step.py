"""Any training step: batches of any shape, losses of one's own, models of any output."""

from __future__ import annotations

import collections
from collections import UserDict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch
import torchvision
from memory_check import allocator_peak
from network_zoo import adamw, sgd
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import cross_entropy, mse_loss

from peft_regress.cost import (
    NeedsValuesError,
    NothingToTrainError,
    RandomTensor,
    StepCost,
    profile_step,
    profile_training_step,
    training_cost,
)
from peft_regress.cost.batches import leaves_of, map_batch
from peft_regress.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

torch.set_num_threads(1)

BOTH = pytest.mark.parametrize("fake", [True, False])
BATCH, TOKENS, WORDS, WIDTH = 3, 5, 11, 4


# --- The same step as profile_step's --------------------------------------------------------------


@BOTH
def test_a_step_written_out_costs_what_the_classifier_s_step_costs(fake: bool) -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    batch = torch.randn(BATCH, 6), torch.randint(2, (BATCH,))

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        logits = model(x)
        objective = cross_entropy(logits, y)
        objective.logits = logits  # alive until the end of the step, as there
        return objective

    cost = profile_training_step(model, adamw, batch=batch, loss=loss, fake=fake)
    assert cost == profile_step(model, adamw, input_shape=(BATCH, 6), num_classes=2)
    assert cost.tensors == ("fake tensors" if fake else "real tensors")


# --- Batches --------------------------------------------------------------------------------------


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class Record:
    x: Tensor
    y: Tensor


class Encoding(UserDict[str, Tensor]):
    """As transformers' BatchEncoding: a mapping with attributes, and no dict."""

    def __getattr__(self, name: str) -> Tensor:
        if name == "data":
            raise AttributeError
        return self.data[name]


BATCHES: dict[str, Any] = {
    # kind: (makes the batch of x and y, takes them out of it)
    "tuple": (lambda x, y: (x, y), lambda b: b),
    "list": (lambda x, y: [x, [y]], lambda b: (b[0], b[1][0])),
    "named": (Pair, lambda b: (b.x, b.y)),
    "dict": (lambda x, y: {"x": x, "y": y}, lambda b: (b["x"], b["y"])),
    "ordered": (lambda x, y: collections.OrderedDict(x=x, y=y), lambda b: (b["x"], b["y"])),
    "mapping": (lambda x, y: Encoding(x=x, y=y), lambda b: (b.x, b["y"])),
    "dataclass": (Record, lambda b: (b.x, b.y)),
    "queue": (lambda x, y: deque([x, y]), tuple),
    "nested": (
        lambda x, y: {"in": (x, "text", None), "y": [{"y": y}]},
        lambda b: (b["in"][0], b["y"][0]["y"]),
    ),
}  # fmt: skip


@BOTH
@pytest.mark.parametrize("kind", BATCHES)
def test_a_batch_may_be_any_tree_and_counts_as_activations(kind: str, fake: bool) -> None:
    make, take = BATCHES[kind]
    model = nn.Linear(6, 2)
    batch = make(torch.randn(BATCH, 6), torch.randint(2, (BATCH,)))
    seen: list[Any] = []

    def loss(model: nn.Module, batch: Any) -> Tensor:
        seen.append(type(batch))
        x, y = take(batch)
        return cross_entropy(model(x), y)

    before = [tensor.clone() for tensor in leaves_of(batch)]
    cost = profile_training_step(model, sgd, batch=batch, loss=loss, fake=fake)
    assert set(seen) == {type(batch)}
    plain = profile_training_step(
        model, sgd, batch=tuple(before), loss=lambda m, b: cross_entropy(m(b[0]), b[1])
    )
    assert cost == plain
    held = sum(
        s.bytes for s in cost.bytes_at_highs if s.category == "activation" and not s.operator
    )
    assert held == 4 * BATCH * 6 + 8 * BATCH
    assert all(torch.equal(a, b) for a, b in zip(leaves_of(batch), before, strict=True))


@BOTH
def test_a_tensor_that_a_batch_holds_twice_counts_once(fake: bool) -> None:
    tokens = torch.randint(WORDS, (BATCH, TOKENS))
    model = Language()
    once = profile_training_step(
        model, sgd, batch=tokens, loss=lambda m, b: next_word_loss(m(b), b), fake=fake
    )
    twice = profile_training_step(
        model,
        sgd,
        batch={"tokens": tokens, "labels": tokens},
        loss=lambda m, b: next_word_loss(m(b["tokens"]), b["labels"]),
        fake=fake,
    )
    assert twice == once


@BOTH
def test_a_slice_of_all_data_counts_with_its_own_bytes(fake: bool) -> None:
    data = torch.randn(1000, 6)
    cost = profile_training_step(
        nn.Linear(6, 2), sgd, batch=data[:BATCH], loss=lambda m, b: m(b).sum(), fake=fake
    )
    assert cost.peak_activation_bytes < 4 * 100


@BOTH
def test_views_that_together_use_a_storage_share_it(fake: bool) -> None:
    tokens = torch.randint(WORDS, (BATCH, TOKENS + 1))
    cost = profile_training_step(
        nn.Embedding(WORDS, 2),
        sgd,
        batch=(tokens[:, :-1], tokens[:, 1:]),
        loss=lambda m, b: m(b[0]).sum() + b[1].sum(),
        fake=fake,
    )
    held = [s.bytes for s in cost.bytes_at_highs if s.category == "activation" and not s.operator]
    assert held == [8 * BATCH * (TOKENS + 1)]


@BOTH
def test_the_step_does_not_reach_back_to_what_made_the_batch(fake: bool) -> None:
    source = torch.randn(BATCH, 6, requires_grad=True)
    leaf, made = source.detach().requires_grad_(), source * 2
    for batch in (leaf, made):
        cost = profile_training_step(
            nn.Linear(6, 2), sgd, batch=batch, loss=lambda m, b: m(b).sum(), fake=fake
        )
        assert cost.backward_flops == 2 * 2 * BATCH * 6 * 2  # the weight's and the batch's
    assert source.grad is leaf.grad is None


@BOTH
def test_a_batch_that_was_made_in_inference_mode_trains(fake: bool) -> None:
    with torch.inference_mode():
        batch = torch.randn(BATCH, 6)
    cost = profile_training_step(
        nn.Linear(6, 2), sgd, batch=batch, loss=lambda m, b: m(b).sum(), fake=fake
    )
    assert cost.forward_flops == 2 * BATCH * 6 * 2


@BOTH
def test_a_sparse_batch_is_refused(fake: bool) -> None:
    batch = torch.eye(6).to_sparse()
    with pytest.raises(InputError, match=r"a tensor of \(6, 6\) that has the layout torch.sparse"):
        profile_training_step(
            nn.Linear(6, 2), sgd, batch=batch, loss=lambda m, b: m(b).sum(), fake=fake
        )


def test_a_fake_batch_takes_a_fake_step_alone() -> None:
    with FakeTensorMode():
        batch = torch.randn(BATCH, 6)

    def measure(*, fake: bool) -> StepCost:
        return profile_training_step(
            nn.Linear(6, 2), sgd, batch=batch, loss=lambda m, b: m(b).sum(), fake=fake
        )

    assert measure(fake=True).forward_flops == 2 * BATCH * 6 * 2
    with pytest.raises(InputError, match=r"the batch has a fake tensor.*measure with fake=True"):
        measure(fake=False)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int32, torch.bool, torch.complex64])
def test_a_random_tensor_in_a_batch_is_drawn_where_the_step_runs(dtype: torch.dtype) -> None:
    found: list[Tensor] = []

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        found.append(batch)
        return (
            model.weight.sum() * batch.abs().sum().real if dtype.is_complex else model.weight.sum()
        )

    batch = [RandomTensor((2, 3), dtype)]
    for fake in (True, False):
        profile_training_step(
            nn.Linear(1, 1), sgd, batch=batch, loss=lambda m, b: loss(m, b[0]), fake=fake
        )
    assert {(tuple(t.shape), t.dtype) for t in found} == {((2, 3), dtype)}


def test_a_dtype_without_random_values_is_refused() -> None:
    batch = RandomTensor((2,), torch.float8_e4m3fn)
    with pytest.raises(InputError, match="float8_e4m3fn cannot be drawn at random"):
        profile_training_step(
            nn.Linear(1, 1), sgd, batch=batch, loss=lambda m, b: b.sum(), fake=False
        )


def test_random_tensors_take_no_memory_on_fake_tensors() -> None:
    cost = profile_training_step(
        nn.Linear(10**6, 1), sgd, batch=RandomTensor((10**7, 10**6)), loss=lambda m, b: m(b).sum()
    )
    assert cost.peak_activation_bytes > 4 * 10**13


def test_what_is_no_tensor_stays_as_it_is() -> None:
    thing = object()
    assert map_batch([thing, "x", 3, None], lambda leaf: leaf) == [thing, "x", 3, None]


# --- Losses ---------------------------------------------------------------------------------------


@BOTH
def test_tensors_in_the_closure_of_a_loss_are_used_and_count_as_buffers(fake: bool) -> None:
    weights = torch.rand(2)
    batch = torch.randn(BATCH, 6), torch.randint(2, (BATCH,))
    cost = profile_training_step(
        nn.Linear(6, 2),
        sgd,
        batch=batch,
        loss=lambda m, b: cross_entropy(m(b[0]), b[1], weight=weights),
        fake=fake,
    )
    assert cost.peak_buffer_bytes == 4 * 2


@BOTH
@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (lambda m, b: m(b), InputError, r"the loss of Linear has the shape \(3, 2\)"),
        (lambda m, b: float(b.ndim), InputError, "the loss of Linear is a float, not a tensor"),
        (lambda m, b: None, InputError, "the loss of Linear is a NoneType"),
        (lambda m, b: m(b).sum() * 1j, InputError, "the loss of Linear is complex"),
        (lambda m, b: b.sum(), NothingToTrainError, "the loss of Linear depends on no trainable"),
        (lambda m, b: m(b).argmax(), NothingToTrainError, "the loss of Linear depends on no"),
    ],
    ids=["matrix", "number", "none", "complex", "constant", "integer"],
)
def test_a_loss_that_has_no_gradient_is_refused(
    loss: Any, error: type[Exception], message: str, fake: bool
) -> None:
    with pytest.raises(error, match=message):
        profile_training_step(
            nn.Linear(6, 2), sgd, batch=torch.randn(BATCH, 6), loss=loss, fake=fake
        )


def test_a_loss_that_needs_values_is_named_as_such_and_runs_for_real() -> None:
    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        found: Tensor = model(batch).sum()
        return found if found.item() > 0 else -found

    def measure(*, fake: bool) -> StepCost:
        batch = torch.randn(BATCH, 6)
        return profile_training_step(nn.Linear(6, 2), sgd, batch=batch, loss=loss, fake=fake)

    with pytest.raises(NeedsValuesError, match="Pass fake=False"):
        measure(fake=True)
    assert measure(fake=False).forward_flops == 2 * BATCH * 6 * 2


# --- Models ---------------------------------------------------------------------------------------


class Language(nn.Module):
    """Next words by one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, WIDTH)
        self.head = nn.Linear(WIDTH, WORDS)

    def forward(self, tokens: Tensor) -> Tensor:
        y: Tensor = self.head(self.embedding(tokens))
        return y


def next_word_loss(logits: Tensor, tokens: Tensor) -> Tensor:
    return cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


class TwoHeads(nn.Module):
    """A detector in small: classes and boxes from one trunk, as keyword-only arguments ask."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.classes = nn.Conv2d(8, 5, 1)
        self.boxes = nn.Conv2d(8, 4, 1)

    def forward(self, *, image: Tensor) -> dict[str, Any]:
        hidden = self.drop(self.norm(self.trunk(image)).relu())
        return {"classes": self.classes(hidden), "boxes": (self.boxes(hidden),)}


@BOTH
def test_the_embedding_of_integers_is_no_matrix_work_and_its_gradient_is_dense(fake: bool) -> None:
    model = Language()
    tokens = torch.randint(WORDS, (BATCH, TOKENS))
    cost = profile_training_step(
        model, sgd, batch=tokens, loss=lambda m, b: next_word_loss(m(b), b), fake=fake
    )
    head = 2 * BATCH * TOKENS * WIDTH * WORDS
    assert (cost.forward_flops, cost.backward_flops) == (head, 2 * head)
    assert cost.peak_grad_bytes == 4 * (2 * WORDS * WIDTH + WORDS)


@BOTH
def test_two_heads_with_a_loss_of_one_s_own_are_the_closed_form(fake: bool) -> None:
    """In train mode; what the step does to BatchNorm's statistics is undone."""
    model = TwoHeads().train()
    batch = {
        "image": torch.randn(2, 3, 8, 8),
        "targets": [torch.randint(5, (2, 8, 8)), torch.randn(2, 4, 8, 8)],
    }
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def loss(model: nn.Module, batch: dict[str, Any]) -> Tensor:
        out = model(image=batch["image"])
        classes, boxes = batch["targets"]
        return cross_entropy(out["classes"], classes) + mse_loss(out["boxes"][0], boxes)

    cost = profile_training_step(model, adamw, batch=batch, loss=loss, fake=fake)
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


def test_a_detector_of_torchvision_is_measured_on_real_copies() -> None:
    """Its two stages pick boxes by value; to pick and to pool is no matrix work."""
    torch.manual_seed(0)
    detector = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=3, min_size=64, max_size=64
    )
    targets = [{"boxes": torch.tensor([[1.0, 1, 30, 30]]), "labels": torch.tensor([1])}] * 2

    def loss(model: nn.Module, batch: tuple[list[Tensor], list[dict[str, Tensor]]]) -> Tensor:
        total: Tensor = sum(model(*batch).values())
        return total

    cost = training_cost(detector, ([torch.randn(3, 64, 64)] * 2, targets), loss=loss)
    assert cost.step.tensors == "real tensors"
    kinds = {site.operator for site in cost.step.flops_by_site if site.phase == "forward"}
    assert kinds == {"aten.convolution", "aten.addmm"}


class Attending(nn.Module):
    def __init__(self, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv = nn.Linear(WIDTH * heads, 3 * WIDTH * heads, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        split = self.qkv(x).unflatten(-1, (3, self.heads, WIDTH))
        q, k, v = split.transpose(1, 3).unbind(2)
        return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)


@BOTH
@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_the_closed_form(causal: bool, fake: bool) -> None:
    """The CPU's own kernel: two products forward, five backward, the scores' again among them."""
    heads = 2
    cost = profile_training_step(
        Attending(heads, causal=causal),
        sgd,
        batch=torch.randn(BATCH, TOKENS, heads * WIDTH),
        loss=lambda m, b: m(b).square().mean(),
        fake=fake,
    )
    linear = 2 * BATCH * TOKENS * (heads * WIDTH) * (3 * heads * WIDTH)
    product = 2 * BATCH * heads * TOKENS * TOKENS * WIDTH
    assert cost.forward_flops == linear + 2 * product
    assert cost.backward_flops == linear + 5 * product


@pytest.mark.parametrize(
    ("make", "batch", "loss"),
    [
        (Language, torch.ones(8, 16, dtype=torch.int64), lambda m, b: next_word_loss(m(b), b)),
        (TwoHeads, torch.randn(2, 3, 8, 8), lambda m, b: m(image=b)["classes"].mean()),
    ],
    ids=["language", "heads"],
)
def test_the_peak_is_the_allocator_s(make: Any, batch: Tensor, loss: Any) -> None:
    def step() -> Callable[[], None]:
        model, tensors = make(), batch.clone()
        optimizer = adamw(model)

        def run() -> None:
            optimizer.zero_grad(set_to_none=True)
            objective = loss(model, tensors)
            objective.backward()
            optimizer.step()

        return run

    cost = profile_training_step(make(), adamw, batch=batch, loss=loss)
    assert allocator_peak(step).tensor_peak_bytes == cost.peak_bytes
