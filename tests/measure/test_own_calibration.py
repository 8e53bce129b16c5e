"""A case of one's own says how far rounding moves its losses; its rates and test items are kept."""

import peft
import pytest
import torch
from builders import MACHINE, OTHER_MACHINE, observe
from own_training import fine_tune, measured
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from peft_regress import load_digits
from peft_regress.gate import judge_case
from peft_regress.invariants import KNOWN


def network():
    """Return the layers of the network of docs/own-model.md."""
    body = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10))


def digits():
    pixels, labels = load_digits()
    images = (pixels / 16).astype("float32").reshape(-1, 1, 8, 8)
    return (images[:128], labels[:128]), (images[128:160], labels[128:160])


def adamw(model):
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(trained, lr=0.02, foreach=False)


def digit_net(**settings):
    usual = {"model": network, "data": digits, "also_train": ["6"], "seeds": 2, "batch": 16}
    lora = peft.LoraConfig(r=4, target_modules=["0", "2"])
    return fine_tune(lora, **{**usual, "optimizer": adamw, **settings})


@pytest.fixture(scope="module")
def sound():
    return measured(digit_net(), timed=False)


def reasons(old, new):
    """Return by what a record from another kind of machine fails."""
    sides = (
        observe(one, machine=machine, known=KNOWN)
        for one, machine in ((old, MACHINE), (new, OTHER_MACHINE))
    )
    return [reason.name for reason in judge_case(old.case.id, *sides).reasons]


def test_nearby_losses_are_a_little_off_in_every_seed(sound):
    assert sound.test_items == 32
    first = sound.metrics["first_losses"].samples
    assert [len(losses) for losses in sound.nearby_losses] == [4, 4]
    for losses, others in zip(first, sound.nearby_losses, strict=True):
        for one, other in zip(losses, others, strict=True):
            assert 0 < abs(one - other) < 1e-3 * one


@pytest.mark.parametrize("factor", [pytest.param(0.25, marks=pytest.mark.nightly), 0.9])
def test_scaled_updates_show_in_the_losses_of_another_machine(factor, sound, monkeypatch):
    step = torch.optim.AdamW.step

    def scaled(optimizer):
        parameters = optimizer.param_groups[0]["params"]
        before = [parameter.detach().clone() for parameter in parameters]
        step(optimizer)
        with torch.no_grad():
            for parameter, start in zip(parameters, before, strict=True):
                parameter.copy_(start + factor * (parameter - start))

    monkeypatch.setattr(torch.optim.AdamW, "step", scaled)
    found = reasons(sound, measured(digit_net(), timed=False))
    assert {"first_losses", "optimizer_updates"} <= set(found)


def test_a_shorter_cosine_is_named_by_its_rate(sound):
    def cosine(steps):
        case = digit_net(schedule=lambda own: CosineAnnealingLR(own, T_max=steps), seeds=1)
        return measured(case, timed=False)

    long, short = cosine(10), cosine(2)
    assert sound.rates == [[0.02]]
    assert short.rates == [pytest.approx([0.01, 0.0, 0.01, 0.02])]
    assert "rates" in reasons(long, short)
    assert reasons(long, cosine(10)) == []


class Items(torch.utils.data.Dataset):
    """A data set of these items."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def test_an_item_with_several_answers_counts_each_of_them():
    """As of the nodes of a graph, or the words of a sentence."""
    train, (images, labels) = digits()
    items = [(images[i : i + 4], labels[i : i + 4]) for i in range(0, len(labels), 4)]

    def joined(some):
        return tuple(torch.cat([torch.as_tensor(item[k]) for item in some]) for k in (0, 1))

    each = [(image[None], label[None]) for image, label in zip(*train, strict=True)]
    record = measured(
        digit_net(data=lambda: (Items(each), Items(items)), collate=joined, seeds=1), timed=False
    )
    assert record.test_items == 32
