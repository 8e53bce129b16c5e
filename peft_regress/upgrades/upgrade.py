"""Measure a candidate environment on a matrix, and compare it with the current one."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
from msgspec import UNSET

from peft_regress.baselines.named_runs import named_cases
from peft_regress.baselines.references import read_references
from peft_regress.baselines.run_adapters import adapters_of_run
from peft_regress.cases import Case
from peft_regress.catalogue.matrix import select_cases
from peft_regress.catalogue.own_cases import device_classes
from peft_regress.catalogue.sources import require_sources
from peft_regress.gate.comparison import Comparison, Invocation
from peft_regress.gate.findings import Finding
from peft_regress.gate.judge import judge
from peft_regress.gate.repeats import known_curves, whole
from peft_regress.gate.verdicts import Observation, observations_of
from peft_regress.overlay.commits import is_commit
from peft_regress.overlay.folder import Overlay
from peft_regress.overlay.overlay import opened_overlay
from peft_regress.own_code import was_edited
from peft_regress.runs.environment import (
    changed_packages,
    installed_packages,
    installed_version,
    is_from_folder,
)
from peft_regress.runs.schema import Record, Run
from peft_regress.text import count_of
from peft_regress.upgrades.commit_base import CommitBase, opened_commit
from peft_regress.upgrades.measuring import MeasuringSetup, measure_cases, save_run
from peft_regress.upgrades.responsible import ResponsiblePackages, find_responsible

OnRecord = Callable[[str, Record, int, int], None]


@dataclass(frozen=True, kw_only=True)
class UpgradeSettings:
    """What a candidate is measured on, and compared with."""

    setup: MeasuringSetup
    pattern: str | None = None
    """A glob on case ids; None for all cases of the matrix."""
    matrix: str = "default"
    base: str = "auto"
    """What it is compared with: `auto` (the stored baseline if it was made with the packages of the
    current environment, otherwise a run of that environment), `run`, `merge-base` or `git:REF` (a
    run of the checkouts as they were at that commit), or the name of an entry, a run file or a
    folder."""
    save: Path | None = None
    """Where to write the candidate's run file."""
    strict: bool = False
    """Whether unaccepted improvements fail too."""
    replace_torch: bool = False


@dataclass(frozen=True, kw_only=True)
class Upgrade:
    """The result of an upgrade."""

    requirements: tuple[str, ...]
    compared_with: str
    comparison: Comparison
    candidate: Run
    changed: Mapping[str, tuple[str | None, str | None]]
    """(old version, new version) of each package that changed."""
    installed: tuple[str, ...]
    """What was installed over the environment that it is compared with; empty if that is another
    one. A release may also need a package that is there already, or need it no more: that one
    differs in `changed` alone."""
    responsible: tuple[ResponsiblePackages, ...]
    """Of each finding in `suspected`, which packages cause it; empty if only one changed."""
    edited: str
    """That the user's own code is not that of what it is compared with, so that a finding may come
    from there; else empty."""
    remarks: tuple[str, ...]
    saved: Path | None
    commit: str | None = None
    """What the commit is called that it is compared with, if it is one."""
    by_baseline: Comparison | None = None
    """If it is: what the stored baseline says of the cases that pass."""

    @property
    def suspected(self) -> tuple[Finding, ...]:
        """The findings that got worse or better."""
        return _suspected(self.comparison)

    @property
    def since_baseline(self) -> tuple[Finding, ...]:
        """The findings by which the stored baseline fails what is as it was at the commit."""
        found = () if self.by_baseline is None else self.by_baseline.findings
        return tuple(one for one in found if one.is_failing)

    def entries_of(self, finding: Finding) -> list[str]:
        """Return the stored entries that a finding since the baseline compares with."""
        assert self.by_baseline is not None  # noqa: S101  (it has the finding)
        references = self.by_baseline.references
        return sorted({references[name].run_name for name in finding.cases})


def _suspected(comparison: Comparison) -> tuple[Finding, ...]:
    return tuple(one for one in comparison.findings if one.is_failing or one.is_better)


def upgrade(
    requirements: Sequence[str],
    settings: UpgradeSettings,
    *,
    progress: Callable[[str], None] = lambda _: None,
    on_record: OnRecord = lambda *_: None,
    finish: Callable[[Upgrade, Overlay], None] = lambda *_: None,
) -> Upgrade:
    """Measure the candidate and what it is compared with, judge, and find the causes.

    `progress` gets a sentence per step; `on_record` gets the side, each record, how many records
    there are and how many there will be; `finish` is called while the candidate's environment still
    exists. Raises `InputError` if the requirements or the environment cannot be used, or if no case
    matches the glob.
    """
    cases = select_cases(settings.pattern, matrix=settings.matrix)
    # First, since it fails at once, and the rest takes minutes.
    require_sources(settings.setup.baselines, cases)
    with contextlib.ExitStack() as stack:
        base, references = None, None
        if is_commit(settings.base):
            base = stack.enter_context(
                opened_commit(
                    requirements,
                    settings.base,
                    setup=settings.setup,
                    matrix=settings.matrix,
                    replace_torch=settings.replace_torch,
                )
            )
        else:
            references = _stored_references(cases, settings)
        overlay = stack.enter_context(
            opened_overlay(requirements, replace_torch=settings.replace_torch)
        )
        progress(_overlay_sentence(overlay))
        if base is None:
            result = _compared(cases, references, overlay, settings, progress, on_record)
        else:
            result = _compared_with_commit(cases, base, overlay, settings, progress, on_record)
        result = replace(result, requirements=tuple(requirements))
        finish(result, overlay)
        return result


