"""Crops of the photographs in scikit-image's package: real images without a download."""

import torch
from skimage import color, data
from skimage.filters import threshold_otsu
from torch.nn.functional import interpolate
from torchvision.transforms import v2

NAMES = ("astronaut", "brick", "chelsea", "coffee", "grass", "gravel", "rocket")


def photograph(name):
    """Return a photograph as (channels, height, width) with values from -1 to 1."""
    pixels = getattr(data, name)()
    pixels = color.gray2rgb(pixels) if pixels.ndim == 2 else pixels
    return torch.tensor(pixels).permute(2, 0, 1) / 127.5 - 1


def crops(photo, *, size, count, generator, side=128):
    """Return square crops at random places, scaled to a size."""
    rows = torch.randint(photo.shape[1] - side, (count,), generator=generator).tolist()
    columns = torch.randint(photo.shape[2] - side, (count,), generator=generator).tolist()
    found = [photo[:, y : y + side, x : x + side] for y, x in zip(rows, columns, strict=True)]
    return interpolate(torch.stack(found), size=(size, size), mode="area")


def labelled_crops(size, *, train=32, test=8):
    """Return training and test crops, labelled by their photograph; the two never overlap."""
    generator = torch.Generator().manual_seed(0)
    parts = []
    for side, count in (("left", train), ("right", test)):
        images = []
        for name in NAMES:
            photo = photograph(name)
            middle = photo.shape[2] * 6 // 10
            half = photo[..., :middle] if side == "left" else photo[..., middle:]
            images.append(crops(half, size=size, count=count, generator=generator))
        labels = torch.arange(len(NAMES)).repeat_interleave(count)
        parts.append((torch.cat(images), labels))
    return tuple(parts)


def corrupted_crops(size):
    """Return the labelled crops blurred, with little contrast, and noisy."""
    worsen = v2.Compose(
        [
            v2.GaussianBlur(5, 1),
            v2.Lambda(lambda x: x / 2),
            v2.GaussianNoise(sigma=0.05, clip=False),
        ]
    )
    return tuple((worsen(images), labels) for images, labels in labelled_crops(size))


def coins(size, *, train=64, test=16):
    """Return crops of a photograph of coins, with masks that say which pixels are of a coin."""
    generator = torch.Generator().manual_seed(0)
    photo = photograph("coins")
    mask = photo[:1] > threshold_otsu(photo[0].numpy())
    both = torch.cat([photo, mask * 2.0 - 1])
    parts = (
        crops(half, size=size, count=count, generator=generator, side=96)
        for half, count in ((both[..., :230], train), (both[..., 230:], test))
    )
    return tuple((part[:, :3], (part[:, 3] > 0).long()) for part in parts)


def overlap(model, batches):
    """Return how much found and true masks overlap: intersection over union."""
    pairs = [(model(images)["out"].argmax(1), masks) for images, masks in batches]
    both = sum((found & masks).sum().item() for found, masks in pairs)
    return both / sum((found | masks).sum().item() for found, masks in pairs)


def accuracy(model, batches):
    """Return the fraction of images whose photograph is found."""
    right = [model(images).argmax(1) == labels for images, labels in batches]
    return torch.cat(right).float().mean().item()
