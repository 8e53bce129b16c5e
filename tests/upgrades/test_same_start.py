"""From the base's weights, what is computed otherwise is told from what is drawn otherwise."""

import sys
from pathlib import Path

from peft_regress.catalogue.matrix import parse_case_id
from peft_regress.project.own_cases import use_settings
from peft_regress.project.settings import read_settings
from peft_regress.runner.measuring import MeasuringSetup
from peft_regress.upgrades.same_start import from_one_start

NETWORK = """
import os
import torch


def drawn():
    "Return a network that each process draws otherwise."
    torch.manual_seed(os.getppid() + os.getpid())
    return torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Dropout(0.5), torch.nn.Linear(5, 3))

def batch():
    drawn = torch.Generator().manual_seed(0)
    return torch.randn(24, 6, generator=drawn), torch.randint(3, (24,), generator=drawn)

def same(model, batch):
    return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])

def other(model, batch):
    return same(model, batch) * (1.01 if "CANDIDATE" in os.environ else 1)
"""
GATES = """
import network
from peft_regress import FineTune, Script

def case(name, loss):
    return FineTune(
        id=f"toy/full/{name}", model=network.drawn, data=lambda: (network.batch(), network.batch()),
        adapter="full", loss=loss, score=lambda model, batches: 0.5, steps=4, batch=8,
    )

CASES = [
    case("same", network.same), case("other", network.other), Script("toy/full/script", "train.py")
]
"""
TRAIN = """
import torch, network

model = network.drawn()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
for _ in range(5):
    optimizer.zero_grad()
    network.other(model, network.batch()).backward()
    optimizer.step()
"""
SETTINGS = """
[tool.peft_regress]
cases = ["gates:CASES"]
"""


def test_both_sides_train_from_the_weights_of_the_base(project):
    files = {"gates.py": GATES, "train.py": TRAIN, "pyproject.toml": SETTINGS}
    project.write({"network.py": NETWORK, **files})
    use_settings(read_settings(project.folder))
    cases = [parse_case_id(f"toy/full/{name}") for name in ("same", "other", "script")]
    setup = MeasuringSetup(baselines=project.folder / "baselines", jobs=1)
    candidate = project.folder / "python"
    candidate.write_text(f'#!/bin/sh\nCANDIDATE=1 exec {sys.executable} "$@"\n')
    candidate.chmod(0o755)
    found = list(from_one_start(cases, Path(sys.executable), candidate, setup))
    said = [
        "toy/full/same, from the base's weights in float64, computes the same in 4 of 4 st",
        "toy/full/other, from the base's weights in float64, computes something else too, from ",
        "toy/full/script, from the base's weights in float64, computes something else too, from ",
    ]
    assert [text[: len(start)] for text, start in zip(found, said, strict=True)] == said