def _compared(  # noqa: PLR0913, PLR0917  (what to compare, how, and whom to tell)
    cases: Sequence[Case],
    references: Mapping[str, Observation] | None,
    overlay: Overlay,
    settings: UpgradeSettings,
    progress: Callable[[str], None],
    on_record: OnRecord,
) -> Upgrade:
    """Compare with stored references, or without any with a run of the current environment."""
    edited = _edit_sentence(cases, references or {})
    remarks = (*overlay.remarks, edited) if edited else overlay.remarks
    measured: Mapping[str, Observation] = {}
    if references is None or (edited and settings.base == "auto"):
        why = edited or "no stored baseline is known to have its packages"
        progress(f"measuring the current environment: {why}")
        references = measured = _measured_base(cases, settings, on_record)
        edited = ""
    candidate = _measured("candidate", cases, overlay, settings, on_record, references)
    comparison = _judged(cases, references, candidate, settings)
    references = comparison.references
    compared = next(iter(references.values()), None)
    before = installed_packages() if compared is None else compared.environment
    return Upgrade(
        requirements=(),
        compared_with=_run_names(references),
        comparison=comparison,
        candidate=candidate,
        changed=changed_packages(_libraries(before), _libraries(candidate.environment)),
        installed=tuple(overlay.packages) if is_installed_here(before) else (),
        responsible=find_responsible(
            () if edited else _suspected(comparison),
            (),
            overlay.planned,
            references,
            asked=overlay.requested,
            setup=settings.setup,
            progress=progress,
        ),
        edited=edited,
        remarks=remarks,
        saved=_saved(candidate, measured, settings),
    )


def _compared_with_commit(  # noqa: PLR0913, PLR0917  (as above)
    cases: Sequence[Case],
    base: CommitBase,
    overlay: Overlay,
    settings: UpgradeSettings,
    progress: Callable[[str], None],
    on_record: OnRecord,
) -> Upgrade:
    """Compare with the checkouts as they were at a commit; the stored baseline is asked too.

    Nobody accepts what a commit does. So no improvement fails, and of the budgets only those that
    the author of a case states.
    """
    done = itertools.count(1)
    progress(f"measuring the base: {base.commit.title}")
    candidate = base.measure(
        cases, lambda record: on_record("base", record, next(done), len(cases))
    )
    references = base.references(candidate)
    if base.overlay.folder == overlay.folder:
        progress("the candidate installs the same files, so it is not measured again")
    else:
        candidate = _measured("candidate", cases, overlay, settings, on_record, references)
        references = {**references, **base.in_full(references, candidate)}
    bare = {
        name: record if record.is_own else msgspec.structs.replace(record, budget=UNSET)
        for name, record in candidate.cases.items()
    }
    by_commit = replace(settings, strict=False)
    comparison = _judged(
        cases, references, msgspec.structs.replace(candidate, cases=bare), by_commit
    )
    failing = {case.id for case in comparison.failing}
    stored = read_references(settings.setup.baselines, drift=True)
    passing = [case for case in cases if case.id not in failing and case.id in stored]
    before = next(iter(references.values())).environment
    return Upgrade(
        requirements=(),
        compared_with=base.commit.title,
        comparison=comparison,
        candidate=candidate,
        changed=changed_packages(_libraries(before), _libraries(candidate.environment)),
        installed=overlay.requested,
        responsible=(),
        edited="",
        remarks=overlay.remarks,
        saved=_saved(candidate, references, settings),
        commit=base.commit.title,
        by_baseline=_judged(passing, stored, candidate, by_commit),
    )


def _judged(
    cases: Sequence[Case],
    references: Mapping[str, Observation],
    candidate: Run,
    settings: UpgradeSettings,
) -> Comparison:
    """Judge cases of a candidate; shares of a budget may be of a case that was not measured."""
    names = [case.id for case in cases]
    observed = observations_of(candidate, "the candidate")
    stored = read_references(settings.setup.baselines)
    return judge(
        {name: references[name] for name in names if name in references},
        {name: observed[name] for name in names if name in observed},
        expected=names,
        invocation=Invocation(strict=settings.strict),
        devices=device_classes(),
        beside={name: one.record for name, one in stored.items()},
    )


