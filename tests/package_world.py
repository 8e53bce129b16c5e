"""A world of old releases in memory: an index, environments, and what each case measures there."""

import contextlib
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builders import MACHINE, make_record, repeating
from msgspec import UNSET
from packaging.requirements import Requirement
from packaging.version import Version

from peft_regress.cases import Case
from peft_regress.invariants import KNOWN
from peft_regress.metrics import COST_METRICS
from peft_regress.overlay.folder import Overlay
from peft_regress.overlay.overlay import ReplacesTorchError
from peft_regress.overlay.pip import PipError, Planned
from peft_regress.project.project import current_project
from peft_regress.runner.measuring import MeasuringSetup
from peft_regress.runs.own_code import code_of
from peft_regress.runs.schema import SCHEMA_VERSION, Curve, Inputs, Run, Selection, TensorSummary
from peft_regress.upgrades import bisect, responsible
from peft_regress.upgrades import upgrade as upgrading
from peft_regress.workers.pool import UnusableEnvironmentError

SETUP = MeasuringSetup(project=current_project(), baselines=Path("baselines"), jobs=1)
COSTS = {"trainable_params", "total_params", "adapter_bytes", *COST_METRICS}
FLAT: dict[str, Any] = {
    "forward_flops": 1000,
    "backward_flops": 2000,
    "peak_bytes": 10**6,
    "first_losses": [[2.3, 2.2, 2.1, 2.0]] * 3,
    "accuracy": [0.9, 0.9, 0.9],
    "loss": [0.1, 0.1, 0.1],
}
"""What a case measures if nothing changes."""


