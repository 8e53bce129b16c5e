"""What to do about an upgrade: pin, report, find the release, accept; each with its command."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from packaging.version import InvalidVersion, Version

from peft_regress.environment import SUSPECTS
from peft_regress.metrics import BATCH_SUFFIX
from peft_regress.text import clean, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from peft_regress.findings import Finding
    from peft_regress.upgrade.conduct import Upgrade

__all__ = ["Advice", "advice_on"]

Advice = tuple[str, ...]
"""Words and commands in turns, words first."""


def advice_on(upgrade: Upgrade) -> list[Advice]:
    """Return what may follow from what was found."""
    failing = [finding for finding in upgrade.findings if finding.is_failing]
    better = [finding for finding in upgrade.findings if finding.is_better]
    advice = [*_about_failing(failing, upgrade)] if failing else []
    if failing or better:
        which = "if the new numbers are right" if failing else "it got better"
        advice.append(_accepting(f"accept, {which}:", upgrade))
    if any(finding.cause.kind == "coverage" for finding in upgrade.findings):
        advice.append(("compare what was not compared: add", "--base run"))
    return advice or [("nothing: no number moved beyond its bound",)]


def _about_failing(failing: list[Finding], upgrade: Upgrade) -> Iterator[Advice]:
    pins = [
        f"{name}=={upgrade.changed[name][0]}"
        for name in SUSPECTS
        if name in upgrade.changed and upgrade.changed[name][0]
    ]
    if pins:
        yield (f"pin: stay with {' '.join(map(clean, pins))} until it is settled",)
    yield (
        "report:",
        f"peft-regress upgrade {_quoted(*upgrade.requirements)} --summary issue.md",
        "writes an issue for the maintainers, with a script that runs without this project",
    )
    command = _bisection(failing[0], upgrade)
    if command:
        yield ("find the release:", command)


def _accepting(words: str, upgrade: Upgrade) -> Advice:
    if upgrade.saved is None:
        command = 'peft-regress accept run.json --reason "..."'
        return (f"{words} add", "--save run.json", "and then", command)
    return (words, f'peft-regress accept {_quoted(str(upgrade.saved))} --reason "..."')


def _quoted(*texts: str) -> str:
    return " ".join(shlex.quote(printable(text)) for text in texts)


def _bisection(finding: Finding, upgrade: Upgrade) -> str | None:
    """Return the bisection between two releases of the likeliest package that changed."""
    for name in SUSPECTS:
        old, new = upgrade.changed.get(name, (None, None))
        if _is_release(old) and _is_release(new):
            ends = f"--good {old} --bad {new}"
            case = _quoted(finding.example.case)
            return f"peft-regress bisect {name} {ends} --case {case}{_metric(finding)}"
    return None


def _is_release(version: str | None) -> bool:
    """Return whether an index may have it: no checkout, and no build of one's own."""
    try:
        found = Version(version or "")
    except InvalidVersion:
        return False
    return not found.is_devrelease and found.local is None


def _metric(finding: Finding) -> str:
    """Return the option that keeps a bisection to what the finding is about."""
    moved = [reason.metric.removeprefix("invariant ") for reason in finding.example.reasons]
    if finding.cause.kind == "time":
        return ""  # no release is timed
    names = (finding.cause.what, f"{finding.cause.what}{BATCH_SUFFIX}", *moved[:1])
    return next((f" --metric {name}" for name in names if name in moved), "")
