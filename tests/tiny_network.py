"""A network of a few thousand parameters with every kind of layer that the methods tell apart."""

from types import SimpleNamespace

import torch
from torch import nn


class TinyNetwork(nn.Module):
    """An ungrouped and a depthwise convolution, BatchNorm, dropout, a linear layer, a head."""

    def __init__(self, *, num_classes=4):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, kernel_size=3, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, kernel_size=3, groups=8)
        self.linear = nn.Linear(8, 12)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(12, num_classes)

    def forward(self, images):
        """Return logits (batch, num_classes) for images (batch, 3, height, width)."""
        hidden = torch.relu(self.norm(self.conv(images)))  # (batch, 8, h, w)
        hidden = self.depthwise(hidden).mean(dim=(2, 3))  # (batch, 8)
        hidden = torch.tanh(self.linear(hidden))  # (batch, 12)
        return self.head(self.dropout(hidden))  # (batch, num_classes)


def tiny_network(*, num_classes=4, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TinyNetwork(num_classes=num_classes).eval()


def tiny_data(dtype="float32", *, count=64, size=12, seed=0):
    """Return noise images, brighter by class, so that the classes can be learnt."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (count,), generator=generator)
    images = torch.rand(count, 3, size, size, generator=generator)
    images = (images + labels.view(-1, 1, 1, 1)).to(getattr(torch, dtype))
    half = count // 2
    return SimpleNamespace(
        train_images=images[:half],
        train_labels=labels[:half],
        test_images=images[half:],
        test_labels=labels[half:],
    )
