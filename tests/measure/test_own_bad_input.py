"""Wrong use of a case of one's own: one line that names the case and what is wrong."""

import peft
import pytest
import torch
from own_training import convolutional, fine_tune, image_data, images, measured
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from peft_regress.errors import InputError
from peft_regress.project.budgets import Bound
from peft_regress.project.fine_tune import OwnMetric

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


def metric(**settings):
    return OwnMetric(
        **{"measure": lambda m, b: 1.0, "unit": "count", "direction": "lower", **settings}
    )


def adamw(model, **settings):
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], **settings)


KEPT = convolutional()
LINE = r"\(test_own_bad_input.py, line \d+\)"

WRONG = {
    "no test items": (splits(TRAIN, (X[:0], Y[:0])), "test is empty"),
    "no tensors": (splits(()), "train is empty"),
    "unequal lengths": (splits((X[:16], Y[:15])), r"unequal lengths: \[15, 16\]"),
    "fewer than a batch": (splits((X[:3], Y[:3])), "3 items, but a batch of 4"),
    "labels out of range": (splits((X[:16], Y[:16] + 5)), "Target 5 is out of bounds"),
    "NaN in training": (splits((NAN * float("nan"), Y[:16])), "loss of the first batch is nan"),
    "no pair of splits": ({"data": lambda: None}, "not a pair"),
    "an iterator": (splits(iter([1])), "no map-style Dataset, and no tuple"),
    "single numbers": (splits((1, 2)), "no map-style Dataset, and no tuple"),
    "data() fails": ({"data": fails}, rf"data\(\) raised KeyError: 'weights' {LINE}"),
    "an item fails": (splits(Unreadable()), f"an item raised OSError: no such file {LINE}"),
    "collate fails": (
        {**splits(TensorDataset(*TRAIN), TensorDataset(*TEST)), "collate": fails},
        f"joining items to a batch raised KeyError: 'weights' {LINE}",
    ),
    "model() fails": ({"model": fails}, rf"model\(\) raised KeyError: 'weights' {LINE}"),
    "no module": ({"model": lambda: None}, r"model\(\) returned a NoneType, no Module"),
    "no such target": (
        {"adapter": peft.LoraConfig(target_modules=["absent"])},
        "cannot be put on the model: NoMatchingPeftModuleError: .*absent",
    ),
    "a target that also trains": (
        {"adapter": peft.LoraConfig(target_modules=["8"]), "also_train": ["8"]},
        "targets '8', and also_train trains '8'",
    ),
    "a target inside what also trains": (
        {
            "model": lambda: nn.Sequential(convolutional(), nn.Sequential(nn.Linear(3, 3))),
            "adapter": peft.LoraConfig(target_modules=["1.0", "0.6"]),
            "also_train": ["1"],
        },
        "targets '1.0', and also_train trains '1'",
    ),
    "also_train names nothing": ({"also_train": ["head"]}, "no module 'head'; it has 0, 1"),
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
    "no scalar loss": ({"loss": lambda m, b: m(b[0]).sum(1)}, r"but a torch.float32 \(4,\)"),
    "a loss of no tensor": ({"loss": lambda m, b: 1.0}, "but a <class 'float'>"),
    "a loss without gradient": ({"loss": lambda m, b: m(b[0]).sum().detach()}, "nothing to train"),
    "a loss that fails": ({"loss": lambda m, b: b[5]}, f"IndexError: .*{LINE}"),
    "a loss without the model": (
        {"loss": lambda m, b: sum(p.sum() for p in m.parameters())},
        "never calls the adapted model",
    ),
    "a NaN score": ({"score": lambda m, b: float("nan")}, "the score is nan"),
    "a metric that fails": (
        {"metrics": {"x": metric(measure=fails)}},
        f"metric 'x' raised KeyError: 'weights' {LINE}",
    ),
    "no optimizer": ({"optimizer": lambda m: None}, "returned a NoneType, no Optimizer"),
    "an optimizer of another model": (
        {"optimizer": lambda m: torch.optim.SGD(KEPT.parameters())},
        "none of the trainable parameters",
    ),
    "an optimizer in one kernel": (
        {"optimizer": lambda m: torch.optim.SGD(m.parameters(), fused=True)},
        "construct the optimizer with foreach=False",
    ),
    "no schedule": ({"schedule": lambda o: None}, "returned a NoneType, no LRScheduler"),
    "a mode that fails": ({"mode": fails}, f"KeyError: 'weights' {LINE}"),
}
IN_TRAINING = {"a NaN score", "a metric that fails", "no schedule"}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_use_is_refused_in_one_line(name):
    settings, message = WRONG[name]
    usual = {"adapter": "full" if name in IN_TRAINING else LORA}
    with pytest.raises(InputError, match=message) as refused:
        measured(fine_tune(**{**usual, **settings}), has_reference=False)
    text = str(refused.value)
    assert text.startswith("FineTune 'own/x/net': ")
    assert text.isprintable()


@pytest.mark.parametrize("function", ["model", "data", "optimizer", "schedule", "score"])
def test_a_function_that_worked_before_and_fails_now_is_an_error_of_the_case(function):
    record = measured(fine_tune("full", **{function: fails}), has_reference=True)
    assert (record.status, record.error.type) == ("error", "KeyError")
    assert "test_own_bad_input.py" in record.error.message


def test_a_model_that_its_function_keeps_is_copied_each_time():
    kept = measured(fine_tune(LORA, model=lambda: KEPT))
    assert kept.status == "ok", kept.error
    assert kept.trained == measured(fine_tune(LORA), trains=False).trained


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
    fine_tune(LORA, metrics={"x": metric()}, bounds={"x": Bound(0.1, "noise")})


@pytest.mark.parametrize("wrong", [{"kind": "seconds"}, {"unit": "mile"}, {"direction": "up"}])
def test_a_metric_of_ones_own_has_known_settings(wrong):
    with pytest.raises(InputError, match="of a metric"):
        metric(**wrong)
