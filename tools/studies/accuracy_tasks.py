"""The tasks of the accuracy study: real images, and networks that know something.

`unseen`: classes that the network never saw, with a new head. `shift`: its own classes, corrupted
at severity 3 in training and at 1 to 5 in the test. With images of one's own: `of_folder`,
`of_cifar10_c`.
"""

from __future__ import annotations

import copy
import functools
import gzip
import hashlib
import pickletools
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
import torchvision
from torch.nn import functional
from torchvision.datasets import ImageFolder
from torchvision.transforms.v2 import CenterCrop, Compose, Normalize, PILToTensor, Resize
from torchvision.transforms.v2.functional import gaussian_blur, resize

from peft_regress import registry
from peft_regress.cases import split_adapter_name
from peft_regress.catalogue.architectures.efficientnet_lite import EfficientNetLite0
from peft_regress.catalogue.built_in import cosine_to_zero
from peft_regress.catalogue.matrix import method_at
from peft_regress.catalogue.tasks.digit_images import read_digits
from peft_regress.choosing.study import Trainer
from peft_regress.measure.training import seed_all, single_thread
from peft_regress.project.fine_tune import FineTune, OwnMetric

if TYPE_CHECKING:
    from torch import Tensor, nn

ROOT: Final = Path(__file__).resolve().parents[2]
SOURCES: Final = ROOT / "runs" / "accuracy_sources"
"""Where networks trained here are kept."""
BATCH: Final = 32
SEVERITIES: Final = range(1, 6)
TRAINED_SEVERITY: Final = 3
# By severity, of levels from 0 to 1: standard deviation of the noise and factor of the contrast are
# ImageNet-C's; the blur's standard deviation, a share of the image's side, is CIFAR-10-C's.
NOISE: Final = (0.08, 0.12, 0.18, 0.26, 0.38)
CONTRAST: Final = (0.4, 0.3, 0.2, 0.1, 0.05)
BLUR: Final = tuple(pixels / 32 for pixels in (0.4, 0.6, 0.7, 0.8, 1.0))

ANIMALS_WHEEL: Final = ROOT / "runs" / "animal_mnist-0.4-py3-none-any.whl"
"""By Sina Mohammadi, under the MIT licence."""
ANIMALS_SHA256: Final = {
    "data": "68a30346781a0984f839463a4615d2decb899d1ce65091bb92586311754a34ce",
    "label": "dec8dba7c469830989fbab46825021a08a38470753a512f27ada847eced97b57",
}

Labelled = tuple["Tensor", "Tensor"]
"""Levels from 0 to 1, (count, 3, side, side), and labels (count,)."""


def corrupted(levels: Tensor, severity: int) -> Tensor:
    """Add noise to every third image, blur every third, and take contrast from the others."""
    levels = levels.clone()
    noise, contrast, sigma = (each[severity - 1] for each in (NOISE, CONTRAST, BLUR))
    sigma *= levels.shape[-1]
    noisy, blurred, flat = levels[0::3], levels[1::3], levels[2::3]
    drawn = torch.randn(noisy.shape, generator=torch.Generator().manual_seed(severity))
    means = flat.mean(dim=(1, 2, 3), keepdim=True)
    levels[0::3] = noisy + noise * drawn
    levels[1::3] = gaussian_blur(blurred, [9, 9], [sigma, sigma])
    levels[2::3] = (flat - means) * contrast + means
    return levels.clamp(0, 1)


@functools.cache
def mnist() -> Labelled:
    """Return 5,000 digits of MNIST at their 28 pixels: 500 of each, shuffled once."""
    pixels, labels, _ = read_digits("mnist")
    levels = torch.tensor(pixels).view(-1, 1, 28, 28).expand(-1, 3, -1, -1) / 255
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return levels[order], torch.tensor(labels).long()[order]


def _of_each(images: Labelled, first: int, last: int) -> Labelled:
    """Return from the first to the last image of each class."""
    levels, labels = images
    rows = [torch.nonzero(labels == one).flatten()[first:last] for one in range(10)]
    chosen = torch.cat(rows)
    chosen = chosen[torch.randperm(len(chosen), generator=torch.Generator().manual_seed(0))]
    return levels[chosen], labels[chosen]


def _classes(images: Labelled, first: int, last: int) -> Labelled:
    levels, labels = images
    chosen = (labels >= first) & (labels < last)
    return levels[chosen], labels[chosen] - first


