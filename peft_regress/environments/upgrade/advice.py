"""What to do after an upgrade: pin, report, find the release, accept; each with its command."""

from __future__ import annotations

from collections.abc import Iterator

from peft_regress.environments.upgrade.upgrade import Upgrade
from peft_regress.gate.findings import Finding
from peft_regress.report.verdict.next_steps import bisection, quoted
from peft_regress.runs.environment import SUSPECTS
from peft_regress.text import clean

Advice = tuple[str, ...]
"""Words and commands alternate, words first."""


def advice_on(upgrade: Upgrade) -> list[Advice]:
    """Return what a user can do about the findings."""
    failing = [finding for finding in upgrade.comparison.findings if finding.is_failing]
    better = [finding for finding in upgrade.comparison.findings if finding.is_better]
    advice = [*_about_failing(failing, upgrade)] if failing else []
    if failing or better:
        which = "if the new numbers are right" if failing else "it got better"
        advice.append(_accepting(f"accept, {which}:", upgrade))
    if any(finding.cause.strand == "coverage" for finding in upgrade.comparison.findings):
        advice.append(("compare what was not compared: add", "--base run"))
    return advice or [("nothing: no number changed beyond its bound",)]


def _about_failing(failing: list[Finding], upgrade: Upgrade) -> Iterator[Advice]:
    if upgrade.edited:
        yield ("compare the packages alone, with the code of today: add", "--base run")
        return
    pins = [
        f"{name}=={upgrade.changed[name][0]}"
        for name in SUSPECTS
        if name in upgrade.changed and upgrade.changed[name][0]
    ]
    if pins:
        yield (f"pin: stay with {' '.join(map(clean, pins))} until it is settled",)
    yield (
        "report: add",
        "--summary issue.md",
        "to write an issue for the maintainers, with a script that runs without this project",
    )
    words = bisection(failing[0], upgrade.changed)
    if words:
        yield ("find the release:", " ".join(words))


def _accepting(words: str, upgrade: Upgrade) -> Advice:
    if upgrade.saved is None:
        command = 'peft-regress accept run.json --reason "..."'
        return (f"{words} add", "--save run.json", "and then", command)
    return (words, f'peft-regress accept {quoted(str(upgrade.saved))} --reason "..."')
