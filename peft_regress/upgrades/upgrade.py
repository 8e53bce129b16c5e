"""Measure a candidate environment on a matrix, and compare it with the current one."""

import contextlib
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import msgspec

from peft_regress.baselines.named_runs import find_named
from peft_regress.baselines.references import read_references
from peft_regress.cases import Case
from peft_regress.catalogue.matrix import select_cases
from peft_regress.catalogue.sources import require_sources
from peft_regress.errors import InputError
from peft_regress.files import cache_folder
from peft_regress.gate.comparison import Comparison, Invocation
from peft_regress.gate.findings import Finding
from peft_regress.gate.judge import judge
from peft_regress.gate.referees import referee_of
from peft_regress.gate.repeats import KnownCurve, known_curves, whole
from peft_regress.gate.verdicts import Observation, observations_of
from peft_regress.overlay.commits import Commit, earlier_checkouts, is_commit
from peft_regress.overlay.folder import Overlay
from peft_regress.overlay.overlay import opened_overlay
from peft_regress.project.project import Project, is_built_in
from peft_regress.runner.keeper import Keeper
from peft_regress.runner.measuring import MeasuringSetup, measure_cases, save_run
from peft_regress.runs.environment import (
    changed_packages,
    installed_packages,
    installed_version,
    is_from_folder,
)
from peft_regress.runs.own_code import was_edited
from peft_regress.runs.schema import Record, Run
from peft_regress.text import count_of
from peft_regress.upgrades.functions import FoundFunction, find_functions
from peft_regress.upgrades.responsible import Observations, ResponsiblePackages, find_responsible
from peft_regress.upgrades.same_start import drawn_otherwise, from_one_start
from peft_regress.workers.pool import Environment

RecordPrinter = Callable[[str, int], Callable[[Record], None]]


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
    function: bool = False
    """Whether to search for the function that causes each finding."""

    @property
    def runs_base_here(self) -> bool:
        """Whether the base ran these files: a stored baseline of these packages stands for it."""
        return self.base in {"auto", "run"} or is_commit(self.base)


@dataclass(frozen=True, kw_only=True)
class Upgrade:
    """The result of an upgrade."""

    requirements: tuple[str, ...]
    compared_with: str
    comparison: Comparison
    changed: Mapping[str, tuple[str | None, str | None]]
    """(old version, new version) of each package that changed."""
    installed: tuple[str, ...]
    """What was installed over the environment that it is compared with; empty if that is another
    one. A release may also need a package that is there already, or need it no more: that one
    differs in `changed` alone."""
    responsible: tuple[ResponsiblePackages, ...] = ()
    """Of each finding in `suspected`, which packages cause it; empty if only one changed."""
    functions: tuple[FoundFunction, ...] = ()
    """Of each finding in `suspected`, the function that causes it; empty if not searched for."""
    was_interrupted: bool = False
    """Whether Ctrl-C ended the search for the responsible packages, or functions."""
    edited: str
    """That the user's own code is not what it is compared with, and may be the cause; else ''."""
    remarks: tuple[str, ...]
    saved: Path | None
    by_baseline: Comparison | None = None
    """If it is compared with a commit: what the stored baseline says of the cases that pass."""

    @property
    def suspected(self) -> tuple[Finding, ...]:
        """The findings that got worse or better."""
        return tuple(one for one in self.comparison.findings if one.is_failing or one.is_better)

    @property
    def since_baseline(self) -> tuple[Finding, ...]:
        """The findings by which the stored baseline fails what is as it was at the commit."""
        found = () if self.by_baseline is None else self.by_baseline.findings
        return tuple(one for one in found if one.is_failing)


