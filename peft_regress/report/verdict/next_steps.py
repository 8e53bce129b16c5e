"""The commands that a verdict leads to: see more, find the release, accept."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from packaging.version import InvalidVersion, Version

from peft_regress.metrics import BATCH_SUFFIX
from peft_regress.runs.environment import SUSPECTS, changed_packages
from peft_regress.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from peft_regress.cases import Case
    from peft_regress.gate.findings import Finding
    from peft_regress.gate.judge import Observation

__all__ = [
    "Step",
    "Typed",
    "accept_command",
    "accept_hint",
    "accepting",
    "bisection",
    "next_steps",
    "quoted",
    "storage_words",
]

_MOST_EXPLAINED: Final = 3

Step = tuple[str, list[str]]
"""What a command is for, and its words, each fit for a shell and with its value beside it."""


@dataclass(frozen=True, kw_only=True)
class Typed:
    """What was compared, as it is typed to compare it again.

    old: a baseline storage, a run file or an entry. new: the run file, or an entry; None where none
    was kept. file: the run file where `new` names an entry.
    suite: what pytest is given to collect and judge the tests. baselines: the storage, where it is
    another one than ./baselines. strict: whether what got better fails too. matrix: the one whose
    cases are expected, where it is not the default. cases: what the suite measures, as far as that
    is known.
    """

    old: str = "baselines"
    new: str | None = None
    file: str | None = None
    suite: str = "benchmarks"
    baselines: str | None = None
    strict: bool = False
    matrix: str | None = None
    cases: tuple[Case, ...] = ()

    @property
    def run(self) -> str:
        """The run file, or what one would be called."""
        return self.new or "run.json"


def next_steps(
    failing: Sequence[Finding],
    references: Mapping[str, Observation],
    observed: Mapping[str, Observation],
    typed: Typed,
) -> Iterator[Step]:
    """Yield what to type about findings that fail: how to see more, how to find the release."""
    storage = storage_words(typed)
    explained = [finding for finding in failing if finding.cause.kind == "costs"]
    if typed.new is not None:
        for finding in explained[:_MOST_EXPLAINED]:
            case = finding.example.case
            sides = (references[case].origin, typed.new, case)
            yield (
                "which modules and operators",
                ["peft-regress", "explain", *map(quoted, sides), *storage],
            )
    yield from _drifts(failing, storage)
    for finding in failing[:1]:
        case = finding.example.case
        changed = changed_packages(references[case].environment, observed[case].environment)
        # Beside another suspect the releases of one alone may not show it.
        if len(changed.keys() & set(SUSPECTS)) == 1:
            words = bisection(finding, changed)
            if words:
                yield "which release did it", words


def accepting(typed: Typed) -> Step:
    """Return how to accept the new numbers, with the run file to be written first if need be."""
    run = quoted(typed.file or typed.run)
    first = "" if typed.new else ", run again with `--regress-save run.json`, then"
    words = ["peft-regress", "accept", run, '--reason "..."', *storage_words(typed)]
    return f"if the new numbers are right{first}", words


def accept_command(typed: Typed) -> str:
    """Return the command that accepts the new numbers."""
    _, words = accepting(typed)
    return " ".join(words)


def accept_hint(typed: Typed) -> str:
    """Return the same in a sentence, with the run that must be written first where none was."""
    command = f"`{accept_command(typed)}`"
    return command if typed.new else f"run again with `--regress-save {typed.run}`, then {command}"


def bisection(
    finding: Finding, changed: Mapping[str, tuple[str | None, str | None]]
) -> list[str] | None:
    """Return the bisection between two releases of the likeliest package that changed."""
    for name in SUSPECTS:
        old, new = changed.get(name, (None, None))
        if old and new and _is_release(old) and _is_release(new):
            ends = [f"--good {quoted(old)}", f"--bad {quoted(new)}"]
            case = f"--case {quoted(finding.example.case)}"
            return ["peft-regress", "bisect", name, *ends, case, *_metric(finding)]
    return None


def storage_words(typed: Typed) -> list[str]:
    """Return the option that names the storage, where it is not the usual one."""
    return [] if typed.baselines is None else [f"--baselines {quoted(typed.baselines)}"]


def _is_release(version: str) -> bool:
    """Return whether an index may have it: no checkout, and no build of one's own."""
    try:
        found = Version(version)
    except InvalidVersion:
        return False
    return not found.is_devrelease and found.local is None


def _metric(finding: Finding) -> list[str]:
    """Return the option that keeps a bisection to what the finding is about."""
    moved = [reason.metric.removeprefix("invariant ") for reason in finding.example.reasons]
    if finding.cause.kind == "time":
        return []  # no release is timed
    names = (finding.cause.what, f"{finding.cause.what}{BATCH_SUFFIX}", *moved[:1])
    return next(([f"--metric {quoted(name)}"] for name in names if name in moved), [])


def _drifts(failing: Sequence[Finding], storage: Sequence[str]) -> Iterator[Step]:
    """Yield how to see the steps, none beyond its bound, that add up to a drift."""
    for finding in failing:
        reason = next((one for one in finding.example.reasons if one.since is not None), None)
        if reason is not None:
            case, metric = quoted(finding.example.case), quoted(reason.metric)
            words = ["peft-regress", "history", f"--case {case}", f"--metric {metric}", "--all"]
            yield "the steps, none beyond its bound, that add up", [*words, *storage]
            return


def quoted(text: str) -> str:
    """Return text as one word of a shell, on one line."""
    return shlex.quote(printable(text))
