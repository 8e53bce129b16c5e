"""Make one adapter of every row of variants.toml with the peft of the running interpreter.

    python tools/compat/adapters.py FOLDER

Each goes into a folder of its own; made.json has for each variant its folder and what failed.
"""

import json
import re
import sys
import tomllib
import warnings
from pathlib import Path
from typing import Any

import peft
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

WIDTH = 16
TOKENS = 12
CLASSES = 10
SPREAD = 0.1
"""What is added to each number: an untrained adapter mostly changes nothing."""


# --- The base model -------------------------------------------------------------------------------


class Network(nn.Module):
    """A network with convolutions, linear layers, an embedding, an attention and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.conv1 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.emb = nn.Embedding(TOKENS, WIDTH)
        self.attn = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.lin0 = nn.Linear(WIDTH, WIDTH)
        self.lin1 = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        untyped: Any = Conv1D
        self.turned = untyped(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, images: Tensor, tokens: Tensor) -> Tensor:
        """Return logits (batch, 10) of images (batch, 3, 8, 8) and tokens (batch, 6)."""
        seen = torch.relu(self.conv1(torch.relu(self.conv0(images)))).mean((2, 3))  # (batch, 16)
        words = self.emb(tokens)  # (batch, 6, 16)
        read = self.attn(words, words, words, need_weights=False)[0].mean(1)  # (batch, 16)
        mixed = torch.relu(self.lin0(seen + read))
        mixed = self.norm(mixed + self.lin1(mixed))
        logits: Tensor = self.head(mixed + self.turned(mixed))
        return logits


def make_base() -> Network:
    """Return the network with seeded weights."""
    torch.manual_seed(1)
    network = Network()
    with torch.no_grad():
        # Its own start of 0.02 would hide what an adapter does to it.
        network.turned.weight.normal_(std=0.25)
    return network


def inputs() -> tuple[Tensor, Tensor]:
    """Return seeded images and tokens."""
    torch.manual_seed(2)
    return torch.randn(4, 3, 8, 8), torch.randint(0, TOKENS, (4, 6))


# --- Saving ---------------------------------------------------------------------------------------


def configuration_of(kind: str, *settings: dict[str, Any]) -> Any:
    """Return the configuration by the first settings that this release takes."""
    for one in settings[:-1]:
        try:
            return getattr(peft, kind)(**one)
        except TypeError:
            continue
    return getattr(peft, kind)(**settings[-1])


def save(kind: str, *settings: dict[str, Any], folder: Path) -> str:
    """Make and save one adapter; return why that failed."""
    if not hasattr(peft, kind):
        return "absent"
    try:
        configuration = configuration_of(kind, *settings)
        torch.manual_seed(3)
        model = peft.get_peft_model(make_base(), configuration)
        torch.manual_seed(4)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(SPREAD * torch.randn_like(parameter))
        model.save_pretrained(str(folder))
    except Exception as error:  # noqa: BLE001  (a release may refuse a variant by any exception)
        return f"{type(error).__name__}: {error}"[:300]
    return ""


def main(folder: Path) -> None:
    """Make them all."""
    warnings.simplefilter("ignore")
    folder.mkdir(parents=True, exist_ok=True)
    variants = tomllib.loads(Path(__file__).with_name("variants.toml").read_text())
    made = {}
    for name, (kind, *settings) in variants.items():
        place = re.sub(r"[^\w.=]+", "-", name)
        made[name] = place, save(kind, *settings, folder=folder / place)
    (folder / "made.json").write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
