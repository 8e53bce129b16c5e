"""The network that the adapters of the compatibility study are for: one layer of each kind."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

WIDTH = 16
TOKENS = 12
CLASSES = 10


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


def make() -> Network:
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
