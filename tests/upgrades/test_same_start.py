"""From the base's weights, what is computed otherwise is told from what is drawn otherwise."""

import sys
from pathlib import Path

from peft_regress.catalogue.matrix import parse_case_id
from peft_regress.project.project import current_project
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

def plain(model, batches):
    return 0.5

def moved(model, batches):
    return 0.4 if "CANDIDATE" in os.environ else 0.5

def other(model, batch):
    return same(model, batch) * (1.01 if "CANDIDATE" in os.environ else 1)
"""
GATES = """
import network
from peft_regress import FineTune, Script

def case(name, loss, score=network.plain):
    return FineTune(
        id=f"toy/full/{name}", model=network.drawn, data=lambda: (network.batch(), network.batch()),
        adapter="full", loss=loss, score=score, steps=4, batch=8,
    )

CASES = [
    case("same", network.same), case("other", network.other),
    case("evaluated", network.same, network.moved), Script("toy/full/script", "train.py"),
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
SAID = {
    "same": "the same in 4 of 4 steps: only what is drawn or loaded changed",
    "other": "something else too, from step 1 on: loss ",
    "evaluated": "something else too, in its evaluation: score 0.4, was 0.5",
    "script": "something else too, from step 1 on: loss ",
}
SETTINGS = """
[tool.peft_regress]
cases = ["gates:CASES"]
"""


def test_both_sides_train_from_the_weights_of_the_base(project):
    files = {"gates.py": GATES, "train.py": TRAIN, "pyproject.toml": SETTINGS}
    project.write({"network.py": NETWORK, **files})
    cases = [parse_case_id(f"toy/full/{name}") for name in SAID]
    setup = MeasuringSetup(
        project=current_project(), baselines=project.folder / "baselines", jobs=1
    )
    candidate = project.folder / "python"
    candidate.write_text(f'#!/bin/sh\nCANDIDATE=1 exec {sys.executable} "$@"\n')
    candidate.chmod(0o755)
    found = list(from_one_start(cases, Path(sys.executable), candidate, setup))
    for text, (name, said) in zip(found, SAID.items(), strict=True):
        assert text.startswith(
            f"toy/full/{name}, from the base's weights in float64, computes {said}"
        )
