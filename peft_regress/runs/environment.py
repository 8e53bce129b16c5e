"""Describe where a run happens: package versions, and what times depend on in the machine."""

import functools
import json
import os
import platform
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from peft_regress.cases import is_version
from peft_regress.interrupts import held_signals
from peft_regress.runs.schema import Machine, canonical_digest

SUSPECTS: Final = (
    "peft", "galore-torch", "executorch", "torch", "torchvision",
    "transformers", "accelerate", "trl", "lightning", "pytorch-lightning",
)  # fmt: skip
"""The packages that most likely changed a number, the most likely first."""

TRAINING_THREADS: Final = 1
"""Training uses one thread: another number changes the last bits of every loss."""

_SHOWN_WITH: Final = frozenset({"platformdirs", "wcwidth"})
"""Requirements of this project that cannot change a number: they find folders and measure text."""


def commit_here() -> str:
    """Return the commit of the working folder as `commit_of` names it; runs git once a folder."""
    try:
        return _commit_in(Path.cwd())
    except FileNotFoundError:  # it was deleted
        return "unversioned"


@functools.cache
def _commit_in(_: Path) -> str:
    from pytest_benchmark.utils import get_commit_info

    return commit_of(get_commit_info())  # type: ignore[no-untyped-call]  # untyped there


def commit_of(info: Mapping[str, Any]) -> str:
    """Return a commit as pytest-benchmark describes it: its id, and + for uncommitted changes."""
    return f"{info.get('id')}{'+' if info.get('dirty') else ''}"


def installed_packages(root: str = "peft-regress") -> dict[str, str]:
    """Return the version of every installed package that `root` depends on, and of Python, sorted.

    Dependencies of dependencies are included, since they can change a number too.
    """
    python = _as_version(platform.python_version())
    return dict(sorted({"python": python, **packages_with([root], without=_SHOWN_WITH)}.items()))


def installed_version(name: str) -> str | None:
    """Return the version of an installed package; None without it."""
    try:
        return metadata.distribution(name).version
    except metadata.PackageNotFoundError:
        return None


def loaded_packages() -> set[str]:
    """Return the names of the packages of which a module is loaded."""
    owners = _owners()
    loaded = {name.partition(".")[0] for name in sys.modules}
    return {canonicalize_name(owner) for name in loaded for owner in owners.get(name, ()) if owner}


def imported_packages() -> dict[str, str]:
    """Return the version of every package of which a module is loaded, and of their requirements.

    Left out are pytest, its plugins and their requirements, which other runners do not load.
    """
    points = metadata.entry_points(group="pytest11")
    plugins = {point.dist.name for point in points if point.dist is not None}
    runner = packages_with({"pytest", "pytest-xdist", *plugins} - {"peft-regress"})
    roots = loaded_packages() - runner.keys() - {"peft-regress"}
    return packages_with(roots, without=_SHOWN_WITH | runner.keys())


_owners = functools.cache(metadata.packages_distributions)


@functools.cache
def is_from_folder(package: str) -> bool:
    """Return whether a package was installed from a folder of this machine, such as a checkout."""
    try:
        return "dir_info" in _local_source(metadata.distribution(package))
    except metadata.PackageNotFoundError:
        return False


def files_from_here(*, without: Collection[str]) -> set[str]:
    """Return the files of all packages but some that came from a folder or file of this machine."""
    return {
        str(found.locate_file(file))
        for found in metadata.distributions()
        if _local_source(found) and canonicalize_name(found.name) not in without
        for file in found.files or ()
    }


def _local_source(found: metadata.Distribution) -> dict[str, Any]:
    """Return what direct_url.json says of a package from this machine; empty for any other."""
    text = found.read_text("direct_url.json")
    # Conda states the folder where it built a package.
    if not text or (found.read_text("INSTALLER") or "").strip() == "conda":
        return {}
    source: dict[str, Any] = json.loads(text)
    return source if source["url"].startswith("file:") else {}


def packages_with(roots: Iterable[str], *, without: Iterable[str] = ()) -> dict[str, str]:
    """Return the versions of installed packages and of all that they require, by name.

    roots: their names; those that are not installed are left out. without: names to leave out.
    """
    versions: dict[str, str] = {}
    waiting = list(roots)
    seen = set(without)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in seen:
            continue
        seen.add(name)
        try:
            version, requirements = _stated_by(metadata.distribution, name)
        except metadata.PackageNotFoundError:
            # Optional and not installed: it cannot have changed a number.
            continue
        versions[name] = _as_version(version)
        for line in requirements:
            try:
                requirement = Requirement(line)
            except InvalidRequirement:
                continue  # another package's mistake, which pip leaves out, too
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return dict(sorted(versions.items()))


@functools.cache
def _stated_by(
    find: Callable[[str], metadata.Distribution], name: str
) -> tuple[str, tuple[str, ...]]:
    """Return version and requirements of an installed package, whose text is read once."""
    found = find(name)
    return found.version, tuple(found.requires or ())


def _as_version(stated: str | None) -> str:
    """Return a version that a run file may hold: distributions may state any text, or none."""
    return stated if is_version(stated) else re.sub(r"[^A-Za-z0-9_]+", "-", f"odd-{stated}")[:128]


def changed_packages(
    old: Mapping[str, str], new: Mapping[str, str]
) -> dict[str, tuple[str | None, str | None]]:
    """Return the old and new version of every package that differs; None if it is absent."""
    return {
        name: (old.get(name), new.get(name))
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    }


def likely_first(packages: Iterable[str]) -> list[str]:
    """Return packages by how likely they changed a number: `SUSPECTS`, then the others by name."""
    return sorted(packages, key=lambda name: ([*SUSPECTS, name].index(name), name))


def suspects_of(packages: Iterable[str]) -> list[str]:
    """Return the likely ones of the packages that changed; all of an index if none is likely."""
    ordered = likely_first(set(packages) - {"python", "peft-regress"})
    return [name for name in ordered if name in SUSPECTS] or ordered


def describe_machine() -> Machine:
    """Return CPU model, cores, threads and instruction set with a digest over them."""
    found: dict[str, Any] = {
        "cpu": _cpu_model(),
        "cores": os.cpu_count() or 0,
        "threads": TRAINING_THREADS,
        "instruction_set": _instruction_set(),
    }
    return Machine(digest=canonical_digest(found), **found)


def _instruction_set() -> str:
    try:
        with held_signals():
            import torch
    except (ImportError, OSError):
        # The end of a run, whose tests all failed for this, still has a run file to write.
        return "unknown: torch does not import"
    return str(torch.backends.cpu.get_cpu_capability())


def usable_cores() -> int:
    """Return how many cores this process may use; all of them where the system cannot tell."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8", errors="replace") if info.is_file() else ""
    found = re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()