def upgrade(  # noqa: PLR0913  (what to measure, and whom to tell)
    requirements: Sequence[str],
    settings: UpgradeSettings,
    *,
    progress: Callable[[str], None] = lambda _: None,
    record_printer: RecordPrinter = lambda *_: lambda _: None,
    on_comparison: Callable[[Upgrade], None] = lambda _: None,
    finish: Callable[[Upgrade, Overlay], None] = lambda *_: None,
) -> Upgrade:
    """Measure the candidate and what it is compared with, judge, and find the causes.

    `progress` gets a sentence per step; `record_printer` gets a side and how many records it will
    have, and returns what gets each of them; `on_comparison` gets what is known before single
    packages are tried; `finish` is called while the candidate's environment still exists, unless
    Ctrl-C ended the trials. Raises `InputError` if the requirements or the environment cannot be
    used, or if no case matches the glob.
    """
    cases = select_cases(settings.pattern, matrix=settings.matrix)
    require_sources(settings.setup.baselines, cases)
    references = None if is_commit(settings.base) else _stored_references(cases, settings)
    with contextlib.ExitStack() as stack:
        base = None
        if is_commit(settings.base):
            base = stack.enter_context(_opened_commit(requirements, settings, cases))
        overlay = stack.enter_context(opened_overlay(requirements, settings.setup.pip))
        progress(_overlay_sentence(overlay))
        measurer = _Measurer(cases, settings, progress, record_printer)
        if base is None:
            sides = measurer.beside_packages(references, overlay)
        else:
            sides = measurer.beside_commit(base, overlay)
        candidate, edited = sides.candidate, "" if sides.is_measured else sides.edit
        # Nobody accepts what is better than a commit: it never fails.
        strict, names = settings.strict and base is None, [case.id for case in cases]
        comparison = _judged(names, sides.references, candidate, settings, strict=strict)
        passing = [case.id for case in comparison.cases if case not in comparison.failing]
        compared = next(iter(comparison.references.values()), None)
        before = installed_packages() if compared is None else compared.environment
        if settings.save is not None:
            base_only = sides.references if sides.is_measured else {}
            save_run(settings.save, _with_scores(candidate, base_only))
        result = Upgrade(
            requirements=tuple(requirements),
            compared_with=base.commit.title if base else _run_names(comparison.references),
            comparison=comparison,
            changed=_changed(before, candidate, overlay),
            installed=tuple(overlay.packages) if base or is_installed_here(before) else (),
            edited=edited,
            remarks=(*overlay.remarks, *filter(None, [sides.edit]), *_new_types(overlay)),
            saved=settings.save,
            by_baseline=_judged(passing, None, candidate, settings) if base else None,
        )
        python = base.overlay.python if base else Path(sys.executable)
        is_remote = settings.setup.pool is not None and settings.setup.pool.is_remote
        moved = drawn_otherwise(sides.references, candidate.cases)
        if moved and settings.runs_base_here and not is_remote:
            progress(f"training {count_of(len(moved), 'case')} in float64 from the base's weights")
            found = from_one_start(moved, python, overlay.python, settings.setup)
            result = replace(result, remarks=(*result.remarks, *found))
        on_comparison(result)
        try:
            responsible = find_responsible(
                () if base or edited else result.suspected,
                (),
                overlay.planned,
                comparison.references,
                asked=overlay.requested,
                loaded=measurer.loaded,
                same_files=settings.runs_base_here,
                setup=settings.setup,
                progress=progress,
            )
            result = replace(result, responsible=responsible)
            if settings.function:
                pair = Environment(python=python), Environment(python=overlay.python)
                result = _with_functions(result, pair, settings, progress)
        except KeyboardInterrupt:
            return replace(result, was_interrupted=True)
        finish(result, overlay)
        return result


def _with_functions(
    result: Upgrade,
    sides: tuple[Environment, Environment],
    settings: UpgradeSettings,
    progress: Callable[[str], None],
) -> Upgrade:
    """Search for the functions, between the running environment, or a commit's, and the candidate.

    Raises `InputError` if the result is compared with a run of other packages.
    """
    if not settings.runs_base_here:
        raise InputError(f"--function: --base {settings.base} ran elsewhere; use auto or run")
    alone = tuple(result.installed[:1] if len(result.installed) == 1 else result.changed)[:1]
    packages = [one.names or alone for one in result.responsible] or [alone] * len(result.suspected)
    found = find_functions(
        result.suspected,
        result.comparison.references,
        packages,
        result.changed,
        sides,
        setup=settings.setup,
        progress=progress,
    )
    return replace(result, functions=found)


def _new_types(overlay: Overlay) -> list[str]:
    """Return a sentence if peft in an overlay has adapter types that the running one lacks."""
    here = find_spec("peft")
    there = next(overlay.folder.glob("lib/*/site-packages/peft"), None)
    if here is None or here.origin is None or there is None:
        return []
    known, found = map(_adapter_types, (Path(here.origin).parent, there))
    names = ", ".join(sorted(found - known))
    version = overlay.packages.get("peft")
    return [f"peft {version} has new adapter types, which no case gates: {names}"] if names else []


def _adapter_types(package: Path) -> set[str]:
    """Return the names in peft's table of types, without importing that peft."""
    path = package / "utils" / "peft_types.py"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return set(re.findall(r'^    ([A-Z0-9_]+) = "', text, re.MULTILINE))


def _changed(
    before: Mapping[str, str], candidate: Run, overlay: Overlay
) -> dict[str, tuple[str | None, str | None]]:
    """Return the versions of what changed: what both sides recorded, and what was installed."""
    # What only some cases import is not recorded of a case that fails before.
    installed = {name: one for name, one in overlay.packages.items() if name in before}
    after = _libraries({**candidate.environment, **installed})
    changed = changed_packages(_libraries(before), after).items()
    return {name: both for name, both in changed if None not in both or name in overlay.packages}


