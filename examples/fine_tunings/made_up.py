"""Data made by a formula: sentences, sequences, sounds and boxes."""

import torch

WORDS = 64


def sentences(count=160, length=16):
    """Return token ids, masks and labels: which of the two halves of the words is more frequent."""
    labels = torch.randint(2, (count,))
    words = torch.randint(2, WORDS // 2, (count, length))
    is_upper = torch.rand(count, length) < 0.3 + 0.4 * labels[:, None]
    mask = (torch.arange(length) < torch.randint(length // 2, length + 1, (count, 1))).long()
    ids = (words + is_upper * (WORDS // 2 - 2)) * mask
    return halves({"input_ids": ids, "attention_mask": mask, "labels": labels})


def sequences(count=160, length=24):
    """Return token ids that grow by the same step, which is to be found; also as labels."""
    start = torch.randint(WORDS, (count, 1))
    step = torch.randint(1, 6, (count, 1))
    ids = (start + step * torch.arange(length)) % WORDS
    return halves({"input_ids": ids, "labels": ids})


def spectrograms(count=160, samples=4096):
    """Return images of sounds (count, 1, 32, 32), labelled by the shape of their wave."""
    labels = torch.arange(count) % 3
    pitch = 2 ** (3 * torch.rand(count, 1)) * 100
    phase = pitch * torch.linspace(0, 1, samples) % 1
    waves = torch.stack([torch.sin(2 * torch.pi * phase), phase * 2 - 1, (phase < 0.5) * 2.0 - 1])
    sound = waves[labels, torch.arange(count)] + 0.1 * torch.randn(count, samples)
    window = torch.hann_window(64)
    shifted = torch.stft(sound, 64, hop_length=128, window=window, return_complex=True)
    return halves((shifted.abs().log1p()[:, None, :32, :32], labels))


def boxes(count=160, size=32):
    """Return images with one bright box, its corners as fractions, and whether it is striped."""
    corners = torch.rand(count, 2) * 0.5
    corners = torch.cat([corners, corners + 0.2 + 0.3 * torch.rand(count, 2)], dim=1)
    place = torch.arange(size) / size
    inside = [(place >= corners[:, i, None]) & (place < corners[:, i + 2, None]) for i in (0, 1)]
    box = (inside[0][:, None, :] & inside[1][:, :, None]).float()
    labels = torch.arange(count) % 2
    stripes = torch.where(labels[:, None] == 1, torch.arange(size) % 2, torch.ones(size))
    images = box * stripes[:, None, :] + 0.1 * torch.randn(count, size, size)
    return halves({"images": images[:, None], "boxes": corners, "labels": labels})


def halves(items):
    """Return three quarters for training and the rest for testing."""
    if isinstance(items, dict):
        parts = halves(tuple(items.values()))
        return tuple(dict(zip(items, part, strict=True)) for part in parts)
    middle = len(items[0]) * 3 // 4
    return tuple(item[:middle] for item in items), tuple(item[middle:] for item in items)
