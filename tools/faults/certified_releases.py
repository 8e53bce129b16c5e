"""Compare what certificates say of two releases of peft with what full runs say.

    python tools/faults/certified_releases.py            the stored releases, and the transitions
    python tools/faults/certified_releases.py --write    write the tables into docs/quick.md

For each pair of releases and each case: whether the certificate says that both train the same, and
whether their full runs differ. A "same" where a full run differs in what a quick run would not
measure is wrong: exit code 1. The stored releases were trained when they were accepted; here they
take the first steps of each case alone. Takes 15 minutes on two cores.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
from packaging.version import Version

from peft_regress.baselines.entries import read_runs
from peft_regress.catalogue.matrix import matrix_cases, parse_case_id
from peft_regress.environments.overlay.overlay import opened_overlay
from peft_regress.environments.upgrade.measuring import MeasuringSetup, measure_cases
from peft_regress.environments.worker.environment_variables import variables
from peft_regress.gate.judge import judge_case
from peft_regress.gate.verdicts import Observation, observations_of
from peft_regress.runs.schema import Computation

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

ROOT: Final = Path(__file__).resolve().parents[2]
BASELINES: Final = ROOT / "baselines"
PAGE: Final = ROOT / "docs" / "quick.md"
_MOST: Final = 4
_WORKER: Final = Path(__file__).with_name("first_steps_alone.py")

TRANSITIONS: Final = (
    ("0.11.1", "0.12.0", "shift/lora-bf16-r4/shufflenet_v2_x0_5"),
    ("0.13.2", "0.14.0", "shift/lokr-r4/resnet18"),
    ("0.14.0", "0.15.0", "shift/dora-r4/shufflenet_v2_x0_5"),
    ("0.14.0", "0.15.0", "shift/lora-r4/resnet18"),
    ("0.15.2", "0.16.0", "shift/dora-r4/shufflenet_v2_x0_5"),
    ("0.19.1", "0.20.0", "shift/loha-r4/shufflenet_v2_x0_5"),
    ("0.19.1", "0.20.0", "shift/adalora-r4/shufflenet_v2_x0_5"),
)
"""Those of docs/upgrading.md: release before, release after, case."""


def said(old: Computation | str | None, new: Computation | str | None) -> str:
    """Return what certificates say of two trainings."""
    if not isinstance(old, Computation) or not isinstance(new, Computation):
        return "none"
    return "same" if old.equals(new) else "different"


def unseen(old: Observation, new: Observation) -> list[str]:
    """Return what differs in full runs and would not be measured in a quick one."""
    reasons = judge_case(new.record.case.id, old, new).reasons
    return [r.metric for r in reasons if r.verdict != "known_defect" and needs_training(r.metric)]


def needs_training(metric: str) -> bool:
    """Return whether a certified case lacks what a reason speaks of."""
    of_training = {"accuracy", "loss", "first_losses", "optimizer_updates", "status"}
    facts = {"frozen_unchanged", "trainable_changed", "projections_renewed"}
    return metric in of_training or metric.removeprefix("invariant ") in facts


# --- The stored releases --------------------------------------------------------------------------


def stored_releases() -> dict[str, dict[str, Observation]]:
    """Return the newest full run of each case of the default matrix, by release of peft."""
    names = {case.id for case in matrix_cases("default")}
    found: dict[str, dict[str, Observation]] = {}
    for entry in read_runs(BASELINES, ledgers=False):
        release = entry.run.environment["peft"]
        for name, one in observations_of(entry.run, entry.path.stem).items():
            if name in names:
                found.setdefault(release, {})[name] = one
    return dict(sorted(found.items(), key=lambda item: Version(item[0])))


def certificates(release: str, cases: Iterable[str]) -> dict[str, Computation | str]:
    """Return the certificate of each case under a release of peft."""
    ordered = sorted(cases)
    halves = [ordered[::2], ordered[1::2]]
    with opened_overlay([f"peft=={release}"]) as overlay, ThreadPoolExecutor(2) as pool:
        found = dict(
            itertools.chain.from_iterable(
                part.items() for part in pool.map(lambda one: _asked(overlay.python, one), halves)
            )
        )
    return {
        name: one if isinstance(one, str) else msgspec.convert(one, Computation)
        for name, one in found.items()
    }


def _asked(python: Path, cases: Sequence[str]) -> dict[str, Any]:
    done = subprocess.run(
        [python, _WORKER],
        input="\n".join(cases),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=variables(),
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def compare_stored() -> tuple[list[list[str]], list[str]]:
    """Return a row for each pair of neighbouring releases, and each wrong certificate."""
    stored = stored_releases()
    made = {}
    for release, full in stored.items():
        made[release] = certificates(release, full)
        print(f"peft {release}: first steps of {len(full)} cases", flush=True)
    rows, wrong = [], []
    for old, new in itertools.pairwise(stored):
        counts: Counter[tuple[str, bool]] = Counter()
        for name in sorted(stored[old].keys() & stored[new].keys()):
            verdict = said(made[old][name], made[new][name])
            differing = unseen(stored[old][name], stored[new][name])
            counts[verdict, bool(differing)] += 1
            if verdict == "same" and differing:
                wrong.append(f"peft {old} -> {new}, {name}: {', '.join(differing)}")
        rows.append([f"{old} -> {new}", *_cells(counts)])
    return rows, wrong


def _cells(counts: Mapping[tuple[str, bool], int]) -> list[str]:
    return [str(counts[verdict, differs]) for verdict, differs in (
        ("same", False), ("same", True), ("different", True), ("different", False),
        ("none", True), ("none", False),
    )]  # fmt: skip


# --- The transitions ------------------------------------------------------------------------------


def compare_transitions() -> tuple[list[list[str]], list[str]]:
    """Train each transition's case under both releases; return rows and wrong certificates."""
    rows, wrong = [], []
    for old, new, name in TRANSITIONS:
        before, after = (_measured(release, name) for release in (old, new))
        computations = [
            None if one.record.computation is msgspec.UNSET else one.record.computation
            for one in (before, after)
        ]
        verdict = said(*computations)
        reasons = judge_case(name, before, after).reasons
        lost = unseen(before, after)
        rows.append([f"{old} -> {new}", f"`{name}`", verdict, _shown([r.metric for r in reasons])])
        print(" | ".join(rows[-1]), flush=True)
        if verdict == "same" and lost:
            wrong.append(f"peft {old} -> {new}, {name}: {', '.join(lost)}")
    return rows, wrong


