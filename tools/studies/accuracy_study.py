"""Train methods until full fine-tuning learns no more: the evidence that `choose` reads.

    python tools/studies/accuracy_study.py                       all that evidence.json lacks
    python tools/studies/accuracy_study.py --only 'shift/*'      of that the ids of a pattern
    python tools/studies/accuracy_study.py --longer              stored methods, three times as long
    python tools/studies/accuracy_study.py --folder vww          images of one's own, by class
    python tools/studies/accuracy_study.py --cifar10-c CIFAR-10-C --kind impulse_noise

evidence.json is written after each method: an interrupted study goes on where it was. To train a
method anew, remove it from the file. Several processes can take parts of it at once.
"""

import argparse
import functools
import time
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import Final

import msgspec
from accuracy_tasks import BATCH, SOURCES, TASKS, Task, of_cifar10_c, of_folder

from peft_regress.catalogue.evidence import EVIDENCE_FILE, FULL, Evidence, Study
from peft_regress.choosing.study import Plan, add_method, begin
from peft_regress.files import write_atomic
from peft_regress.locks import opened_lock

SEEDS: Final = 5
LONGER: Final = 3
LONGER_SEEDS: Final = 3
SIDE: Final = 64
"""Pixels of images of one's own."""
METHODS: Final = (
    *(FULL, "head", "lora-r4", "lora-r16", "galore-r4"),  # needed most
    *("bn_head", "dora-r4", "lora-r1", "galore-r16"),
)
PLAN: Final = Plan(
    names=METHODS,
    start=75,
    seeds=SEEDS,
    stops_behind=False,
    say=functools.partial(print, flush=True),
)


def stored(task: str, network: str) -> Study | None:
    """Return the study of a task and a network, if there is one."""
    found = msgspec.json.decode(EVIDENCE_FILE.read_bytes(), type=Evidence)
    return found.of(network).get(task)


def store(task: str, network: str, study: Study) -> None:
    """Put a study into evidence.json, which other processes write too."""
    SOURCES.mkdir(parents=True, exist_ok=True)
    with opened_lock(SOURCES / "evidence.lock") as lock:
        lock.own()
        found = msgspec.json.decode(EVIDENCE_FILE.read_bytes(), type=Evidence)
        found.studies.setdefault(task, {})[network] = study
        found.packages.update({name: version(name) for name in ("galore-torch", "peft", "torch")})
        content = msgspec.json.format(msgspec.json.encode(found), indent=1)
        write_atomic(EVIDENCE_FILE, content + b"\n")


def trained(task: Task, network: str, names: Iterable[str], study: Study | None) -> Iterator[Study]:
    """Train the methods that a study lacks; yield it after each."""
    trainer = task.trainer(network)
    if study is None:
        study = begin(trainer, PLAN, images=task.images, batch=BATCH)
        yield study
    for name in names:
        if name not in study.methods:
            study = add_method(trainer, PLAN, study, name)
            yield study


def trained_longer(
    task: Task, network: str, names: Iterable[str], study: Study | None
) -> Iterator[Study]:
    """Train a study's methods for three times the steps, at their rates; yield it after each."""
    trainer = task.trainer(network)
    for name in names:
        found = study.methods.get(name) if study else None
        if study is None or found is None or found.longer:
            continue
        at = (LONGER * study.steps,)
        scores = tuple(
            trainer.points(name, seed=seed, at=at, rate=found.rate)[-1].score
            for seed in range(LONGER_SEEDS)
        )
        print(f"{task.name}/{name}/{network}: {scores}", flush=True)
        methods = {**study.methods, name: msgspec.structs.replace(found, longer=scores)}
        study = msgspec.structs.replace(study, methods=methods)
        yield study


def run(task: Task, network: str, names: Iterable[str], *, longer: bool = False) -> None:
    """Store the study of a task and a network after each training, with its processor time."""
    study = stored(task.name, network)
    hours, began = study.hours if study else 0.0, time.process_time()
    for grown in (trained_longer if longer else trained)(task, network, names, study):
        spent = (time.process_time() - began) / 3600
        store(task.name, network, msgspec.structs.replace(grown, hours=round(hours + spent, 3)))


def main() -> None:
    """Train what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="*", metavar="GLOB", help="of the study's ids")
    parser.add_argument("--longer", action="store_true", help="three times the steps")
    parser.add_argument("--network", default="mobilenet_v2", help="of one's own images")
    parser.add_argument("--folder", type=Path, help="images of one's own: train/CLASS, test/CLASS")
    parser.add_argument("--cifar10-c", type=Path, help="the folder with labels.npy")
    parser.add_argument("--kind", default="impulse_noise", help="of CIFAR-10-C")
    chosen = parser.parse_args()
    tasks: Sequence[Task] = TASKS
    if chosen.folder is not None:
        name = chosen.folder.resolve().name
        tasks = [of_folder(name, chosen.folder, chosen.network, side=SIDE)]
    if chosen.cifar10_c is not None:
        tasks = [of_cifar10_c(chosen.kind, chosen.cifar10_c, chosen.network, side=SIDE)]
    for task, network in ((one, network) for one in tasks for network in one.networks):
        ids = {name: f"{task.name}/{name}/{network}" for name in METHODS}
        if names := [name for name, one in ids.items() if fnmatchcase(one, chosen.only)]:
            print(f"{task.name} on {network}", flush=True)
            run(task, network, names, longer=chosen.longer)


if __name__ == "__main__":
    main()
