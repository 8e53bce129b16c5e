"""The commands after a verdict: see more, find the release, accept."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from packaging.version import InvalidVersion, Version

from peft_regress.gate.comparison import Comparison, Invocation
from peft_regress.gate.findings import Finding
from peft_regress.metrics import BATCH_SUFFIX
from peft_regress.runs.environment import SUSPECTS, changed_packages
from peft_regress.text import printable

_MOST_EXPLAINED: Final = 3

Step = tuple[str, list[str]]
"""The purpose of a command, and its words, quoted for a shell, each option with its value."""


def next_steps(failing: Sequence[Finding], comparison: Comparison) -> Iterator[Step]:
    """Yield the commands that show more of failing findings, or find the release."""
    references, invocation = comparison.references, comparison.invocation
    storage = storage_words(invocation)
    explained = [finding for finding in failing if finding.cause.strand == "costs"]
    if invocation.new is not None:
        for finding in explained[:_MOST_EXPLAINED]:
            case = finding.example.case
            sides = (references[case].run_name, invocation.new, case)
            yield (
                "which modules and operators",
                ["peft-regress", "explain", *map(quoted, sides), *storage],
            )
    yield from _drifts(failing, storage)
    for finding in failing[:1]:
        case = finding.example.case
        if case not in references or finding.cause.strand == "budget":
            continue
        observed = comparison.observed[case]
        changed = changed_packages(references[case].environment, observed.environment)
        # If another suspect changed, the releases of one package may not show the change.
        if len(changed.keys() & set(SUSPECTS)) == 1:
            words = bisection(finding, changed)
            if words:
                yield "which release did it", words


def accepting(comparison: Comparison) -> Step:
    """Return how to accept the new numbers, writing the run file first if there is none."""
    invocation = comparison.invocation
    run = quoted(invocation.file or invocation.run)
    first = _before_accepting(comparison)
    words = ["peft-regress", "accept", run, '--reason "..."', *storage_words(invocation)]
    return f"if the new numbers are right{f', {first}, then' if first else ''}", words


def _before_accepting(comparison: Comparison) -> str:
    invocation = comparison.invocation
    return "" if invocation.new else f"run again with `--regress-save {invocation.run}`"


def training(findings: Sequence[Finding], comparison: Comparison) -> Iterator[Step]:
    """Yield how to train all seeds, if a side without them cannot be compared."""
    invocation = comparison.invocation
    if any(is_of_training(finding) for finding in findings):
        saved = f"--regress-save {quoted(invocation.run)}"
        yield "train all seeds", ["pytest", invocation.suite, "--regress-full", saved]


def is_of_training(finding: Finding) -> bool:
    """Return whether cases cannot be compared since a side trained one seed alone in full."""
    return finding.cause.strand == "coverage" and finding.cause.what == "training"


def first_steps(comparison: Comparison) -> Iterator[Step]:
    """Yield what to type after a first run, which nothing judges yet: a line each."""
    invocation = comparison.invocation
    tests = ["pytest", invocation.suite]
    if invocation.new is None:
        yield (
            "first run: write these numbers to a file",
            [*tests, f"--regress-save {invocation.run}"],
        )
    _, words = accepting(comparison)
    yield "if they are right, let them judge later runs", words
    yield "from then on, a case that gets worse fails", tests


def accept_command(comparison: Comparison) -> str:
    """Return the command that accepts the new numbers."""
    _, words = accepting(comparison)
    return " ".join(words)


def accept_hint(comparison: Comparison) -> str:
    """Return the same as a sentence, with the run that writes the run file if there is none."""
    command, first = f"`{accept_command(comparison)}`", _before_accepting(comparison)
    return f"{first}, then {command}" if first else command


def bisection(
    finding: Finding, changed: Mapping[str, tuple[str | None, str | None]]
) -> list[str] | None:
    """Return the bisection between two releases of the most likely package that changed."""
    for name in SUSPECTS:
        old, new = changed.get(name, (None, None))
        if old and new and _is_release(old) and _is_release(new):
            ends = [f"--good {quoted(old)}", f"--bad {quoted(new)}"]
            case = f"--case {quoted(finding.example.case)}"
            return ["peft-regress", "bisect", name, *ends, case, *_metric(finding)]
    return None


def storage_words(invocation: Invocation) -> list[str]:
    """Return the option that names the storage if it is not the usual one."""
    return [] if invocation.baselines is None else [f"--baselines {quoted(invocation.baselines)}"]


def _is_release(version: str) -> bool:
    """Return whether a package index may have this version: no checkout, no local build."""
    try:
        found = Version(version)
    except InvalidVersion:
        return False
    return not found.is_devrelease and found.local is None


def _metric(finding: Finding) -> list[str]:
    """Return the option that limits a bisection to the finding's metric."""
    metrics = [reason.metric.removeprefix("invariant ") for reason in finding.example.reasons]
    names = (finding.cause.what, f"{finding.cause.what}{BATCH_SUFFIX}", *metrics[:1])
    return next(([f"--metric {quoted(name)}"] for name in names if name in metrics), [])


def _drifts(failing: Sequence[Finding], storage: Sequence[str]) -> Iterator[Step]:
    """Yield how to see the steps that add up to a drift, each within its bound."""
    for finding in failing:
        reason = next((one for one in finding.example.reasons if one.since is not None), None)
        if reason is not None:
            case, metric = quoted(finding.example.case), quoted(reason.metric)
            words = ["peft-regress", "history", f"--case {case}", f"--metric {metric}", "--all"]
            yield "the steps that add up, each within its bound", [*words, *storage]
            return


def quoted(text: str) -> str:
    """Quote text as one word of a shell, on one line."""
    return shlex.quote(printable(text))
