"""Releases of peft as they were measured once, for the documented searches among them.

`baselines/` has some releases whole; tests/docs/releases/ has the cases of the documents for others
(`peft-regress upgrade peft==VERSION --cases ID --save FILE`). A release that nobody recorded
measures what the nearest older one did.
"""

import contextlib
from functools import cache
from pathlib import Path

import msgspec
from package_world import COSTS, World, set_world
from packaging.version import Version

from peft_regress.errors import InputError
from peft_regress.runs.run_file import read_run_file
from peft_regress.runs.schema import Record

ROOT = Path(__file__).parent.parent
RECORDED = sorted((ROOT / "tests" / "docs" / "releases").glob("*.json"))
STORED = sorted((ROOT / "baselines").glob("*/00*.json"), reverse=True)
NEWEST = "0.21.2"
RELEASES = [
    *("0.10.0", "0.11.0", "0.11.1", "0.12.0", "0.13.0", "0.13.1", "0.13.2", "0.14.0", "0.15.0"),
    *("0.15.1", "0.15.2", "0.16.0", "0.17.0", "0.17.1", "0.18.0", "0.18.1", "0.19.0", "0.19.1"),
    *("0.20.0", "0.21.0", "0.21.1", NEWEST),
]
# peft 0.16 and 0.17 need an older transformers, which brings its own companions.
COMPANIONS = {"transformers": "4.57.6", "huggingface-hub": "0.36.2", "tokenizers": "0.22.2"}
OLD_TRANSFORMERS = {"0.16.0", "0.17.0", "0.17.1"}


@cache
def _runs():
    return tuple(read_run_file(path).run for path in (*RECORDED, *STORED))


@cache
def _measured(name, *, trains):
    """Return what each recorded release measures for a case."""
    found: dict[Version, Record] = {}
    for run in _runs():
        record = run.cases.get(name)
        if record is not None and (not trains or record.invariants or record.status != "ok"):
            found.setdefault(Version(run.environment["peft"]), record)
    return found


def _broken(packages):
    if str(packages["peft"]) in OLD_TRANSFORMERS and packages["transformers"].major >= 5:
        return InputError("ImportError: cannot import name 'HybridCache' from 'transformers' (...)")
    return None


class RecordedWorld(World):
    """A world whose releases measure what was recorded."""

    @contextlib.contextmanager
    def opened_overlay(self, requirements, pip):
        """Take the newest release of a requirement without a version."""
        pinned = [text if "==" in text else f"{text}=={NEWEST}" for text in requirements]
        with super().opened_overlay(pinned, pip) as overlay:
            yield overlay

    def measure_cases(self, *args, **settings):
        """Give a release its own environment if it was recorded with other packages."""
        run = super().measure_cases(*args, **settings)
        version = run.environment["peft"]
        if version not in OLD_TRANSFORMERS:
            return run
        (recorded,) = (one for one in _runs() if one.environment["peft"] == "0.16.0")
        return msgspec.structs.replace(run, environment={**recorded.environment, "peft": version})

    def record(self, packages, name, *, trains=True):
        version = Version(packages["peft"])
        known = _measured(name, trains=trains) or _measured(name, trains=False)
        older = [one for one in known if one <= version]
        record = known[max(older, default=min(known))]
        if trains or record.status != "ok":
            return record
        costs = {n: m for n, m in record.metrics.items() if n.removesuffix("_b32") in COSTS}
        return msgspec.structs.replace(record, metrics=costs, invariants={})


def use_recorded_releases(monkeypatch):
    """Let `upgrade` and `bisect` measure recorded releases instead of installing any."""
    index = {"peft": RELEASES, "transformers": ["5.20.0"]}
    for name, version in COMPANIONS.items():
        index.setdefault(name, []).append(version)
    companions = [f"{name}=={version}" for name, version in COMPANIONS.items()]
    world = RecordedWorld(
        installed={**read_run_file(RECORDED[0]).run.environment, "peft": NEWEST},
        index=index,
        broken=_broken,
        extra={f"peft=={version}": companions for version in OLD_TRANSFORMERS},
    )
    set_world(monkeypatch, world)
