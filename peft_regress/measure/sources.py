"""Source checkpoints: train them once, store them, and refuse any other bytes.

A source that was trained on another machine differs in its last bits, and so does every number
after it, so every machine measures the stored file. `baselines/sources/` holds one safetensors file
for each architecture, in half precision, and `sources.json` with their digests.
"""

from __future__ import annotations

import hashlib
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import safetensors
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional

from peft_regress.catalogue.tasks.digits import NUM_CLASSES, SOURCE_CLASSES, load_images
from peft_regress.errors import InputError, SourceError
from peft_regress.files import write_atomic
from peft_regress.measure.training import evaluate, single_thread

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

    from peft_regress.catalogue.architectures.protocol import Architecture


class SourceTraining(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every hyperparameter of source training."""

    scanner: str = "mnist"
    classes: int = SOURCE_CLASSES
    steps: int = 300
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    schedule: str = "one cycle, cosine"
    recalibration_batches: int = 20
    seed: int = 0


SOURCE_TRAINING: Final = SourceTraining()


class SourceEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The manifest's entry for one file."""

    sha256: str
    bytes: int
    accuracy: float
    """On held-out images of the source task."""
    settings: SourceTraining = msgspec.field(name="recipe")
    packages: dict[str, str]


@single_thread()
def train_source(
    architecture: Architecture, *, settings: SourceTraining = SOURCE_TRAINING
) -> dict[str, Tensor]:
    """Train a source model from random weights and return its state, floats in half precision.

    The result is the same on one machine, and differs by rounding between machines.

    Raises `InputError` if the architecture does not take images of that size.
    """
    images, labels = load_images("mnist", "source", classes=settings.classes)
    model = architecture.build(num_classes=NUM_CLASSES, seed=settings.seed)
    _check_takes(architecture.name, model, images[:1])
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=settings.learning_rate, total_steps=settings.steps
    )
    generator = torch.Generator().manual_seed(settings.seed)
    model.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)  # dropout draws from the global generator
        for _ in range(settings.steps):
            chosen = torch.randint(len(images), (settings.batch_size,), generator=generator)
            optimizer.zero_grad(set_to_none=True)
            loss = functional.cross_entropy(model(images[chosen]), labels[chosen])
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()
            schedule.step()
        _recalibrate(
            model,
            [
                images[torch.randint(len(images), (settings.batch_size,), generator=generator)]
                for _ in range(settings.recalibration_batches)
            ],
        )
    return {name: _halve(name, tensor) for name, tensor in model.state_dict().items()}


def _check_takes(name: str, model: nn.Module, images: Tensor) -> None:
    try:
        with torch.no_grad():
            model.eval()(images)
    except (AssertionError, RuntimeError, ValueError) as error:
        size = "x".join(map(str, images.shape[1:]))
        msg = f"{name} cannot be trained on the source images, which are {size}: {error}"
        raise InputError(msg) from error


def _recalibrate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace BatchNorm's running statistics by plain averages over some batches.

    mobilenet_v3_small has a momentum of 0.01: after a few hundred steps its running statistics
    still lag so far behind the weights that the model in eval mode guesses one class.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
    with torch.no_grad():
        for batch in batches:
            model(batch)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum


