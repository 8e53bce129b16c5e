"""Train one network by five methods, and compare with what another processor or torch gives.

    python tools/studies/arm.py runs/arm/x86.json                      train; goes on where it ended
    python tools/studies/arm.py runs/arm/x86.json runs/arm/arm.json    compare

Each case is one of the matrix, cut to six steps on eight images: short enough for an emulator. Its
record holds the training in float32 and in float64, and what its whole step costs. The comparison
prints Markdown: by how much each loss differs at most, which counts do, and what the gate says.
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
    found, equal = [], 0
    for name, metric in old.metrics.items():
        if metric.unit in {"flop", "byte", "count"}:
            was, now = metric.value, new.metrics[name].value
            equal += was == now
            found += [] if was == now else [f"{name} {was:,} -> {now:,}"]
    return ", ".join([*found, f"{equal} equal"])


def compare(old: Trained, new: Trained) -> None:
    """Print by method what differs."""
    sides = (
        f"{one.machine.instruction_set}, torch {one.environment['torch']}" for one in (old, new)
    )
    print(f"\n{' against '.join(sides)}:\n")
    print("| method | losses, float32 | losses, float64 | gradients, float64 | counts | gate |")
    print("|" + " --- |" * 6)
    for method, record in new.records.items():
        known = old.records[method]
        cells = [method, *("-" for _ in range(3)), counts(known, record)]
        if known.curve and record.curve:
            cells[1] = differences(known.curve.losses, record.curve.losses)
        if (was := referee_of(known.referee)) and (now := referee_of(record.referee)):
            cells[2] = differences(was.losses, now.losses)
            cells[3] = differences(was.gradients, now.gradients)
        verdict = judge_case(record.case.id, old.observed(method), new.observed(method))
        cells.append(" ".join([verdict.verdict, *(one.name for one in verdict.reasons)]))
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("reference", type=Path)
    parser.add_argument("others", type=Path, nargs="*")
    chosen = parser.parse_args()
    if not chosen.others:
        train(chosen.reference)
    for other in chosen.others:
        compare(read(chosen.reference), read(other))
