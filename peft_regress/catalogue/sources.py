"""Source checkpoints: read the stored ones, and refuse any other bytes.

A source that was trained on another machine differs in its last bits, and so does every number
after it, so every machine measures the stored file. `baselines/sources/` holds one safetensors file
for each architecture, in half precision, and `manifest` with their digests. Imports no torch
until a source is read.
"""

import hashlib
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from peft_regress.cases import Case
from peft_regress.catalogue.architectures import Architecture
from peft_regress.catalogue.tasks.digits import NUM_CLASSES, SOURCE_CLASSES
from peft_regress.errors import SourceError
from peft_regress.files import is_folder, read_bytes, resolved
from peft_regress.project.project import is_built_in

if TYPE_CHECKING:
    from torch import Tensor, nn

CLONE_REMEDY: Final = (
    "The built-in cases start from models in the repository: work in a checkout of peft_regress, "
    "or name its folder baselines with --baselines. "
    "Or train models of your own with `peft-regress sources`. `peft-regress init` writes a suite "
    "for your own fine-tuning, which needs neither"
)


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


def build_source(root: Path, architecture: Architecture) -> "nn.Module":
    """Return the stored source model in single precision and eval mode; checks its bytes."""
    import safetensors.torch  # checking bytes must not cost the import

    state = safetensors.torch.load(read_source(root, architecture.name))
    return source_model(architecture, state)


def check_sources(root: Path, names: Iterable[str]) -> list[str]:
    """Return a line for each source that is missing or altered; one line if there is none."""
    problems = []
    for name in names:
        try:
            read_source(root, name)
        except SourceError as error:
            problems.append(str(error))
    return list(dict.fromkeys(problems))


def require_sources(root: Path, cases: Iterable[Case]) -> None:
    """Raise `SourceError` if a case is built in and the storage has no sources at all."""
    if any(map(is_built_in, cases)):
        read_manifest(root)


def read_manifest(root: Path) -> dict[str, SourceEntry]:
    """Return the manifest's entries by architecture, or raise `SourceError`."""
    path = manifest_path(root)
    try:
        return msgspec.json.decode(read_bytes(path), type=dict[str, SourceEntry])
    except OSError as error:
        remedy = _remedy(path) if is_folder(path.parent) else f"{CLONE_REMEDY}."
        problem = _problem(error)
    except (ValueError, RecursionError) as error:
        problem, remedy = f"not a manifest of sources ({error})", _remedy(path)
    raise SourceError(f"{path}: {problem}. {remedy}")


def _problem(error: OSError) -> str:
    is_gone = isinstance(error, FileNotFoundError)
    return "missing" if is_gone else f"cannot be read ({error.strerror})"


def source_digest(root: Path, name: str) -> str:
    """Return the recorded SHA-256 of a source, for a case's definition."""
    manifest = read_manifest(root)
    if name not in manifest:
        path = manifest_path(root)
        has = ", ".join(manifest) or "none"
        raise SourceError(f"{path}: no entry for {name!r} (has {has}). {_remedy(path, name)}")
    return manifest[name].sha256


def read_source(root: Path, name: str) -> bytes:
    """Return the bytes of a stored source, after checking them. Raises `SourceError`."""
    expected = source_digest(root, name)
    path = source_path(root, name)
    try:
        content = read_bytes(path)
        found = hashlib.sha256(content).hexdigest()
        problem = "" if found == expected else f"found {found}"
    except OSError as error:
        problem = _problem(error)
    if problem:
        raise SourceError(f"{path}: {problem}, expected sha256 {expected}. {_remedy(path)}")
    return content


def _remedy(path: Path, name: str | None = None) -> str:
    root = path.parent.parent
    usual = resolved(root) == resolved(Path("baselines"))
    option = "" if usual else f" --baselines {shlex.quote(str(root))}"
    if name is not None:
        # Without it `sources` trains only the architectures of a matrix.
        option = f" --architecture {shlex.quote(name)}{option}"
    return (
        f"Restore it with `git checkout -- {shlex.quote(str(path))}`, or train it with "
        f"`peft-regress sources{option}`."
    )


def source_model(architecture: Architecture, state: Mapping[str, "Tensor"]) -> "nn.Module":
    """Return the source model with a state: in single precision and eval mode."""
    model = architecture.build(num_classes=NUM_CLASSES, seed=0)
    # Copies into the model's own tensors, which are single precision.
    model.load_state_dict(dict(state), strict=True)
    return model.eval()


def source_path(root: Path, name: str) -> Path:
    """Return the file of a source."""
    return root / "sources" / f"{name}.safetensors"


def manifest_path(root: Path) -> Path:
    """Return the file with the digests of the sources."""
    return root / "sources" / "manifest"