def _halve(name: str, tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return tensor.clone()
    half = tensor.to(torch.float16)
    if not bool(torch.isfinite(half).all()):
        msg = f"{name} does not fit half precision: its largest value is {tensor.abs().max():.4g}"
        raise SourceError(msg)
    return half


def save_source(
    root: Path,
    architecture: Architecture,
    state: Mapping[str, Tensor],
    *,
    settings: SourceTraining = SOURCE_TRAINING,
) -> SourceEntry:
    """Write a source file, then its manifest entry, each atomically; return the entry."""
    model = _model_of(architecture, state)
    images, labels = load_images("mnist", "test", classes=settings.classes)
    accuracy, _ = evaluate(model, images, labels)
    content = safetensors.torch.save(dict(state))
    entry = SourceEntry(
        sha256=hashlib.sha256(content).hexdigest(),
        bytes=len(content),
        accuracy=accuracy,
        settings=settings,
        packages={"torch": torch.__version__.partition("+")[0]},
    )
    manifest = read_manifest(root) if _manifest_path(root).exists() else {}
    manifest[architecture.name] = entry
    # The file comes first: after an interruption the digests differ, and reading refuses it.
    write_atomic(_source_path(root, architecture.name), content)
    encoded = msgspec.json.encode(dict(sorted(manifest.items())))
    write_atomic(_manifest_path(root), msgspec.json.format(encoded, indent=2) + b"\n")
    return entry


def ensure_source(root: Path, architecture: Architecture, *, force: bool = False) -> bool:
    """Train and store a source if none is recorded, or if forced; return whether it was trained.

    Raises `SourceError` if the stored file is not the recorded bytes: replacing it silently would
    void every baseline made with it.
    """
    name = architecture.name
    known = _manifest_path(root).exists() and name in read_manifest(root)
    if not force and (known or _source_path(root, name).exists()):
        _read_checked(root, name)
        return False
    save_source(root, architecture, train_source(architecture))
    return True


def load_source(root: Path, architecture: Architecture) -> dict[str, Tensor]:
    """Return the state of a stored source in single precision, after checking its bytes.

    Raises `SourceError` if the file or its entry is missing, or the digest differs.
    """
    content = _read_checked(root, architecture.name)
    return {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in safetensors.torch.load(content).items()
    }


def build_source(root: Path, architecture: Architecture) -> nn.Module:
    """Return the stored source model in single precision and eval mode."""
    return _model_of(architecture, load_source(root, architecture))


def source_digest(root: Path, name: str) -> str:
    """Return the recorded SHA-256 of a source, for a case's definition."""
    return _entry(root, name).sha256


def check_sources(root: Path, names: Iterable[str]) -> list[str]:
    """Return a line for each source that is missing or altered."""
    problems = []
    for name in names:
        try:
            _read_checked(root, name)
        except SourceError as error:
            problems.append(str(error))
    return problems


def read_manifest(root: Path) -> dict[str, SourceEntry]:
    """Return the manifest's entries by architecture, or raise `SourceError`."""
    path = _manifest_path(root)
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, SourceEntry])
    except FileNotFoundError:
        msg = f"{path}: missing. {_remedy(path)}"
    except OSError as error:
        msg = f"{path}: cannot be read ({error.strerror}). {_remedy(path)}"
    except msgspec.DecodeError as error:
        msg = f"{path}: not a manifest of sources ({error}). {_remedy(path)}"
    raise SourceError(msg)


def _entry(root: Path, name: str) -> SourceEntry:
    manifest = read_manifest(root)
    if name not in manifest:
        path = _manifest_path(root)
        msg = f"{path}: no entry for {name!r} (has {', '.join(manifest) or 'none'}). "
        raise SourceError(msg + _remedy(path, name))
    return manifest[name]


def _read_checked(root: Path, name: str) -> bytes:
    expected = _entry(root, name).sha256
    path = _source_path(root, name)
    try:
        content = path.read_bytes()
    except OSError as error:
        gone = isinstance(error, FileNotFoundError)
        what = "missing" if gone else f"cannot be read ({error.strerror})"
        msg = f"{path}: {what}, expected sha256 {expected}. {_remedy(path)}"
        raise SourceError(msg) from None
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        msg = f"{path}: expected sha256 {expected}, found {found}. {_remedy(path)}"
        raise SourceError(msg)
    return content


def _remedy(path: Path, name: str | None = None) -> str:
    root = path.parent.parent
    usual = root.resolve() == Path("baselines").resolve()
    option = "" if usual else f" --baselines {shlex.quote(str(root))}"
    if name is not None:
        # Without it `sources` trains only the architectures of a matrix.
        option = f" --architecture {shlex.quote(name)}{option}"
    return (
        f"Restore it with `git checkout -- {shlex.quote(str(path))}`, or train it with "
        f"`peft-regress sources{option}`."
    )


def _model_of(architecture: Architecture, state: Mapping[str, Tensor]) -> nn.Module:
    model = architecture.build(num_classes=NUM_CLASSES, seed=0)
    # Copies into the model's own tensors, which are single precision.
    model.load_state_dict(dict(state), strict=True)
    return model.eval()


def _source_path(root: Path, name: str) -> Path:
    return root / "sources" / f"{name}.safetensors"


def _manifest_path(root: Path) -> Path:
    return root / "sources" / "sources.json"
