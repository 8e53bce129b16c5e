"""Wrong use of a case of one's own: one line that names the case, what is wrong and the remedy."""

import time
from typing import Any

import peft
import pytest
import torch
from own_training import convolutional, fine_tune, image_data, images, measured
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from peft_regress.budgets import Bound
from peft_regress.errors import InputError
from peft_regress.fine_tune import OwnMetric

X, Y = images(22)
TRAIN, TEST = image_data()
LORA = peft.LoraConfig(r=2, target_modules=["0", "6"])
NAN = torch.where(torch.arange(16).reshape(-1, 1, 1, 1) == 3, float("nan"), X[:16])


def splits(train, test=TEST):
    return {"data": lambda: (train, test)}


def fails(*_):
    return {}["weights"]


class Unreadable(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, position):
        raise OSError("no such file")


class Returning(nn.Module):
    def __init__(self, change):
        super().__init__()
        self.inner, self.change = convolutional(), change

    def forward(self, inputs):
        return self.change(self.inner(inputs))


def drawn_elsewhere():
    model = convolutional()
    own = torch.Generator().manual_seed(time.time_ns() % 2**31)
    model[0].weight.data.copy_(torch.randn(8, 3, 3, 3, generator=own))
    return model


def shuffled_elsewhere():
    own = torch.Generator()
    own.seed()
    order = torch.randperm(22, generator=own)
    return (X[order[:16]], Y[order[:16]]), TEST


def adamw(model, **settings):
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], **settings)