@dataclass
class World:
    """A substitute for pip, its index and the workers."""

    installed: dict[str, str]
    index: dict[str, list[str]]
    moved: Any = lambda *_: {}
    """What a case measures besides `FLAT`, by the packages and the case's id: values, `invariants`,
    `inputs`, a `status` with its `error`, or `fails_in_training`."""
    broken: Any = lambda _: None
    """Why an environment cannot be installed (`PipError`) or imported, by its packages."""
    extra: dict[str, list[str]] = field(default_factory=dict)
    """The requirements that a requirement brings."""
    computes: Any = lambda *_: None
    """What a case computes, by the packages and the case's id: as a text; None if it is unknown."""
    loaded: set[str] | None = None
    """The packages of which a case loads a module; None if that is unknown."""
    yanked: set[str] = field(default_factory=set)
    runs: list[tuple[dict[str, str], list[str], bool]] = field(default_factory=list)
    """(packages, case ids, whether they trained) of each run."""
    trained: list[tuple[str, str]] = field(default_factory=list)
    """(version of peft, case id) of each training in full."""
    environments: dict[Path, dict[str, str]] = field(default_factory=dict)
    open_overlays: int = 0
    saved: list[Path | None] = field(default_factory=list)
    replaces_torch: bool = False

    def versions_tried(self, package="peft"):
        return [packages[package] for packages, _, _ in self.runs]

    def released_versions(self, package, pip):
        if package not in self.index:
            raise PipError(package, "the index has no such package")
        found = sorted(map(Version, self.index[package]))
        return [version for version in found if pip.pre or not version.is_prerelease]

    @contextlib.contextmanager
    def opened_overlay(self, requirements, pip=None):
        if self.replaces_torch and not (pip and pip.replace_torch):
            raise ReplacesTorchError(" ".join(requirements), "2.0", "2.1")
        texts = [line for one in requirements for line in (one, *self.extra.get(one, ()))]
        wanted = {}
        for text in texts:
            requirement = Requirement(text)
            (specifier,) = requirement.specifier
            if specifier.version not in self.index.get(requirement.name, ()):
                raise PipError(text, "the index has no such release")
            wanted[requirement.name] = specifier.version
        yield from self._open(wanted, requested=requirements)

    @contextlib.contextmanager
    def opened_part(self, planned, _):
        yield from self._open({one.name: one.version for one in planned})

    def _open(self, wanted, *, requested=()):
        changed = {n: v for n, v in wanted.items() if self.installed.get(n) != v}
        packages = {**self.installed, **changed}
        problem = self.broken(versions_of(packages))
        if isinstance(problem, PipError):
            raise problem
        folder = Path("/overlays", "-".join(f"{n}{v}" for n, v in sorted(changed.items())))
        python = folder / "bin" / "python"
        self.environments[python] = packages
        self.open_overlays += 1
        try:
            yield Overlay(
                folder=folder,
                python=python,
                packages=changed,
                planned=tuple(
                    Planned(
                        name=name,
                        version=version,
                        source=f"{name}=={version}",
                        is_yanked=f"{name}=={version}" in self.yanked,
                    )
                    for name, version in sorted(changed.items())
                ),
                remarks=(),
                size_bytes=1,
                was_cached=True,
                requested=tuple(Requirement(text).name for text in requested),
            )
        finally:
            self.open_overlays -= 1

    @staticmethod
    def from_one_start(cases, *_):
        return [f"{case.id} computes the same" for case in cases]

    def measure_cases(
        self,
        cases,
        *,
        python,
        trains=True,
        known=None,
        loaded=None,
        on_record=lambda _: None,
        narrowed_by=(),
        save=None,
        **_,
    ):
        self.saved.append(save)
        packages = self.environments.get(python, self.installed)
        problem = self.broken(versions_of(packages))
        if problem is not None:
            raise UnusableEnvironmentError(f"{python}: {problem}")
        self.runs.append((packages, [case.id for case in cases], trains))
        records = [self.record(packages, case.id, trains=trains) for case in cases]
        if trains:
            records = [self._repeated(one, (known or {}).get(one.case.id, [])) for one in records]
            ids = [record.case.id for record in records if not record.is_repeat]
            self.trained += [(packages["peft"], name) for name in ids]
        for record in records:
            on_record(record)
            if loaded is not None and self.loaded is not None:
                loaded[record.case.id] = self.loaded
        return Run(
            schema_version=SCHEMA_VERSION,
            environment=packages,
            machine=MACHINE,
            selection=Selection(complete=False, narrowed_by=list(narrowed_by)),
            metrics_known=sorted(KNOWN),
            cases={record.case.id: record for record in records},
        )

    def record(self, packages, name, *, trains=True):
        moved = dict(self.moved(versions_of(packages), name))
        fails_in_training = moved.pop("fails_in_training", False)
        asides = {name: moved.pop(name, None) for name in ("budget", "inputs")}
        if moved.get("status") or (fails_in_training and trains):
            return make_record(name, status=moved.get("status", "error"), error=moved.get("error"))
        facts = moved.pop("invariants", {"frozen_unchanged": True})
        values = {metric: v for metric, v in {**FLAT, **moved}.items() if v is not None}
        if not trains:
            facts = {}
            values = {n: v for n, v in values.items() if n.removesuffix("_b32") in COSTS}
        computed = self.computes(versions_of(packages), name) if trains else None
        more = {}
        if computed is not None:  # two losses of its own for each text
            losses = [1.0 + zlib.crc32(computed.encode()), 1.0]
            more = {"curve": Curve(losses=losses, scores={})}
        more |= {name: one for name, one in asides.items() if one is not None}
        code = code_of(Case.parse(name), current_project())
        more |= {} if code is None else {"own_code": code}
        return make_record(name, values, invariants=facts, **more)

    @staticmethod
    def _repeated(record, known):
        """Return a record as a worker makes it, of one seed alone if it repeats what is known."""
        fitting = (one for one in known if one.curve in (None, record.curve))
        same = None if record.curve is UNSET else next(fitting, None)
        return record if same is None else repeating(record, by=same.run_name)


def since(version, **moved):
    first = Version(version)
    return lambda packages, _: moved if packages["peft"] >= first else {}


def drawn(norm):
    head = TensorSummary(shape=[4], dtype="float32", mean=0.0, norm=norm)
    return {"inputs": Inputs(weights={"head": head})}


def versions_of(packages):
    return {name: Version(version) for name, version in packages.items()}


def set_world(monkeypatch, world):
    monkeypatch.setattr("peft_regress.cli.bisect.opened_overlay", world.opened_overlay)
    for module in (bisect, responsible, upgrading):
        for name in (
            "released_versions",
            "opened_overlay",
            "opened_part",
            "measure_cases",
            "from_one_start",
        ):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, getattr(world, name))
    monkeypatch.setattr(upgrading, "installed_packages", lambda: world.installed)
    for module in (bisect, upgrading):
        monkeypatch.setattr(module, "find_functions", lambda findings, *_, **__: ())
    return world