class _Sides(NamedTuple):
    """What a candidate is compared with, and what it measured."""

    references: Observations
    candidate: Run
    is_measured: bool
    """Whether the references were measured for it, and may be stored nowhere."""
    edit: str = ""
    """That own cases have other code than in the stored references."""


class _CommitBase(NamedTuple):
    commit: Commit
    overlay: Overlay
    setup: MeasuringSetup


@contextlib.contextmanager
def _opened_commit(
    requirements: Sequence[str], settings: UpgradeSettings, cases: Sequence[Case]
) -> Iterator[_CommitBase]:
    """Make the environment of the checkouts as they were at a commit. Raises what its parts raise.

    Records are kept by the commit, so that the next change that begins there measures none again.
    """
    here = settings.setup.project.settings.folder.resolve()
    is_own = any(here.is_relative_to(Path(one).resolve()) for one in requirements)
    if is_own and not all(map(is_built_in, cases)):
        problem = "cases that lie in the checkout run its code of today on both sides"
        raise InputError(f"--base {settings.base}: {problem}; compare with an entry")
    with (
        earlier_checkouts(requirements, settings.base) as commit,
        opened_overlay(commit.requirements, settings.setup.pip) as overlay,
    ):
        folder = cache_folder() / "commits"
        folder.mkdir(parents=True, exist_ok=True)
        keeper = Keeper(None, folder / f"{overlay.folder.name}.json")
        try:
            kept = replace(settings.setup, keeper=keeper, commit=commit.digest)
            yield _CommitBase(commit, overlay, kept)
        finally:
            if keeper.writer is not None:
                keeper.writer.close()


@dataclass(frozen=True)
class _Measurer:
    cases: Sequence[Case]
    settings: UpgradeSettings
    progress: Callable[[str], None]
    record_printer: RecordPrinter
    loaded: dict[str, Collection[str]] = field(default_factory=dict)
    """The packages of which a case has loaded a module, by case."""

    def beside_packages(self, references: Observations | None, overlay: Overlay) -> _Sides:
        """Measure a candidate, and without references the current environment before."""
        edit = _edit_sentence(self.cases, references or {}, self.settings.setup.project)
        is_measured = references is None or (bool(edit) and self.settings.base == "auto")
        if references is None or is_measured:
            why = edit or "no stored baseline is known to have its packages"
            self.progress(f"measuring the current environment: {why}")
            # Where it repeats a stored training, it has the scores of that.
            stored = read_references(self.settings.setup.baselines)
            run = self.run("current", None, known=known_curves(stored))
            references = _completed(run, "the current environment", stored)
        candidate = self.run("candidate", overlay, known=known_curves(references))
        return _Sides(references, candidate, is_measured, edit)

    def beside_commit(self, base: _CommitBase, overlay: Overlay) -> _Sides:
        """Measure a commit, then a candidate unless it installs the same files.

        Of a commit the first seed of each case trains alone in full: a candidate that repeats its
        curve needs no more. What departs from it is measured there again, with a referee by which
        the candidate is measured again too.
        """
        commit, before, setup = base
        self.progress(f"measuring the base: {commit.title}")
        stored = read_references(setup.baselines)
        known = known_curves(stored)
        for case in self.cases:
            known.setdefault(case.id, []).append(KnownCurve(curve=None, run_name=commit.name))
        candidate = self.run("base", before, known=known, setup=setup)
        references = _completed(candidate, commit.name, stored)
        if before.folder == overlay.folder:
            self.progress("the candidate installs the same files, so it is not measured again")
        else:
            candidate = self.run("candidate", overlay, known=known_curves(references))
            trained = {one.case.id for one in candidate if one.status == "ok" and not one.is_repeat}
            repeats = (one.record for one in references.values() if one.record.is_repeat)
            left = [record.case for record in repeats if record.case.id in trained]
            if left:
                in_full = self.run("base", before, known={}, setup=setup, cases=left)
                references |= observations_of(in_full, commit.name)
                refereed = [case for case in left if referee_of(in_full.cases[case.id].referee)]
                if refereed:
                    # Some cases anew, with what is known by now.
                    known = known_curves(references)
                    anew = replace(self.settings.setup, keeper=Keeper())
                    run = self.run("candidate", overlay, known=known, setup=anew, cases=refereed)
                    cases = {**candidate.cases, **run.cases}
                    candidate = msgspec.structs.replace(candidate, cases=cases)
        return _Sides(references, candidate, is_measured=True)

    def run(
        self,
        side: str,
        overlay: Overlay | None,
        *,
        known: Mapping[str, list[KnownCurve]],
        setup: MeasuringSetup | None = None,
        cases: Sequence[Case] = (),
    ) -> Run:
        """Measure in an overlay or the running environment; what is known need not train again."""
        cases, pattern = cases or self.cases, self.settings.pattern
        return measure_cases(
            cases,
            python=Path(sys.executable) if overlay is None else overlay.python,
            planned=() if overlay is None else overlay.planned,
            setup=setup or self.settings.setup,
            narrowed_by=[] if pattern is None else [f"--cases {pattern}"],
            matrix=self.settings.matrix,
            save=self.settings.save if side == "candidate" else None,
            known=known,
            loaded=self.loaded,
            on_record=self.record_printer(side, len(cases)),
        )