def _shown(metrics: Sequence[str]) -> str:
    """Return the first metrics that differ, and how many more do."""
    names = list(dict.fromkeys(metrics))
    more = [f"{len(names) - _MOST} more"] if len(names) > _MOST else []
    return ", ".join([*(f"`{name}`" for name in names[:_MOST]), *more]) or "nothing"


def _measured(release: str, name: str) -> Observation:
    with opened_overlay([f"peft=={release}"]) as overlay:
        setup = MeasuringSetup(baselines=BASELINES, jobs=1)
        run = measure_cases([parse_case_id(name)], python=overlay.python, setup=setup)
    return observations_of(run, f"peft {release}")[name]


# --- The page -------------------------------------------------------------------------------------


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def put(page: str, marker: str, content: str) -> str:
    """Return the page with a table between its markers."""
    between = re.compile(f"<!-- {marker} -->.*?<!-- /{marker} -->", re.DOTALL)
    text = f"<!-- {marker} -->\n\n{content}\n\n<!-- /{marker} -->"
    found, count = between.subn(lambda _: text, page)
    if count != 1:
        sys.exit(f"{PAGE} needs the markers <!-- {marker} --> and <!-- /{marker} --> once")
    return found


def main() -> int:
    """Compare, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="write into docs/quick.md")
    chosen = parser.parse_args()
    transitions, wrong_once = compare_transitions()
    stored, wrong = compare_stored()
    wrong += wrong_once
    tables = {
        "releases": markdown(
            ("peft", "same, full runs equal", "same, full runs differ", "different, they differ",
             "different, they are equal", "none, they differ", "none, they are equal"),
            stored,
        ),
        "transitions": markdown(
            ("peft", "case", "certificate", "full runs differ in"), transitions
        ),
    }  # fmt: skip
    print(*tables.values(), sep="\n\n")
    print(f"{len(wrong)} wrong certificates", *wrong, sep="\n  ")
    if chosen.write:
        page = PAGE.read_text()
        for marker, table in tables.items():
            page = put(page, marker, table)
        PAGE.write_text(page)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
