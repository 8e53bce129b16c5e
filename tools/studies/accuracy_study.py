"""Train methods until full fine-tuning learns no more: the evidence that `choose` reads.

    python tools/studies/accuracy_study.py                       all that evidence.json lacks
    python tools/studies/accuracy_study.py --only 'shift/*'      of that the ids of a pattern
    python tools/studies/accuracy_study.py --minutes 50          begin no method after that time
    python tools/studies/accuracy_study.py --longer              stored methods, three times as long
    python tools/studies/accuracy_study.py --folder vww          images of one's own, by class
    python tools/studies/accuracy_study.py --cifar10-c CIFAR-10-C --kind impulse_noise

evidence.json is written after each method: an interrupted study goes on where it was. To train a
method anew, remove it from the file. Several processes can take parts of it at once.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator, Sequence
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
START: Final = 75
LONGER: Final = 3
LONGER_SEEDS: Final = 3
METHODS: Final = (
    *(FULL, "head", "lora-r4", "lora-r16", "galore-r4"),  # needed most
    *("bn_head", "dora-r4", "lora-r1", "galore-r16"),
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


def plan_of(seconds: float) -> Plan:
    """Return how long to train: from 75 steps on, five seeds, no method stopped."""
    return Plan(
        names=METHODS,
        start=START,
        seeds=SEEDS,
        ends=time.monotonic() + seconds,
        stops_behind=False,
        say=lambda line: print(line, flush=True),
    )


def wanted(tasks: Sequence[Task], pattern: str) -> Iterator[tuple[Task, str, list[str]]]:
    """Yield a task, a network and its methods whose id matches, the smallest networks first."""
    for task in tasks:
        for network in task.networks:
            ids = {name: f"{task.name}/{name}/{network}" for name in METHODS}
            names = [name for name, one in ids.items() if fnmatchcase(one, pattern)]
            if names:
                yield task, network, names


def train(task: Task, network: str, names: list[str], plan: Plan) -> None:
    """Train the methods that evidence.json lacks, and store each."""
    trainer = task.trainer(network)
    began = time.process_time()
    study = stored(task.name, network)
    if study is None:
        study = begin(trainer, plan, images=task.images, batch=BATCH)
        study = counted(study, began)
        store(task.name, network, study)
    for name in names:
        if name in study.methods or time.monotonic() > plan.ends:
            continue
        began = time.process_time()
        study = counted(add_method(trainer, plan, study, name), began)
        store(task.name, network, study)


def counted(study: Study, began: float) -> Study:
    """Return the study with the processor time since then."""
    hours = round(study.hours + (time.process_time() - began) / 3600, 3)
    return msgspec.structs.replace(study, hours=hours)


def train_longer(task: Task, network: str, names: list[str], plan: Plan) -> None:
    """Train stored methods for three times the steps, at their rates and seeds, and store that."""
    trainer = task.trainer(network)
    study = stored(task.name, network)
    for name in names:
        if study is None or name not in study.methods or time.monotonic() > plan.ends:
            continue
        found, began = study.methods[name], time.process_time()
        if found.longer:
            continue
        steps = LONGER * study.steps
        scores = tuple(
            trainer.points(name, seed=seed, at=(steps,), rate=found.rate)[-1].score
            for seed in range(LONGER_SEEDS)
        )
        print(f"{task.name}/{name}/{network}: {scores}", flush=True)
        methods = {**study.methods, name: msgspec.structs.replace(found, longer=scores)}
        study = counted(msgspec.structs.replace(study, methods=methods), began)
        store(task.name, network, study)


def main() -> None:
    """Train what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="*", metavar="GLOB", help="of the study's ids")
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--longer", action="store_true", help="three times the steps")
    parser.add_argument("--network", default="mobilenet_v2", help="of one's own images")
    parser.add_argument("--folder", type=Path, help="images of one's own: train/CLASS, test/CLASS")
    parser.add_argument("--cifar10-c", type=Path, help="the folder with labels.npy")
    parser.add_argument("--kind", default="impulse_noise", help="of CIFAR-10-C")
    parser.add_argument("--side", type=int, default=64, help="pixels of one's own images")
    chosen = parser.parse_args()
    tasks: Sequence[Task] = TASKS
    if chosen.folder is not None:
        name = chosen.folder.resolve().name
        tasks = [of_folder(name, chosen.folder, chosen.network, side=chosen.side)]
    if chosen.cifar10_c is not None:
        tasks = [of_cifar10_c(chosen.kind, chosen.cifar10_c, chosen.network, side=chosen.side)]
    plan = plan_of(60 * chosen.minutes)
    how: Callable[..., None] = train_longer if chosen.longer else train
    for task, network, names in wanted(tasks, chosen.only):
        print(f"{task.name} on {network}", flush=True)
        how(task, network, names, plan)


if __name__ == "__main__":
    main()
