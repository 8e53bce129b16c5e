"""Train one network by five methods, and compare with what another processor or torch gives.

    python tools/studies/arm.py runs/arm/x86.json                      train; goes on where it ended
    python tools/studies/arm.py runs/arm/x86.json runs/arm/arm.json    compare

Each case is one of the matrix, cut to six steps on eight images: short enough for an emulator. Its
record holds the training in float32 and in float64, and what its whole step costs. The comparison
prints Markdown: how far apart each loss is, which counts differ, and what the gate says.
"""

import argparse
import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from peft_regress.cases import Case
from peft_regress.catalogue.built_in import built_in
from peft_regress.files import write_atomic
from peft_regress.gate import Observation, judge_case
from peft_regress.gate.referees import referee_of
from peft_regress.measure import ProfileCache, Recipe, measure
from peft_regress.runs.environment import describe_machine, installed_packages
from peft_regress.runs.schema import Machine, Record

ROOT: Final = Path(__file__).resolve().parents[2]
STEPS: Final = 6
BATCH: Final = 8
NETWORK: Final = "shufflenet_v2_x0_5"
METHODS: Final = ("head", "full", "lora-r4", "dora-r4", "galore-r4")


class Trained(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured in one environment."""

    environment: dict[str, str]
    machine: Machine
    records: dict[str, Record] = {}
    """By method."""

    def observed(self, method: str) -> Observation:
        """Return a record as the gate takes it."""
        return Observation(
            record=self.records[method],
            environment=self.environment,
            machine=self.machine,
            run_name=self.machine.instruction_set,
        )


def read(path: Path) -> Trained:
    """Return what a file holds."""
    return msgspec.json.decode(path.read_bytes(), type=Trained)


def measured(method: str) -> Record:
    """Return the record of a method."""
    case = built_in(Case.parse(f"shift/{method}/{NETWORK}"), ROOT / "baselines")
    short = dataclasses.replace(case, steps=STEPS, batch=BATCH, seeds=1)
    recipe = Recipe.of(short, ROOT / "baselines")
    return measure(recipe, profiles=ProfileCache(), timed=False, keep_referee=True).record


def train(path: Path) -> None:
    """Measure what a file does not have yet, and write it after each method."""
    found = Trained(environment=installed_packages(), machine=describe_machine())
    if path.exists():
        kept = read(path)
        if (kept.environment, kept.machine) != (found.environment, found.machine):
            raise SystemExit(f"{path} is of another environment: name another file")
        found = kept
    for method in METHODS:
        if method not in found.records:
            records = {**found.records, method: measured(method)}
            found = msgspec.structs.replace(found, records=records)
            write_atomic(path, msgspec.json.encode(found))
            print(f"{method}: {records[method].status}", flush=True)


def differences(old: Iterable[float], new: Iterable[float]) -> str:
    """Return by step how far two lists are apart, as a share of the first."""
    return " ".join(f"{abs(b / a - 1):.0e}" for a, b in zip(old, new, strict=True))


def counts(old: Record, new: Record) -> str:
    """Return which counts differ, and how many are equal."""
    pairs = {
        name: (metric.value, new.metrics[name].value)
        for name, metric in old.metrics.items()
        if metric.unit in {"flop", "byte", "count"}
    }
    moved = [f"{name} {was:,} -> {now:,}" for name, (was, now) in pairs.items() if was != now]
    return ", ".join([*moved, f"{len(pairs) - len(moved)} equal"])


def compare(old: Trained, new: Trained) -> None:
    """Print by method what differs."""
    for one in (old, new):
        print(f"{one.machine.cpu} {one.machine.instruction_set}, torch {one.environment['torch']}")
    print("\n| method | losses, float32 | losses, float64 | gradients, float64 | counts | gate |")
    print("|" + " --- |" * 6)
    for method, now in new.records.items():
        was = old.records[method]
        cells = [method]
        if was.curve and now.curve:
            cells.append(differences(was.curve.losses, now.curve.losses))
        if (known := referee_of(was.referee)) and (found := referee_of(now.referee)):
            cells.append(differences(known.losses, found.losses))
            cells.append(differences(known.gradients, found.gradients))
        verdict = judge_case(now.case.id, old.observed(method), new.observed(method))
        said = " ".join([verdict.verdict, *(f"{one.name}," for one in verdict.reasons)])
        print("| " + " | ".join([*cells, counts(was, now), said.rstrip(",")]) + " |")
    print()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("reference", type=Path)
    parser.add_argument("others", type=Path, nargs="*")
    chosen = parser.parse_args()
    if not chosen.others:
        train(chosen.reference)
    for other in chosen.others:
        compare(read(chosen.reference), read(other))