def _completed(run: Run, run_name: str, trained: Observations) -> dict[str, Observation]:
    """Return what a run measured; where it repeats a training, with the scores of that."""
    observed = observations_of(run, run_name)
    return {name: whole(one, trained.get(name)) for name, one in observed.items()}


def _judged(
    names: Sequence[str],
    references: Observations | None,
    candidate: Run,
    settings: UpgradeSettings,
    *,
    strict: bool = False,
) -> Comparison:
    """Judge cases of a candidate by references, or without any by the stored baseline."""
    stored = read_references(settings.setup.baselines, drift=references is None)
    sides = stored if references is None else references
    observed = observations_of(candidate, "the candidate")
    return judge(
        {name: sides[name] for name in names if name in sides},
        {name: observed[name] for name in names if name in observed},
        expected=names,
        invocation=Invocation(strict=strict),
        devices=settings.setup.project.devices,
        beside={name: one.record for name, one in stored.items()},
        same_files=references is not None and settings.runs_base_here,
    )


def _run_names(references: Observations) -> str:
    found = dict.fromkeys(observation.run_name for observation in references.values())
    return ", ".join(found) or "nothing"


def _stored_references(cases: Sequence[Case], settings: UpgradeSettings) -> Observations | None:
    """Return stored observations of the current environment; None if it must be measured."""
    if settings.base == "run":
        return None
    if settings.base != "auto":
        return find_named(settings.setup.baselines, settings.base).observations()
    stored = read_references(settings.setup.baselines)
    found = {case.id: _of_here(stored[case.id]) for case in cases if case.id in stored}
    chosen = {name: one for name, one in found.items() if one is not None}
    return chosen if len(chosen) == len(cases) else None


def _edit_sentence(cases: Sequence[Case], references: Observations, project: Project) -> str:
    """Return that own cases have other code than in their references; empty if they do not."""
    known = {case.id: references[case.id] for case in cases if case.id in references}
    found = {name: one for name, one in known.items() if was_edited(one.record, project)}
    if not found:
        return ""
    return f"the code of {count_of(len(found), 'own case')} was edited since {_run_names(found)}"


def _of_here(old: Observation) -> Observation | None:
    """Return a reference as of the current environment, if one made or confirmed it there."""
    environments = [] if old.has_direct else [old.environment]
    environments += [old.confirmed.environment] if old.confirmed else []
    fitting = next((one for one in environments if is_installed_here(one)), None)
    # Of a package from a folder of this machine the version does not name the code.
    if fitting is None or any(map(is_from_folder, _libraries(fitting))):
        return None
    return replace(old, environment=fitting)


def _with_scores(candidate: Run, base: Observations) -> Run:
    """Return a candidate that can be stored: what it repeats may be nowhere but in the base."""
    unstored = {name: one for name, one in base.items() if one.record.repeated_run is None}
    cases = {name: one.record for name, one in _completed(candidate, "", unstored).items()}
    return msgspec.structs.replace(candidate, cases=cases)


def is_installed_here(packages: Mapping[str, str]) -> bool:
    """Return whether an environment differs from the running one in nothing but this project.

    A release of this project changes no number; if it measures something else, the definitions
    differ. Packages that only some cases use, such as ExecuTorch, need only be installed here.
    """
    here = installed_packages()
    others = {name: installed_version(name) for name in packages if name not in here}
    found = {name: version for name, version in others.items() if version is not None}
    return _libraries(packages) == _libraries({**here, **found})


def _libraries(packages: Mapping[str, str]) -> dict[str, str]:
    return {name: version for name, version in packages.items() if name != "peft-regress"}


def _overlay_sentence(overlay: Overlay) -> str:
    if not overlay.packages:
        return "candidate: all requirements are installed here already"
    packages = ", ".join(f"{name} {version}" for name, version in overlay.packages.items())
    how = "cached" if overlay.was_cached else f"built, {overlay.size_bytes / 2**20:.1f} MiB"
    return f"candidate: {packages} over the current environment ({how})"