KEPT = convolutional()
LINE = r"\(test_own_bad_input.py, line \d+\)"

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no training items": (splits((X[:0], Y[:0])), "train is empty"),
    "no test items": (splits(TRAIN, (X[:0], Y[:0])), "test is empty"),
    "no tensors": (splits(()), "train is empty"),
    "no names": (splits({}), "train is empty"),
    "unequal lengths": (splits((X[:16], Y[:15])), "unequal lengths: 0 has 16, 1 has 15"),
    "fewer than a batch": (splits((X[:3], Y[:3])), "3 items, but a batch of 4"),
    "integers for floats": (splits((X[:16].long(), Y[:16])), r"0 4x3x8x8 int64.*RuntimeError"),
    "labels out of range": (splits((X[:16], Y[:16] + 5)), "Target 5 is out of bounds"),
    "NaN in training": (splits((NAN, Y[:16])), "train has NaN in 0"),
    "NaN in test": (splits(TRAIN, (NAN, Y[:16])), "test has NaN in 0"),
    "no pair of splits": ({"data": lambda: None}, "not a pair"),
    "an iterator": (splits(iter([1])), "is a list_iterator: give a Dataset"),
    "a text": (splits("data/train"), "train is a text"),
    "no array": (splits(([[1, 2], [3]], [1, 2])), "no tensor or array"),
    "single numbers": (splits((1, 2)), "single number"),
    "data() fails": ({"data": fails}, rf"data\(\) raised KeyError: 'weights' {LINE}"),
    "an item fails": (splits(Unreadable()), f"an item raised OSError: no such file {LINE}"),
    "collate fails": (
        {**splits(TensorDataset(*TRAIN), TensorDataset(*TEST)), "collate": fails},
        f"joining items to a batch raised KeyError: 'weights' {LINE}",
    ),
    "data that differ": ({"data": shuffled_elsewhere}, r"data\(\) twice.*first in 'train.0'"),
    "model() fails": ({"model": fails}, rf"model\(\) raised KeyError: 'weights' {LINE}"),
    "no module": ({"model": lambda: None}, r"model\(\) returned a NoneType"),
    "models that differ": ({"model": drawn_elsewhere}, r"model\(\) twice.*first in '0.weight'"),
    "one model for all": ({"model": lambda: KEPT}, "'0.weight'.*same tensor in two models"),
    "a lazy model": (
        {"model": lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(3))},
        "'1.weight'.*has no shape yet",
    ),
    "a model on meta": ({"model": lambda: convolutional().to("meta")}, "on the meta device"),
    "output without classes": (
        {"model": lambda: Returning(lambda out: out.sum())},
        "model and loss fail on the first batch",
    ),
    "output of text": ({"model": lambda: Returning(lambda out: "hi")}, "a str, not logits"),
    "output of NaN": (
        {"model": lambda: Returning(lambda out: out * float("nan"))},
        "before any adapter, the loss of the first batch is nan",
    ),
    "no such target": (
        {"adapter": peft.LoraConfig(target_modules=["absent"])},
        "cannot be put on the model: NoMatchingPeftModuleError: .*absent",
    ),
    "a broken pattern": ({"adapter": peft.LoraConfig(target_modules="(")}, "cannot be put on"),
    "a target that also trains": (
        {"adapter": peft.LoraConfig(target_modules=["8"]), "also_train": ["8"]},
        "targets '8', which also_train trains",
    ),
    "a target inside what also trains": (
        {
            "model": lambda: nn.Sequential(convolutional(), nn.Sequential(nn.Linear(3, 3))),
            "adapter": peft.LoraConfig(target_modules=["1.0", "0.6"]),
            "also_train": ["1"],
        },
        "targets '1.0', inside '1'",
    ),
    "a copy of what also trains": (
        {
            "adapter": peft.LoraConfig(target_modules=["6"], modules_to_save=["8"]),
            "also_train": ["8"],
        },
        "targets '8', which also_train trains",
    ),
    "also_train names nothing": ({"also_train": ["head"]}, "no module 'head'; it has 0, 1"),
    "also_train names a parameter": ({"also_train": ["8.weight"]}, "no module '8.weight'"),
    "also_train without parameters": ({"also_train": ["7"]}, "'7' has no parameters"),
    "an adapter function fails": ({"adapter": fails}, f"KeyError: 'weights' {LINE}"),
    "an adapter function returns nothing": ({"adapter": lambda m: None}, "returned a NoneType"),
    "an adapter function that freezes nothing": ({"adapter": lambda m: m}, "freezes nothing"),
    "an adapter function that freezes all": (
        {"adapter": lambda m: m.requires_grad_(requires_grad=False)},
        "nothing to train",
    ),
    "an unknown method": ({"adapter": "lorra-r4"}, "unknown method 'lorra'"),
    "a method without its rank": ({"adapter": "lora"}, "needs a rank"),
    "two optimizers": ({"adapter": "galore-r4", "optimizer": adamw}, "an optimizer of its own"),
    "no scalar loss": ({"loss": lambda m, b: m(b[0]).sum(1)}, r"a tensor of shape \(4,\)"),
    "an integer loss": ({"loss": lambda m, b: m(b[0]).argmax()}, "a tensor of type int64"),
    "a loss of no tensor": ({"loss": lambda m, b: 1.0}, "a value of type float"),
    "a loss without gradient": ({"loss": lambda m, b: m(b[0]).sum().detach()}, "nothing to train"),
    "a loss that fails": ({"loss": lambda m, b: b[5]}, f"IndexError: .*{LINE}"),
    "a loss without the model": (
        {"loss": lambda m, b: sum(p.sum() for p in m.parameters())},
        "never calls the model",
    ),
    "a NaN score": ({"score": lambda m, b: float("nan")}, "the score is nan"),
    "a score that fails": ({"score": fails}, f"the score raised KeyError: 'weights' {LINE}"),
    "a metric that fails": (
        {"metrics": {"x": OwnMetric(measure=fails, unit="count", direction="lower")}},
        f"metric 'x' raised KeyError: 'weights' {LINE}",
    ),
    "no optimizer": ({"optimizer": lambda m: None}, "returned a NoneType, not a torch.optim"),
    "an optimizer that fails": ({"optimizer": fails}, f"KeyError: 'weights' {LINE}"),
    "an optimizer of another model": (
        {"optimizer": lambda m: torch.optim.SGD(KEPT.parameters())},
        "none of the trainable parameters",
    ),
    "an optimizer in one kernel": (
        {"optimizer": lambda m: adamw(m, foreach=True)},
        "construct the optimizer with foreach=False",
    ),
    "no schedule": ({"schedule": lambda o: None}, "returned a NoneType, not a torch LRScheduler"),
    "a schedule that needs a value": (
        {"schedule": torch.optim.lr_scheduler.ReduceLROnPlateau},
        "not a torch LRScheduler that steps without",
    ),
    "a schedule that fails": ({"schedule": fails}, f"KeyError: 'weights' {LINE}"),
    "a mode that fails": ({"mode": fails}, f"KeyError: 'weights' {LINE}"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_use_is_refused_in_one_line(name):
    settings, message = WRONG[name]
    with pytest.raises(InputError, match=message) as refused:
        measured(fine_tune(**{"adapter": LORA, **settings}), has_reference=False)
    text = str(refused.value)
    assert text.startswith("FineTune 'own/x/net': ")
    assert text.isprintable()


@pytest.mark.parametrize("function", ["model", "data", "optimizer", "schedule", "score"])
def test_a_function_that_worked_before_and_fails_now_is_an_error_of_the_case(function):
    record = measured(fine_tune(LORA, **{function: fails}), has_reference=True)
    assert record.status == "error"
    assert record.error.type == "KeyError"
    assert "test_own_bad_input.py" in record.error.message


def metric(**settings):
    usual = {"measure": lambda m, b: 1.0, "unit": "count", "direction": "lower"}
    return OwnMetric(**{**usual, **settings})


@pytest.mark.parametrize(
    "settings",
    [{"kind": "seconds"}, {"kind": "fingerprint"}, {"unit": "mile"}, {"direction": "up"}],
)
def test_a_metric_of_ones_own_has_known_settings(settings):
    with pytest.raises(InputError, match="of a metric"):
        metric(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metrics": {"accuracy": metric()}}, "measured anyway"),
        ({"metrics": {"peak_bytes_b32": metric()}}, "measured anyway"),
        ({"metrics": {"identity_at_init": metric()}}, "measured anyway"),
        ({"metrics": {"a b": metric()}}, "not a name"),
        ({"bounds": {"accuracies": Bound(0.1, "noise")}}, "Did you mean 'accuracy'"),
        ({"also_train": 3}, "not a list of module names"),
        ({"budget": "1 MB"}, "not a Budget"),
        ({"steps": 2.5}, "steps=2.5"),
        ({"id": "x"}, "not a case id"),
        ({"id": None}, "not a case id"),
    ],
)
def test_a_fine_tuning_refuses_values_that_it_cannot_have(settings, message):
    with pytest.raises(InputError, match=message):
        fine_tune(LORA, **settings)


def test_a_bound_may_be_of_a_metric_of_ones_own():
    fine_tune(LORA, metrics={"x": metric()}, bounds={"x": Bound(0.1, "noise")})


def test_fewer_steps_than_the_fingerprint_has_losses_give_fewer_losses():
    record = measured(fine_tune(LORA, steps=2))
    assert [len(losses) for losses in record.metrics["first_losses"].samples] == [2]
