"""Ten small fine-tunings of one's own, of different kinds: the evidence for rules on own cases.

    python tools/studies/own_networks.py           whether rounding shows in the first losses

It trains each under several instruction sets, in processes of their own, and prints by which loss
the curves depart from that of this machine's own instructions.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import peft
import torch
from torch import Tensor, nn

from peft_regress import FineTune, load_digits
from peft_regress.measure import Recipe

if TYPE_CHECKING:
    from collections.abc import Callable

STEPS: Final = 30
INSTRUCTIONS: Final = {
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    },
    "sse": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    },
}


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

    def __init__(self, *, layers: int = 1) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 32, dropout=0.0, batch_first=True)
        self.rows = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
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


def lora(**settings: Any) -> peft.LoraConfig:
    """Return a LoRA configuration."""
    return peft.LoraConfig(r=4, lora_alpha=8, **settings)


def _adamw(rate: float, **settings: Any) -> Callable[[nn.Module], torch.optim.Optimizer]:
    return lambda model: torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=rate, foreach=False, **settings
    )


def _sgd(rate: float) -> Callable[[nn.Module], torch.optim.Optimizer]:
    return lambda model: torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad], lr=rate, momentum=0.9, foreach=False
    )


def _case(name: str, model: Callable[[], nn.Module], adapter: Any, **settings: Any) -> FineTune:
    usual: dict[str, Any] = {"data": digits, "steps": STEPS, "optimizer": _adamw(1e-2)}
    return FineTune(f"study/{name}/net", model=model, adapter=adapter, **{**usual, **settings})


NETWORKS: Final = (
    _case("linear", perceptron, "full"),
    _case("perceptron", lambda: perceptron(32), "full"),
    _case("perceptron-sgd", lambda: perceptron(32), "full", optimizer=_sgd(0.05)),
    _case("perceptron-tanh", lambda: perceptron(32, 32, activation=nn.Tanh), "full"),
    _case("lora-perceptron", lambda: perceptron(64, 64), lora(target_modules=["1", "3"])),
    _case("convolutional", convolutional, "full"),
    _case("lora-convolutional", convolutional, lora(target_modules=["3"]), also_train=["7"]),
    _case("groups", lambda: convolutional(norm=nn.InstanceNorm2d, groups=8), "full"),
    _case("recurrent", Recurrent, "full"),
    _case("attentive", Attentive, "full", optimizer=_adamw(1e-3)),
)


def curves() -> dict[str, list[float]]:
    """Return the losses of the first seed of each case."""
    found = {}
    for case in NETWORKS:
        recipe = Recipe.of(case, Path("absent"))
        model = recipe.adapted_model(0)
        batches = recipe.batches(recipe.load_data(), seed=0)
        optimizer = recipe.make_optimizer(model)
        found[case.id] = list(recipe.train(model, optimizer, batches, seed=0, first=1).losses)
    return found


def curves_under(environment: dict[str, str]) -> dict[str, list[float]]:
    """Return the same from a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--curves"],
        env={**os.environ, **environment},
        check=True,
        capture_output=True,
    )
    found: dict[str, list[float]] = json.loads(done.stdout)
    return found


def main() -> None:
    """Print the loss by which each curve departs, and by how much the last ones differ."""
    if "--curves" in sys.argv:
        print(json.dumps(curves()))
        return
    here, again = curves_under({}), curves_under({})
    print("equal in another process:", here == again)
    for name, environment in INSTRUCTIONS.items():
        for case, losses in curves_under(environment).items():
            pairs = enumerate(zip(here[case], losses, strict=True))
            first = next((step for step, (a, b) in pairs if a != b), None)
            if first is None:
                print(f"{name:5} {case:30} does not depart")
                continue
            size = abs(losses[first] - here[case][first]) / max(here[case][: first + 1])
            print(f"{name:5} {case:30} departs at loss {first + 1}, by {size:.1e}")


if __name__ == "__main__":
    main()
