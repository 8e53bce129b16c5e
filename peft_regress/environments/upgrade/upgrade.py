"""Take a candidate environment through a matrix, and tell what moved against the current one."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from peft_regress.baselines.adapters import adapters_of_run, prune_adapters
from peft_regress.baselines.entries import read_runs
from peft_regress.baselines.references import named_cases, newest_references
from peft_regress.catalogue.matrix import select_cases
from peft_regress.environments.overlay.overlay import opened_overlay
from peft_regress.environments.upgrade.crew import measure_cases
from peft_regress.environments.upgrade.culprits import find_culprits
from peft_regress.gate.comparison import Comparison, Invocation
from peft_regress.gate.judge import judge
from peft_regress.gate.verdicts import observations_of
from peft_regress.runs.environment import changed_packages, installed_packages
from peft_regress.runs.run_file import without_host, write_run_file

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from peft_regress.cases import Case
    from peft_regress.environments.overlay.overlay import Overlay
    from peft_regress.environments.upgrade.crew import MeasuringSetup
    from peft_regress.environments.upgrade.culprits import Culprits
    from peft_regress.gate.findings import Finding
    from peft_regress.gate.verdicts import Observation
    from peft_regress.runs.schema import Record, Run

__all__ = ["Told", "Upgrade", "UpgradeSettings", "upgrade"]


@dataclass(frozen=True, kw_only=True)
class UpgradeSettings:
    """How a candidate is taken through the matrix.

    base: what it is compared with: `auto` (the stored baseline where it was made with the very
    packages of the current environment, else a run of that), `run`, or an entry, a run file or a
    folder by name. save: the candidate's run file. strict: what got better, and nobody accepted,
    fails, too.
    """

    place: MeasuringSetup
    pattern: str | None = None
    matrix: str = "default"
    base: str = "auto"
    save: Path | None = None
    strict: bool = False
    replace_torch: bool = False
    pre: bool = False


@dataclass(frozen=True, kw_only=True)
class Told:
    """What an upgrade tells while it works: sentences, and each record as it comes."""

    say: Callable[[str], None] = lambda _: None
    record: Callable[[str, Record, int, int], None] = lambda *_: None
    """(which side, the record, how many there are now, how many there will be)."""


@dataclass(frozen=True, kw_only=True)
class Upgrade:
    """What came of an upgrade.

    culprits: of each finding in `suspected`, which package does it; none where only one changed.
    """

    requirements: tuple[str, ...]
    base_origin: str
    comparison: Comparison
    candidate: Run
    changed: Mapping[str, tuple[str | None, str | None]]
    suspected: tuple[Finding, ...]
    culprits: tuple[Culprits, ...]
    remarks: tuple[str, ...]
    saved: Path | None


def upgrade(
    requirements: Sequence[str],
    settings: UpgradeSettings,
    *,
    tell: Told,
    finish: Callable[[Upgrade, Overlay], None] = lambda *_: None,
) -> Upgrade:
    """Measure the candidate and what it is compared with, judge, and group what moved.

    `finish` is called while the candidate's environment still stands. Raises `InputError` where
    the requirements or the environment cannot be used, `UnknownNameError` for a glob that no case
    fits.
    """
    cases = select_cases(settings.pattern, matrix=settings.matrix)
    # Before minutes of work: what is unreadable, or named and absent, is known at once.
    stored = _stored_references(cases, settings)
    with opened_overlay(
        requirements,
        replace_torch=settings.replace_torch,
        pre=settings.pre,
        seconds=settings.place.pip_seconds,
    ) as overlay:
        tell.say(_overlay_sentence(overlay))
        candidate = _measured("candidate", cases, overlay.python, settings, tell=tell)
        if settings.save is not None:
            _save(settings.save, candidate)
        if stored is None:
            tell.say("measuring the current environment: no stored baseline is of these packages")
            base = _measured("current", cases, Path(sys.executable), settings, tell=tell)
            stored = observations_of(base, "the current environment")
        names = [case.id for case in cases]
        references = {name: stored[name] for name in names if name in stored}
        observed = observations_of(candidate, "the candidate")
        comparison = judge(
            references, observed, expected=names, invocation=Invocation(strict=settings.strict)
        )
        suspected = tuple(
            found for found in comparison.findings if found.is_failing or found.is_better
        )
        compared = next(iter(references.values()), None)
        before = installed_packages() if compared is None else compared.environment
        result = Upgrade(
            requirements=tuple(requirements),
            base_origin=_origins(references),
            comparison=comparison,
            candidate=candidate,
            changed=changed_packages(before, candidate.environment),
            suspected=suspected,
            culprits=find_culprits(
                suspected, (), overlay.planned, references, place=settings.place, say=tell.say
            ),
            remarks=overlay.remarks,
            saved=settings.save,
        )
        finish(result, overlay)
        return result


def _origins(references: Mapping[str, Observation]) -> str:
    found = dict.fromkeys(observation.run_name for observation in references.values())
    return ", ".join(found) or "nothing"


def _stored_references(
    cases: Sequence[Case], settings: UpgradeSettings
) -> Mapping[str, Observation] | None:
    """Return what stands for the current environment without a run of it; None for a run."""
    if settings.base == "run":
        return None
    if settings.base != "auto":
        return named_cases(settings.place.baselines, settings.base)
    found = newest_references(read_runs(settings.place.baselines))
    here = installed_packages()
    stands = all(case.id in found and found[case.id].environment == here for case in cases)
    return found if stands else None


def _measured(
    side: str, cases: Sequence[Case], python: Path, settings: UpgradeSettings, *, tell: Told
) -> Run:
    done = 0

    def told(record: Record) -> None:
        nonlocal done
        done += 1
        tell.record(side, record, done, len(cases))

    save = settings.save if side == "candidate" else None
    return measure_cases(
        cases,
        python=python,
        place=settings.place,
        narrowed_by=[] if settings.pattern is None else [f"--cases {settings.pattern}"],
        matrix=settings.matrix,
        keep_adapters=None if save is None else adapters_of_run(save),
        tell=told,
        rescue=lambda run: None if save is None else _save(save, run),
    )


def _save(path: Path, run: Run) -> None:
    write_run_file(path, run, _document_base())
    prune_adapters(adapters_of_run(path), run)


def _document_base() -> dict[str, Any]:
    """Return what pytest-benchmark would write besides the cases: the machine, and no times."""
    import datetime as dt

    import pytest_benchmark
    from pytest_benchmark.plugin import pytest_benchmark_generate_machine_info
    from pytest_benchmark.utils import get_commit_info

    return {
        "machine_info": without_host(pytest_benchmark_generate_machine_info()),  # type: ignore[no-untyped-call]  # untyped there
        "commit_info": get_commit_info(),  # type: ignore[no-untyped-call]  # untyped there
        "benchmarks": [],
        "datetime": dt.datetime.now(dt.UTC).isoformat(),
        "version": pytest_benchmark.__version__,
    }


def _overlay_sentence(overlay: Overlay) -> str:
    if not overlay.packages:
        return "candidate: everything that was asked for is installed here already"
    packages = ", ".join(f"{name} {version}" for name, version in overlay.packages.items())
    how = "cached" if overlay.was_cached else f"built, {overlay.size_bytes / 2**20:.1f} MiB"
    return f"candidate: {packages} over the current environment ({how})"
