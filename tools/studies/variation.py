"""Show how far runs of the same code differ: the evidence for the gate's bounds.

    pytest benchmarks --regress-save=runs/bench.json
    python tools/studies/variants.py
    python tools/studies/variation.py runs/bench.json runs/variants/*.json

Prints Markdown: how many comparisons the gate makes and how many fail; for each method the largest
relative change of each first loss and of the losses of a filled adapter, over all cases and seeds;
then the largest change of the means of accuracy and test loss.
"""

import argparse
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from peft_regress.gate.judge import judge
from peft_regress.gate.verdicts import UNACCEPTED, observations_of
from peft_regress.metrics import Metric
from peft_regress.runs.run_file import read_run
from peft_regress.runs.schema import Record, Run

_MOST_NAMED: Final = 5


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
    _print_verdicts(reference, dict(zip(map(str, chosen.others), others, strict=True)))
    pairs = [(old, new) for old, new in pairs if old.status == new.status == "ok"]
    _print_losses(pairs)


def _print_verdicts(reference: Run, others: Mapping[str, Run]) -> None:
    """Judge each run by the reference, as the gate does."""
    references = observations_of(reference, "the reference")
    print("| run | cases | comparisons | regressed | improved | which |")
    print("| --- | ---: | ---: | ---: | ---: | --- |")
    total = failed = 0
    for name, other in others.items():
        expected = references.keys() & other.cases.keys()
        kept = {case: references[case] for case in expected}
        verdict = judge(kept, observations_of(other, name), expected=expected)
        reasons = [
            (case.id, reason)
            for case in verdict.cases
            for reason in case.reasons
            # A metric that only one run has comes from other code; it is no variation.
            if reason.verdict != "known_defect" and None not in {reason.old, reason.new}
        ]
        compared = sum(_comparisons(kept[case].record, other.cases[case]) for case in expected)
        worse = sum(reason.verdict not in UNACCEPTED for _, reason in reasons)
        which = ", ".join(f"{case} {reason.name}" for case, reason in reasons[:_MOST_NAMED])
        counts = (len(expected), compared, worse, len(reasons) - worse)
        cells = (Path(name).stem, *counts, which)
        print("| " + " | ".join(f"{c:,}" if isinstance(c, int) else c for c in cells) + " |")
        total, failed = total + compared, failed + len(reasons)
    # If n independent comparisons give no alarm, the rate is below 3 / n with 95 %.
    bound = f"; with 95 % fewer than one in {int(total / 3):,}" if total and not failed else ""
    print(f"\n{failed} alarms in {total:,} comparisons of a case's metric or invariant{bound}\n")


def _comparisons(old: Record, new: Record) -> int:
    """Count the metrics and invariants of a case that the gate judges on any machine."""
    if not old.status == new.status == "ok":
        return 1  # only the state
    judged = {name for name, m in old.metrics.items() if m.kind not in {"info", "seconds"}}
    facts = {name for name, value in old.invariants.items() if value is not None}
    return len(judged & new.metrics.keys()) + len(facts & new.invariants.keys())


def _print_losses(pairs: list[tuple[Record, Record]]) -> None:
    """Print for each method the largest change of each loss, of fills, and of the outcome."""
    largest: dict[str, dict[str, float]] = defaultdict(dict)
    for old, new in pairs:
        moved = largest[old.case.method]
        before, after = old.metrics, new.metrics
        for one, other in zip(
            _samples(before, "first_losses"), _samples(after, "first_losses"), strict=True
        ):
            for step, change in enumerate(_changes(one, other), start=1):
                moved[f"loss {step}"] = max(moved.get(f"loss {step}", 0.0), change)
        fills = _changes(_samples(before, "filled_losses"), _samples(after, "filled_losses"))
        seeds = zip(_samples(before, "accuracy"), _samples(after, "accuracy"), strict=True)
        for name, change in (
            *(("filled", change) for change in fills),
            ("accuracy of a seed", max((abs(b - a) for a, b in seeds), default=0.0)),
            ("accuracy", abs(after["accuracy"].value - before["accuracy"].value)),
            ("test loss", abs(after["loss"].value / before["loss"].value - 1)),
        ):
            moved[name] = max(moved.get(name, 0.0), change)
    columns = list(dict.fromkeys(name for moved in largest.values() for name in moved))
    print("| method | " + " | ".join(columns) + " |\n| --- |" + " ---: |" * len(columns))
    for method, moved in sorted(largest.items()):
        cells = (f"{moved[name]:.1e}" if name in moved else "-" for name in columns)
        print(f"| {method} | " + " | ".join(cells) + " |")


def _samples(metrics: Mapping[str, Metric], name: str) -> list[Any]:
    return list(metrics[name].samples or ()) if name in metrics else []


def _changes(old: list[float], new: list[float]) -> list[float]:
    return [abs(b - a) / abs(a) for a, b in zip(old, new, strict=False)]


if __name__ == "__main__":
    main()
