"""Train source checkpoints and store them; `catalogue.sources` reads them."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import msgspec
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional

from peft_regress.catalogue import sources
from peft_regress.catalogue.architectures import Architecture
from peft_regress.catalogue.tasks.digits import NUM_CLASSES, load_images
from peft_regress.errors import InputError, SourceError
from peft_regress.files import write_atomic
from peft_regress.measure.objective import Objective
from peft_regress.measure.training import single_thread

_TEST_BATCH: Final = 200


@single_thread()
def train_source(
    architecture: Architecture, *, settings: sources.SourceTraining = sources.SOURCE_TRAINING
) -> dict[str, Tensor]:
    """Train a source model from random weights and return its state, floats in half precision.

    The result is the same on one machine, and differs by rounding between machines.

    Raises `InputError` if the architecture does not take images of that size.
    """
    images, labels = load_images("mnist", "source", classes=settings.classes)
    model = architecture.build(num_classes=NUM_CLASSES, seed=settings.seed)
    try:
        with torch.no_grad():
            model.eval()(images[:1])
    except (AssertionError, RuntimeError, ValueError) as error:
        size = "x".join(map(str, images.shape[1:]))
        raise InputError(
            f"{architecture.name} cannot be trained on the source images, which are {size}: {error}"
        ) from error
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=settings.learning_rate, total_steps=settings.steps
    )
    generator = torch.Generator().manual_seed(settings.seed)

    def chosen() -> Tensor:
        return torch.randint(len(images), (settings.batch_size,), generator=generator)

    model.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)  # dropout draws from the global generator
        for _ in range(settings.steps):
            batch = chosen()
            optimizer.zero_grad(set_to_none=True)
            loss = functional.cross_entropy(model(images[batch]), labels[batch])
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()
            schedule.step()
        _recalibrate(model, (images[chosen()] for _ in range(settings.recalibration_batches)))
    return {name: _halve(name, tensor) for name, tensor in model.state_dict().items()}


def _recalibrate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace BatchNorm's running statistics, of a model that trains no more, by plain averages."""
    # mobilenet_v3_small has a momentum of 0.01: after a few hundred steps its running statistics
    # still lag so far behind the weights that the model in eval mode guesses one class.
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None
    with torch.no_grad():
        for batch in batches:
            model(batch)


def _halve(name: str, tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return tensor.clone()
    half = tensor.to(torch.float16)
    if not bool(torch.isfinite(half).all()):
        raise SourceError(
            f"{name} does not fit half precision: its largest value is {tensor.abs().max():.4g}"
        )
    return half


def save_source(
    root: Path,
    architecture: Architecture,
    state: Mapping[str, Tensor],
    *,
    settings: sources.SourceTraining = sources.SOURCE_TRAINING,
) -> sources.SourceEntry:
    """Write a source file, then its manifest entry, each atomically; return the entry."""
    model = sources.source_model(architecture, state)
    images, labels = load_images("mnist", "test", classes=settings.classes)
    batches = list(zip(*(torch.split(each, _TEST_BATCH) for each in (images, labels)), strict=True))
    accuracy = Objective().scores(model, batches)["accuracy"]
    content = safetensors.torch.save(dict(state))
    entry = sources.SourceEntry(
        sha256=hashlib.sha256(content).hexdigest(),
        bytes=len(content),
        accuracy=accuracy,
        settings=settings,
        packages={"torch": torch.__version__.partition("+")[0]},
    )
    manifest = sources.read_manifest(root) if sources.manifest_path(root).exists() else {}
    manifest[architecture.name] = entry
    # The file comes first: after an interruption the digests differ, and reading refuses it.
    write_atomic(sources.source_path(root, architecture.name), content)
    encoded = msgspec.json.encode(dict(sorted(manifest.items())))
    write_atomic(sources.manifest_path(root), msgspec.json.format(encoded, indent=2) + b"\n")
    return entry


def ensure_source(root: Path, architecture: Architecture) -> bool:
    """Train and store a source if none is recorded; return whether it was trained.

    Raises `SourceError` if the stored file is not the recorded bytes: replacing it silently would
    void every baseline made with it.
    """
    name = architecture.name
    known = sources.manifest_path(root).exists() and name in sources.read_manifest(root)
    if known or sources.source_path(root, name).exists():
        sources.read_source(root, name)
        return False
    save_source(root, architecture, train_source(architecture))
    return True