@dataclass(frozen=True, kw_only=True)
class Task:
    """What networks are adapted to."""

    name: str
    """`unseen` or `shift`, as `choose --task` has it, or a name of one's own."""
    networks: tuple[str, ...]
    images: str
    classes: int
    data: Callable[[], tuple[Labelled, Labelled]]
    source: Callable[[str], nn.Module]
    """Returns a network as it is before, by its name."""
    normalised: Callable[[Tensor], Tensor]
    has_new_head: bool = True
    by_severity: bool = False
    """Whether the test has one severity after the other, of equally many images."""

    def model(self, network: str) -> nn.Module:
        """Return the network as it is before, with a new head drawn from the global generator."""
        model = copy.deepcopy(self.source(network))
        if self.has_new_head:
            head = registry.get("architecture", network).head
            old = model.get_submodule(head)
            assert isinstance(old, torch.nn.Linear)  # noqa: S101  (as of every network here)
            model.set_submodule(head, torch.nn.Linear(old.in_features, self.classes))
        # Halves a MobileNet's step; the stub of `to` lacks the argument.
        return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def fine_tune(self, network: str, name: str, steps: int) -> FineTune:
        """Return the fine-tuning of a network by a method, such as `lora-r4`."""
        head = registry.get("architecture", network).head
        method = method_at(*split_adapter_name(name), heads=(head,))
        return FineTune(
            f"{self.name}/{name}/{network}",
            model=functools.partial(self.model, network),
            data=functools.partial(loaded, self),
            adapter=name,
            also_train=(head,),
            schedule=cosine_to_zero(steps),
            mode=method.set_mode,
            steps=steps,
            batch=BATCH,
            metrics=severities() if self.by_severity else None,
        )

    def trainer(self, network: str) -> Trainer:
        """Return what trains a network by any method, for any number of steps."""
        return Trainer(case=functools.partial(self.fine_tune, network), storage=Path())


@functools.cache
def loaded(task: Task) -> tuple[Labelled, Labelled]:
    """Return training and test images as the networks of a task take them, read once."""
    (train, labels), (test, test_labels) = task.data()
    return (task.normalised(train), labels), (task.normalised(test), test_labels)


def severities() -> Mapping[str, OwnMetric]:
    """Return the accuracy at each severity as metrics: a fifth of the test images each."""

    def at(severity: int, model: nn.Module, batches: Sequence[Any]) -> float:
        with torch.inference_mode():
            right = torch.cat([model(images).argmax(1) == labels for images, labels in batches])
        part = len(right) // len(SEVERITIES)
        return float(right[(severity - 1) * part : severity * part].float().mean())

    measures = {f"severity-{one}": functools.partial(at, one) for one in SEVERITIES}
    return {
        name: OwnMetric(measure=measure, unit="fraction", direction="higher")
        for name, measure in measures.items()
    }


@functools.cache
def trained_digits(network: str, *, last: int) -> nn.Module:
    """Return a network trained on clean digits below a class, from random weights; kept in runs/.

    With a cosine to zero over 30 passes of AdamW, BatchNorm in train mode, images moved by up to
    two pixels.
    """
    model: nn.Module = registry.get("architecture", network).build(num_classes=last, seed=0)
    path = SOURCES / f"{network}-digits-{last}.pt"
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model.eval()
    levels, labels = source_digits(last)
    images = normalised_digits(levels)
    seed_all(0)
    model.train()
    steps, draw = 30 * len(labels) // 64, torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, foreach=False)
    schedule = cosine_to_zero(steps)(optimizer)
    with single_thread():
        for _ in range(steps):
            rows = torch.randint(len(labels), (64,), generator=draw)
            down, right = torch.randint(-2, 3, (2,), generator=draw).tolist()
            optimizer.zero_grad()
            moved = images[rows].roll((down, right), (2, 3))
            loss = functional.cross_entropy(model(moved), labels[rows])
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()
            schedule.step()
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), path)
    return model.eval()


def source_digits(last: int) -> Labelled:
    """Return the digits below a class that a source model is trained on: 250 of each."""
    return _classes(_of_each(mnist(), 0, 250), 0, last)


def normalised_digits(levels: Tensor) -> Tensor:
    """Return levels of digits with MNIST's mean and deviation taken out."""
    return (levels - 0.1307) / 0.3081


def normalised_photographs(levels: Tensor) -> Tensor:
    """Return levels as EfficientNet-Lite0 was trained on them."""
    return (levels * 255 - 127) / 128


def imagenet(network: str, *, classes: int) -> nn.Module:
    """Return a network with ImageNet weights and a head to replace; torchvision downloads its."""
    architecture = registry.get("architecture", network)
    if isinstance(architecture, EfficientNetLite0):
        return architecture.source(num_classes=classes)
    model: nn.Module = torchvision.models.get_model(network, weights="DEFAULT")
    return model.eval()


def of_folder(name: str, folder: Path, network: str, *, side: int) -> Task:
    """Return a task on images of one's own, in folder/train/CLASS/ and folder/test/CLASS/."""
    prepare = Compose([Resize(side, antialias=True), CenterCrop(side), PILToTensor()])

    def read(part: str) -> Labelled:
        found = ImageFolder(str(folder / part), prepare)
        levels = torch.stack([pixels for pixels, _ in found]) / 255
        return levels, torch.tensor(found.targets)

    return Task(
        name=name,
        networks=(network,),
        images=f"{name} at {side}x{side} pixels, network trained on ImageNet",
        classes=len(ImageFolder(str(folder / "train")).classes),
        data=lambda: (read("train"), read("test")),
        source=functools.partial(imagenet, classes=2),
        normalised=normalisation_of(network),
    )


