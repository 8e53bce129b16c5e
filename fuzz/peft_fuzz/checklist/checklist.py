"""Compare a branch of peft with a base by the maintainers' protocol for one method."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from peft_fuzz.checklist.judge import Judged, judge
from peft_fuzz.checklist.running import compare, inspect
from peft_fuzz.checklist.situations import NETWORKS, find_method, situations
from peft_regress.errors import InputError
from peft_regress.overlay.overlay import opened_overlay
from peft_regress.project.project import current_project
from peft_regress.runs.environment import changed_packages
from peft_regress.text import count_of
from peft_regress.workers.pool import Environment, LocalPool

INSTALLED: Final = "installed"
"""The name of the base that means the installed packages."""


@dataclass(frozen=True, kw_only=True)
class ChecklistSettings:
    """What is compared, with what, and where."""

    method: str
    jobs: int
    time_limit: float
    base: str = INSTALLED
    replace_torch: bool = False
    pre: bool = False


@dataclass(frozen=True, kw_only=True)
class Checklist:
    """The filled checklist."""

    method: str
    requirements: tuple[str, ...]
    base: str
    packages: tuple[Mapping[str, str], Mapping[str, str]]
    remarks: tuple[str, ...]
    judged: Judged
    situations: int
    seconds: float

    @property
    def changed(self) -> Mapping[str, tuple[str | None, str | None]]:
        """Which packages differ."""
        return changed_packages(*map(dict, self.packages))

    @property
    def scope(self) -> str:
        """What was compared."""
        return (
            f"{count_of(self.situations, 'situation')} on {len(NETWORKS)} small networks with "
            "seeded weights, on a CPU"
        )


def checklist(
    requirements: Sequence[str],
    settings: ChecklistSettings,
    *,
    progress: Callable[[str], None] = lambda _: None,
) -> Checklist:
    """Examine a method on both sides and judge each row of the protocol."""
    method = find_method(settings.method)
    start = time.monotonic()
    pythons = {"base": Path(sys.executable)}
    remarks: list[str] = []
    wanted = {"branch": requirements}
    pip = replace(
        current_project().settings.pip, pre=settings.pre, replace_torch=settings.replace_torch
    )
    if settings.base != INSTALLED:
        wanted = {"base": [settings.base], **wanted}
    with ExitStack() as stack:
        for side, asked in wanted.items():
            overlay = stack.enter_context(opened_overlay(asked, pip))
            packages = ", ".join(f"{name} {version}" for name, version in overlay.packages.items())
            progress(f"{side}: {packages or 'nothing else'} over the current environment")
            pythons[side] = overlay.python
            remarks += overlay.remarks
        # What keeps peft from being imported there is named before anything is compared.
        sides = [
            Environment(python=pythons[side], libraries=("peft",)) for side in ("base", "branch")
        ]
        with LocalPool(settings.jobs, time_limit=settings.time_limit) as pool:
            inspected = inspect(pool, sides, method.name)
            for side, found in zip(("base", "branch"), inspected, strict=True):
                if found.fields is None:
                    raise InputError(
                        f"{method.name}: peft {found.peft} of the {side} has no "
                        f"{method.config}, so there is nothing to compare"
                    )
            chosen = list(situations(method, inspected[0].fields or {}))
            results = compare(pool, sides, chosen, progress)
    return Checklist(
        method=method.name,
        requirements=tuple(requirements),
        base="the installed packages" if settings.base == INSTALLED else settings.base,
        packages=(inspected[0].packages, inspected[1].packages),
        remarks=tuple(remarks),
        judged=judge(results, inspected),
        situations=len(chosen),
        seconds=time.monotonic() - start,
    )
