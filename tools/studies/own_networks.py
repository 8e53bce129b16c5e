"""Ten small fine-tunings of one's own, of different kinds: the evidence for rules on own cases.

    python tools/studies/own_networks.py             whether rounding shows in the first losses
    python tools/studies/own_networks.py --referee   what the gate says of rounding, with a referee

The first trains each under several instruction sets, in processes of their own, and prints by which
loss the curves depart from that of this machine's own instructions.

The second measures each in the same way, also with two threads, and judges it as on another kind of
machine.
"""

import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import peft
import torch
from torch import Tensor, nn
from variants import VARIANTS

from peft_regress import FineTune, load_digits
from peft_regress.gate import Observation, judge_case
from peft_regress.gate.referees import referee_of
from peft_regress.gate.repeats import KnownCurve
from peft_regress.measure import ProfileCache, Recipe, measure
from peft_regress.runs.schema import Machine, Record

STEPS: Final = 30
THREADS: Final = int(os.environ.get("STUDY_THREADS", "1"))
HERE, THERE = (f"sha256:{digit * 64}" for digit in "01")
INSTRUCTIONS: Final = {name: VARIANTS[name] for name in ("avx2", "sse")}


class Recurrent(nn.Module):
    """A GRU over the rows of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.GRU(8, 16, batch_first=True)
        self.head = nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:  # noqa: D102
        found, _ = self.rows(images[:, 0])  # (batch, rows, 16)
        logits: Tensor = self.head(found[:, -1])
        return logits


class Attentive(nn.Module):
    """A transformer layer over the rows of an image."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 32, dropout=0.0, batch_first=True)
        self.rows = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(8, 10)

    def forward(self, images: Tensor) -> Tensor:  # noqa: D102
        logits: Tensor = self.head(self.rows(images[:, 0]).mean(1))
        return logits


def perceptron(*sizes: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Return linear layers over the pixels."""
    layers: list[nn.Module] = [nn.Flatten()]
    for size, following in zip((64, *sizes), (*sizes, 10), strict=True):
        layers += [nn.Linear(size, following), activation()]
    return nn.Sequential(*layers[:-1])


def convolutional(
    *, norm: Callable[[int], nn.Module] = nn.BatchNorm2d, groups: int = 1
) -> nn.Sequential:
    """Return two convolutions and a head."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1),
        norm(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=groups),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def digits() -> tuple[Any, Any]:
    """Return 1,500 images of 1 x 8 x 8 to train on, and 297 to test."""
    pixels, labels = load_digits()
    images = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    classes = torch.tensor(labels)
    return (images[:1500], classes[:1500]), (images[1500:], classes[1500:])


def lora(*targets: str) -> peft.LoraConfig:
    """Return a LoRA configuration."""
    return peft.LoraConfig(r=4, lora_alpha=8, target_modules=list(targets))


def _by(kind: Any, **settings: Any) -> Callable[[nn.Module], torch.optim.Optimizer]:
    def make(model: nn.Module) -> torch.optim.Optimizer:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        made: torch.optim.Optimizer = kind(trained, foreach=False, **settings)
        return made

    return make


def _case(name: str, model: Callable[[], nn.Module], adapter: Any, **settings: Any) -> FineTune:
    settings = {"optimizer": _by(torch.optim.AdamW, lr=1e-2), **settings}
    return FineTune(
        f"study/{name}/net", model=model, adapter=adapter, data=digits, steps=STEPS, **settings
    )


_SGD: Final = _by(torch.optim.SGD, lr=0.05, momentum=0.9)
NETWORKS: Final = (
    _case("linear", perceptron, "full"),
    _case("perceptron", lambda: perceptron(32), "full"),
    _case("perceptron-sgd", lambda: perceptron(32), "full", optimizer=_SGD),
    _case("perceptron-tanh", lambda: perceptron(32, 32, activation=nn.Tanh), "full"),
    _case("lora-perceptron", lambda: perceptron(64, 64), lora("1", "3")),
    _case("convolutional", convolutional, "full"),
    _case("lora-convolutional", convolutional, lora("3"), also_train=["7"]),
    _case("groups", lambda: convolutional(norm=nn.InstanceNorm2d, groups=8), "full"),
    _case("recurrent", Recurrent, "full"),
    _case("attentive", Attentive, "full", optimizer=_by(torch.optim.AdamW, lr=1e-3)),
)


# --- What a process of its own computes -----------------------------------------------------------


def records(known: Mapping[str, list[KnownCurve]]) -> dict[str, Record]:
    """Return the record of each case, computed by the threads of this process."""
    torch.set_num_threads(THREADS)
    # The package computes on one thread.
    torch.set_num_threads = lambda nthreads: None  # noqa: ARG005
    profiles = ProfileCache()
    return {
        case.id: measure(
            Recipe.of(case, Path("absent")),
            profiles=profiles,
            timed=False,
            keep_referee=True,
            known=known.get(case.id, ()),
        ).record
        for case in NETWORKS
    }


def elsewhere(
    environment: Mapping[str, str], known: Mapping[str, list[KnownCurve]] | None = None
) -> dict[str, Record]:
    """Return the records that a process of its own computes, by the trainings that are known."""
    spawn = multiprocessing.get_context("spawn")
    with patch.dict(os.environ, environment), ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(records, known or {}).result()


def curves(environment: Mapping[str, str]) -> dict[str, list[float]]:
    """Return the losses of each case's first seed."""
    return {name: one.curve.losses for name, one in elsewhere(environment).items() if one.curve}


# --- What is printed ------------------------------------------------------------------------------


def print_departures() -> None:
    """Print by which loss each curve departs under other instructions."""
    here = curves({})
    print("equal in another process:", here == curves({}))
    for name, environment in INSTRUCTIONS.items():
        for case, losses in curves(environment).items():
            pairs = enumerate(zip(here[case], losses, strict=True))
            first = next((step for step, (a, b) in pairs if a != b), None)
            if first is None:
                print(f"{name:5} {case:30} does not depart")
                continue
            size = abs(losses[first] - here[case][first]) / max(here[case][: first + 1])
            print(f"{name:5} {case:30} departs at loss {first + 1}, by {size:.1e}")


def print_verdicts() -> None:
    """Print what the gate says of each network: under rounding nothing."""
    here = elsewhere({})
    known = {
        name: [
            KnownCurve(
                curve=record.curve or None,
                definition=record.definition,
                machine=HERE,
                run_name=HERE,
                referee=referee_of(record.referee),
            )
        ]
        for name, record in here.items()
    }
    runs = {**INSTRUCTIONS, "two threads": {"STUDY_THREADS": "2"}}
    for run, environment in runs.items():
        there = elsewhere(environment, known)
        found = {name: judged(here[name], record) for name, record in there.items()}
        for name, metrics in found.items():
            print(f"{run:12} {name:30} {' '.join(metrics) or 'unchanged'}")
        repeats = sum(record.is_repeat for record in there.values())
        failed = sum(map(bool, found.values()))
        print(f"{run}: {failed} of {len(found)} fail, {repeats} repeat by their referee")


def judged(old: Record, new: Record) -> list[str]:
    """Return the metrics by which the gate fails a record from another kind of machine."""
    sides = [
        Observation(
            record=record,
            environment={},
            machine=Machine(digest=side, cpu="", cores=1, threads=1, instruction_set=""),
            run_name=side,
        )
        for side, record in ((HERE, old), (THERE, new))
    ]
    return [reason.name for reason in judge_case(old.case.id, *sides).reasons]


if __name__ == "__main__":
    show = print_verdicts if "--referee" in sys.argv else print_departures
    show()