def of_cifar10_c(kind: str, folder: Path, network: str, *, side: int) -> Task:
    """Return a task on CIFAR-10-C, the folder with labels.npy and for instance impulse_noise.npy.

    Of the 10,000 images of a severity the first 8,000 train at severity 3, the others test.
    """
    labels = torch.from_numpy(np.load(folder / "labels.npy")).long()[:10_000]

    def levels(pixels: Any) -> Tensor:
        found = torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2)
        resized: Tensor = resize(found, [side, side], antialias=True) / 255
        return resized

    def read() -> tuple[Labelled, Labelled]:
        pixels = np.load(folder / f"{kind}.npy", mmap_mode="r").reshape(5, 10_000, 32, 32, 3)
        tests = torch.cat([levels(of[8_000:]) for of in pixels])
        train = levels(pixels[TRAINED_SEVERITY - 1, :8_000])
        return (train, labels[:8_000]), (tests, labels[8_000:].repeat(5))

    return Task(
        name=f"cifar10-c-{kind}",
        networks=(network,),
        images=f"CIFAR-10-C {kind} at {side}x{side} pixels, network trained on ImageNet",
        classes=10,
        data=read,
        source=functools.partial(imagenet, classes=10),
        normalised=normalisation_of(network),
        by_severity=True,
    )


def normalisation_of(network: str) -> Callable[[Tensor], Tensor]:
    """Return how the network's ImageNet weights want levels of photographs."""
    if network == "efficientnet_lite0":
        return normalised_photographs
    normalise: Callable[[Tensor], Tensor] = Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    return normalise


def unseen_digits() -> tuple[Labelled, Labelled]:
    """Return the digits 5 to 9: 300 of each for training, 200 for the test."""
    train, test = _of_each(mnist(), 0, 300), _of_each(mnist(), 300, 500)
    return _classes(train, 5, 10), _classes(test, 5, 10)


def shifted_digits() -> tuple[Labelled, Labelled]:
    """Return corrupted digits: 190 of each for training, 60 of each for every severity."""
    (train, labels), (test, test_labels) = _of_each(mnist(), 250, 440), _of_each(mnist(), 440, 500)
    tests = torch.cat([corrupted(test, severity) for severity in SEVERITIES])
    return (corrupted(train, TRAINED_SEVERITY), labels), (tests, test_labels.repeat(5))


def bytes_of_animals(part: str) -> bytearray:
    """Return the bytes of an array of the wheel, `data` or `label`.

    They are cut out of a pickle that nobody opens. Raises `ValueError` for another release.
    """
    with zipfile.ZipFile(ANIMALS_WHEEL) as wheel:
        packed = wheel.read(f"animal_mnist/data/Animal_MNIST/animal_{part}_version_3.gz")
    if hashlib.sha256(packed).hexdigest() != ANIMALS_SHA256[part]:
        raise ValueError(f"{ANIMALS_WHEEL} has another animal_{part}_version_3.gz than 0.4")
    written = (value for _, value, _ in pickletools.genops(gzip.decompress(packed)))
    return bytearray(max((value for value in written if isinstance(value, bytes)), key=len))


def animals(remainder: int) -> tuple[Labelled, Labelled]:
    """Return silhouettes of ten animals: every tenth, from a remainder on, for the test."""
    labels = torch.frombuffer(bytes_of_animals("label"), dtype=torch.int64)
    pixels = torch.frombuffer(bytes_of_animals("data"), dtype=torch.uint8)
    levels = pixels.view(-1, 1, 28, 28).expand(-1, 3, -1, -1) / 255
    position = torch.arange(len(labels)) % 10
    is_train, is_test = (position != 0) & (position != 5), position == remainder
    return (levels[is_train], labels[is_train]), (levels[is_test], labels[is_test])


def held_out(remainder: int) -> Task:
    """Return the task that is held out of the study, with one of its two test sets."""
    return Task(
        name="animals",
        networks=DIGIT_NETWORKS,
        images="silhouettes of ten animals at 28x28 pixels, networks trained on MNIST's digits",
        classes=10,
        data=functools.partial(animals, remainder),
        source=functools.partial(trained_digits, last=10),
        normalised=normalised_digits,
    )


DIGIT_NETWORKS: Final = ("shufflenet_v2_x0_5", "mobilenet_v3_small", "mobilenet_v2", "resnet18")
TASKS: Final = (
    Task(
        name="unseen",
        networks=DIGIT_NETWORKS,
        images="MNIST's digits 5 to 9 at 28x28 pixels, networks trained on 0 to 4",
        classes=5,
        data=unseen_digits,
        source=functools.partial(trained_digits, last=5),
        normalised=normalised_digits,
    ),
    Task(
        name="shift",
        networks=DIGIT_NETWORKS,
        images="MNIST's digits at 28x28 pixels with noise, blur or low contrast of severity 3, "
        "tested at 1 to 5, networks trained on clean ones",
        classes=10,
        data=shifted_digits,
        source=functools.partial(trained_digits, last=10),
        normalised=normalised_digits,
        has_new_head=False,
        by_severity=True,
    ),
)
