"""Compare a branch of peft with a base by the maintainers' protocol for one method."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from peft_fuzz.checklist.judge import judge
from peft_fuzz.checklist.rows import Judged
from peft_fuzz.checklist.running import Examination, Result
from peft_fuzz.checklist.situations import (
    NETWORKS,
    USUAL,
    Inspected,
    Situation,
    find_method,
    situations,
)
from peft_regress.catalogue.methods import PeftAdapter
from peft_regress.errors import InputError
from peft_regress.overlay.folder import Overlay
from peft_regress.overlay.overlay import opened_overlay
from peft_regress.overlay.pip import PIP_SECONDS
from peft_regress.runs.environment import changed_packages
from peft_regress.text import count_of

INSTALLED: Final = "installed"
"""The name of the base that means the installed packages."""
_TIMED: Final = ("linear", "conv2d")


@dataclass(frozen=True, kw_only=True)
class ChecklistSettings:
    """What is compared, with what, and where."""

    method: str
    jobs: int
    time_limit: float
    """Seconds for one situation on one side."""
    pip_seconds: float = PIP_SECONDS
    base: str = INSTALLED
    """`installed` for the installed packages, else a requirement."""
    replace_torch: bool = False
    pre: bool = False


@dataclass(frozen=True, kw_only=True)
class Checklist:
    """The filled checklist."""

    method: str
    requirements: tuple[str, ...]
    base: str
    """The base as the user named it."""
    versions: tuple[str, str]
    """peft's on both sides."""
    packages: tuple[Mapping[str, str], Mapping[str, str]]
    """All packages that a number can depend on, on both sides."""
    installed: tuple[Mapping[str, str], Mapping[str, str]]
    """What each side has over the current environment."""
    changed: Mapping[str, tuple[str | None, str | None]]
    remarks: tuple[str, ...]
    judged: Judged
    situations: int
    seconds: float


def checklist(
    requirements: Sequence[str],
    settings: ChecklistSettings,
    *,
    progress: Callable[[str], None] = lambda _: None,
    on_result: Callable[[Result, int, int], None] = lambda *_: None,
) -> Checklist:
    """Examine a method on both sides and judge each row of the protocol.

    `progress` gets a sentence per step; `on_result` gets each situation, how many are done and how
    many there are. Raises `InputError` if the method or an environment cannot be used, or a side
    does not have the method.
    """
    method = find_method(settings.method)
    start = time.monotonic()
    with ExitStack() as stack:

        def opened(wanted: Sequence[str], side: str) -> Overlay:
            overlay = stack.enter_context(
                opened_overlay(
                    wanted,
                    replace_torch=settings.replace_torch,
                    pre=settings.pre,
                    seconds=settings.pip_seconds,
                )
            )
            packages = ", ".join(f"{name} {version}" for name, version in overlay.packages.items())
            progress(f"{side}: {packages or 'nothing else'} over the current environment")
            return overlay

        base_python = Path(sys.executable)
        base_packages: Mapping[str, str] = {}
        remarks: tuple[str, ...] = ()
        if settings.base != INSTALLED:
            base = opened([settings.base], "base")
            base_python, base_packages, remarks = base.python, base.packages, base.remarks
        branch = opened(requirements, "branch")
        with Examination(
            base=base_python,
            branch=branch.python,
            method=method.name,
            time_limit=settings.time_limit,
            jobs=settings.jobs,
        ) as examination:
            inspected = examination.inspect()
            _check_method(method, inspected)
            chosen = list(situations(method, inspected[0].fields or {}))
            done = itertools.count(1)
            results = examination.run(
                chosen, lambda result: on_result(result, next(done), len(chosen))
            )
            progress("timing training steps in pairs")
            times = {one.network: examination.time(one) for one in _to_time(results)}
            packages = examination.packages()
    return Checklist(
        method=method.name,
        requirements=tuple(requirements),
        base="the installed packages" if settings.base == INSTALLED else settings.base,
        versions=(inspected[0].peft, inspected[1].peft),
        packages=packages,
        installed=(base_packages, branch.packages),
        changed=changed_packages(dict(packages[0]), dict(packages[1])),
        remarks=(*remarks, *branch.remarks),
        judged=judge(results, inspected, times),
        situations=len(chosen),
        seconds=time.monotonic() - start,
    )


def _check_method(method: PeftAdapter, inspected: tuple[Inspected, Inspected]) -> None:
    for side, found in zip(("base", "branch"), inspected, strict=True):
        if found.fields is None:
            raise InputError(
                f"{method.name}: peft {found.peft} of the {side} has no "
                f"{method.config}, so there is nothing to compare"
            )


def _to_time(results: Sequence[Result]) -> list[Situation]:
    """Return the situations whose steps are timed: those that both sides can train."""
    return [
        result.situation
        for result in results
        if result.situation.network in _TIMED
        and result.situation.label == USUAL
        and all(side.losses for side in result.sides)
    ]


def scope_sentence(checklist: Checklist) -> str:
    """Say what was compared and what was not."""
    small = sum(not network.is_architecture for network in NETWORKS)
    large = [network.name for network in NETWORKS if network.is_architecture]
    return (
        f"{count_of(checklist.situations, 'situation')} on {small} small networks and "
        f"{' and '.join(large)}, all with seeded weights and without pretrained ones, on a CPU"
    )