def _saved(
    candidate: Run, base: Mapping[str, Observation], settings: UpgradeSettings
) -> Path | None:
    if settings.save is not None:
        save_run(settings.save, _with_scores(candidate, base))
    return settings.save


def _run_names(references: Mapping[str, Observation]) -> str:
    found = dict.fromkeys(observation.run_name for observation in references.values())
    return ", ".join(found) or "nothing"


def _stored_references(
    cases: Sequence[Case], settings: UpgradeSettings
) -> Mapping[str, Observation] | None:
    """Return stored observations of the current environment; None if it must be measured."""
    if settings.base == "run":
        return None
    if settings.base != "auto":
        return named_cases(settings.setup.baselines, settings.base)
    stored = read_references(settings.setup.baselines)
    found = {case.id: _of_here(stored[case.id]) for case in cases if case.id in stored}
    chosen = {name: one for name, one in found.items() if one is not None}
    return chosen if len(chosen) == len(cases) else None


def _edit_sentence(cases: Sequence[Case], references: Mapping[str, Observation]) -> str:
    """Return that own cases have other code than in their references; empty if they do not."""
    found = {
        case.id: references[case.id]
        for case in cases
        if case.id in references and was_edited(references[case.id].record)
    }
    if not found:
        return ""
    return f"the code of {count_of(len(found), 'own case')} was edited since {_run_names(found)}"


def _of_here(old: Observation) -> Observation | None:
    """Return a reference as of the current environment, if it was made or confirmed there.

    Of a package from a folder of this machine the version does not name the code.
    """
    environments = [] if old.has_direct else [old.environment]
    environments += [old.confirmed.environment] if old.confirmed else []
    fitting = next((one for one in environments if is_installed_here(one)), None)
    if fitting is None or any(map(is_from_folder, _libraries(fitting))):
        return None
    return replace(old, environment=fitting)


def _measured_base(
    cases: Sequence[Case], settings: UpgradeSettings, on_record: OnRecord
) -> Mapping[str, Observation]:
    """Measure the current environment; where it repeats a stored training, with its scores."""
    stored = read_references(settings.setup.baselines)
    run = _measured("current", cases, None, settings, on_record, stored)
    return {
        name: whole(one, stored.get(name)).as_reference
        for name, one in observations_of(run, "the current environment").items()
    }


def _with_scores(candidate: Run, base: Mapping[str, Observation]) -> Run:
    """Return a candidate that can be stored: what it repeats may be nowhere but in the base."""
    unstored = {name: one for name, one in base.items() if one.record.repeated_run is None}
    cases = {
        name: whole(one, unstored.get(name)).record
        for name, one in observations_of(candidate, "").items()
    }
    return msgspec.structs.replace(candidate, cases=cases)


def is_installed_here(environment: Mapping[str, str]) -> bool:
    """Return whether an environment differs from the running one in nothing but this project.

    A release of this project changes no number; if it measures something else, the definitions
    differ. Packages that only some cases use, such as ExecuTorch, need only be installed here.
    """
    here = installed_packages()
    others = {name: installed_version(name) for name in environment if name not in here}
    found = {name: version for name, version in others.items() if version is not None}
    return _libraries(environment) == _libraries({**here, **found})


def _libraries(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: version for name, version in environment.items() if name != "peft-regress"}


def _measured(  # noqa: PLR0913, PLR0917  (what to measure, where, and whom to tell)
    side: str,
    cases: Sequence[Case],
    overlay: Overlay | None,
    settings: UpgradeSettings,
    on_record: OnRecord,
    known: Mapping[str, Observation],
) -> Run:
    """Measure in an overlay, or in the running environment; what is known need not train again."""
    done = itertools.count(1)
    save = settings.save if side == "candidate" else None
    return measure_cases(
        cases,
        python=Path(sys.executable) if overlay is None else overlay.python,
        planned=() if overlay is None else overlay.planned,
        setup=settings.setup,
        narrowed_by=[] if settings.pattern is None else [f"--cases {settings.pattern}"],
        matrix=settings.matrix,
        keep_adapters=None if save is None else adapters_of_run(save),
        known=known_curves(known),
        on_record=lambda record: on_record(side, record, next(done), len(cases)),
        on_interrupt=lambda run: None if save is None else save_run(save, run),
    )


def _overlay_sentence(overlay: Overlay) -> str:
    if not overlay.packages:
        return "candidate: all requirements are installed here already"
    packages = ", ".join(f"{name} {version}" for name, version in overlay.packages.items())
    how = "cached" if overlay.was_cached else f"built, {overlay.size_bytes / 2**20:.1f} MiB"
    return f"candidate: {packages} over the current environment ({how})"
