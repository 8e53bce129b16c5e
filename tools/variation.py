"""Show how far runs of the same code differ: the evidence for the gate's bounds.

    pytest benchmarks --regress-save=runs/here.json
    ATEN_CPU_CAPABILITY=default pytest benchmarks -n 2 --regress-save=runs/default.json
    python tools/variation.py runs/here.json runs/default.json

Prints Markdown: for each method the largest relative movement of each of the first losses, over all
cases and seeds, then the largest movement of the means of accuracy and test loss, and how many
costs differ at all.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from peft_regress.metrics import METRICS
from peft_regress.policy import DEFAULT_POLICY
from peft_regress.shards import read_run

if TYPE_CHECKING:
    from peft_regress.records import Metric, Record, Run


def main() -> None:
    """Compare the first run with each of the others."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("reference", type=Path)
    parser.add_argument("others", type=Path, nargs="+")
    chosen = parser.parse_args()
    reference = read_run(chosen.reference).run
    others = [read_run(path).run for path in chosen.others]
    pairs = [
        (record, other.cases[name])
        for other in others
        for name, record in reference.cases.items()
        if name in other.cases
    ]
    changed = [old for old, new in pairs if old.status != new.status]
    print(f"{len(others)} runs against {chosen.reference}: {len(pairs)} cases compared")
    print(f"{len(changed)} of them changed state {' '.join(old.case.id for old in changed)}\n")
    pairs = [(old, new) for old, new in pairs if old.status == new.status == "ok"]
    _print_losses(pairs)
    _print_outcomes(pairs)
    _print_costs(pairs, reference)


def _print_losses(pairs: list[tuple[Record, Record]]) -> None:
    largest: dict[str, list[float]] = defaultdict(list)
    for old, new in pairs:
        moved = largest[old.case.method]
        for before, after in zip(_seeds(old), _seeds(new), strict=True):
            for step, (a, b) in enumerate(zip(before, after, strict=True)):
                change = abs(b - a) / max(abs(a), DEFAULT_POLICY.fingerprint_floor_nats)
                moved.extend([0.0] * (step + 1 - len(moved)))
                moved[step] = max(moved[step], change)
    steps = max(map(len, largest.values()), default=0)
    print("| method | " + " | ".join(f"loss {step + 1}" for step in range(steps)) + " |")
    print("| --- |" + " ---: |" * steps)
    for method, moved in sorted(largest.items()):
        print(f"| {method} | " + " | ".join(f"{change:.1e}" for change in moved) + " |")


def _print_outcomes(pairs: list[tuple[Record, Record]]) -> None:
    print("\n| method | accuracy of a seed, points | accuracy, points | test loss, relative |")
    print("| --- | ---: | ---: | ---: |")
    rows: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for old, new in pairs:
        before, after = old.metrics["accuracy"], new.metrics["accuracy"]
        one = max(
            (abs(b - a) for a, b in zip(_plain(before), _plain(after), strict=True)), default=0.0
        )
        losses = old.metrics["loss"].value, new.metrics["loss"].value
        mean = abs(after.value - before.value)
        rows[old.case.method].append((one, mean, abs(losses[1] - losses[0]) / losses[0]))
    for method, found in sorted(rows.items()):
        one, mean, loss = (max(column) for column in zip(*found, strict=True))
        print(f"| {method} | {100 * one:.1f} | {100 * mean:.1f} | {loss:.3f} |")


def _print_costs(pairs: list[tuple[Record, Record]], reference: Run) -> None:
    judged = [
        name for name, spec in METRICS.items() if spec.kind in ("exact", "bytes")
    ]  # a cost is the same number everywhere
    compared = [
        (old.metrics[name].value, new.metrics[name].value)
        for old, new in pairs
        for name in judged
        if name in old.metrics and name in new.metrics
    ]
    differing = sum(before != after for before, after in compared)
    print(f"\n{differing} of {len(compared)} costs differ ({len(reference.cases)} cases a run)")


def _seeds(record: Record) -> list[list[float]]:
    samples = record.metrics["first_losses"].samples or []
    return [sample if isinstance(sample, list) else [sample] for sample in samples]


def _plain(metric: Metric) -> list[float]:
    return [sample for sample in metric.samples or () if not isinstance(sample, list)]


if __name__ == "__main__":
    main()
