"""Small fine-tunings of one's own, and measuring them."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from peft_regress import FineTune
from peft_regress.measure.case import measure
from peft_regress.measure.costs import ProfileCache
from peft_regress.measure.recipe import Recipe


def images(count=16):
    """Return images of 3 x 8 x 8 in 3 classes, which differ in one channel."""
    generator = torch.Generator().manual_seed(7)
    labels = torch.arange(count) % 3
    found = torch.randn(count, 3, 8, 8, generator=generator)
    found[torch.arange(count), labels] += 1
    return found, labels


def image_data():
    inputs, labels = images(22)
    return (inputs[:16], labels[:16]), (inputs[16:], labels[16:])


def convolutional():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(8, 8),
        nn.ReLU(),
        nn.Linear(8, 3),
    )


def fine_tune(adapter, **settings):
    usual: dict[str, Any] = {
        "model": convolutional, "data": image_data, "steps": 4, "batch": 4, "seeds": 1,
    }  # fmt: skip
    return FineTune(settings.pop("id", "own/x/net"), adapter=adapter, **{**usual, **settings})


def measured(of, root=Path("absent"), **options):
    return measure(Recipe.of(of, root), profiles=ProfileCache(), **options).record


def false_facts(record):
    return {
        name: record.invariant_notes[name]
        for name, holds in record.invariants.items()
        if holds is False
    }
