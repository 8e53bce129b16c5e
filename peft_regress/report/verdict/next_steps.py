"""The commands after a verdict: measure again, see more, find the release, accept."""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Final

from packaging.version import InvalidVersion, Version

from peft_regress.cases import Case
from peft_regress.gate.comparison import Comparison, Invocation
from peft_regress.gate.findings import Finding
from peft_regress.metrics import BATCH_SUFFIX
from peft_regress.runs.environment import changed_packages, suspects_of
from peft_regress.text import printable

_MOST_EXPLAINED: Final = 3
_FIELDS: Final = ("task", "method", "rank", "architecture")
_TYPABLE: Final = re.compile(r"[\w.+-]+")
_MOST_TERMS: Final = 40
_LONGEST_NAME: Final = 200
_LONGEST_WORD: Final = 1000

Step = tuple[str, list[str]]
"""The purpose of a command, and its words, quoted for a shell, each option with its value."""


def next_steps(
    comparison: Comparison,
    failing: Sequence[Finding],
    incomplete: Sequence[Finding],
    *,
    is_away: bool = False,
) -> Iterator[Step]:
    """Yield what to type after a verdict; first what makes it again, if its reader `is_away`."""
    invocation = comparison.invocation
    findings = (*failing, *incomplete)
    if is_away and findings:
        yield "measure these cases again", measuring(comparison, findings)
        yield "all of this verdict", [compare_command(invocation)]
    yield from _explaining(comparison, failing, is_away=is_away)
    yield from _drifts(failing, invocation)
    yield from _bisecting(comparison, failing)
    if any(is_of_training(finding) for finding in incomplete):
        saved = f"--regress-save {quoted(invocation.run)}"
        yield "train all seeds", ["pytest", invocation.suite, "--regress-full", saved]
    is_first = bool(comparison.observed) and not comparison.references
    if is_first and invocation.only is None:
        yield from _first_steps(comparison)
        return
    is_missing = [finding.verdict == "missing" for finding in findings]
    if comparison.can_be_accepted and not (is_missing and all(is_missing)):
        yield accepting(comparison)
    if any(is_missing) and invocation.only is None:
        _, words = accepting(comparison)
        yield "if what is missing is gone for good", [*words, "--retire ID"]


def compare_command(invocation: Invocation) -> str:
    """Return the command that repeats the comparison."""
    words = ["peft-regress", "compare", quoted(invocation.old), quoted(invocation.run)]
    words += [] if invocation.matrix is None else [f"--matrix {quoted(invocation.matrix)}"]
    words += [] if invocation.only is None else [f"--only {quoted(invocation.only)}"]
    words += ["--strict"] if invocation.strict else []
    # The storage may be named already, as the side that judges.
    words += [] if invocation.baselines == invocation.old else storage_words(invocation)
    return " ".join(words)


def measuring(comparison: Comparison, findings: Sequence[Finding]) -> list[str]:
    """Return the command that measures the cases of findings again, if a side has a record."""
    invocation = comparison.invocation
    known = {**comparison.observed, **comparison.references}
    cases = {name: side.record.case for name, side in known.items()}
    wanted = {name for finding in findings for name in finding.cases if name in known}
    everything = {**{case.id: case for case in invocation.cases}, **cases}
    expression = marker_expression([cases[name] for name in wanted], everything.values())
    words = ["pytest", invocation.suite]
    words += [f'-m "{expression}"'] if expression else []
    words += [] if invocation.matrix is None else [f"--regress-matrix {quoted(invocation.matrix)}"]
    words += ["--regress-strict"] if invocation.strict else []
    return words + ([] if invocation.new else [f"--regress-save {invocation.run}"])


def marker_expression(wanted: Collection[Case], known: Collection[Case]) -> str:
    """Return the expression of `-m` that selects the wanted cases and no other known one.

    It has as few terms as a greedy choice finds: `case(method='dora')` if all cases of DoRA are
    wanted. Empty if it would be too long, select all, or contain a name that cannot be typed.
    """
    if len({case.id for case in wanted}) == len({case.id for case in known}):
        return ""
    if not all(_TYPABLE.fullmatch(str(getattr(c, name))) for c in wanted for name in _FIELDS):
        return ""
    ids = {case.id for case in wanted}
    groups: dict[tuple[tuple[str, object], ...], set[str]] = defaultdict(set)
    for case in known:
        for count in range(1, len(_FIELDS) + 1):
            for names in combinations(_FIELDS, count):
                groups[tuple((name, getattr(case, name)) for name in names)].add(case.id)
    fitting = [(term, found) for term, found in groups.items() if found <= ids]
    # Those with the most cases first; among equals the one with the fewest words.
    fitting.sort(key=lambda pair: (-len(pair[1]), len(pair[0])))
    terms = []
    for term, found in fitting:
        if found & ids:
            ids -= found
            terms.append(f"case({', '.join(f'{name}={value!r}' for name, value in term)})")
    return " or ".join(terms) if len(terms) <= _MOST_TERMS else ""


def _explaining(
    comparison: Comparison, failing: Sequence[Finding], *, is_away: bool
) -> Iterator[Step]:
    """Yield how to see the modules behind changed costs, where there is a run file to read."""
    invocation = comparison.invocation
    if invocation.new is None and not is_away:
        return
    for finding in [one for one in failing if one.cause.strand == "costs"][:_MOST_EXPLAINED]:
        case = finding.example.case
        if case in comparison.references and len(case) <= _LONGEST_NAME:
            sides = (comparison.references[case].run_name, invocation.run, case)
            words = ["peft-regress", "explain", *map(quoted, sides), *storage_words(invocation)]
            yield "which modules and operators", words


def _bisecting(comparison: Comparison, failing: Sequence[Finding]) -> Iterator[Step]:
    """Yield how to find the release behind the gravest finding."""
    for finding in failing[:1]:
        case = finding.example.case
        if case not in comparison.references or finding.cause.strand == "budget":
            continue
        before, after = comparison.references[case], comparison.observed[case]
        changed = changed_packages(before.environment, after.environment)
        # If another suspect changed, the releases of one package may not show the change.
        if len(suspects_of(changed)) == 1 and len(case) <= _LONGEST_NAME:
            words = bisection(finding, changed)
            if words:
                yield "which release did it", words


def _first_steps(comparison: Comparison) -> Iterator[Step]:
    """Yield what to type after a first run, which nothing judges yet."""
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


def _drifts(failing: Sequence[Finding], invocation: Invocation) -> Iterator[Step]:
    """Yield how to see the steps that add up to a drift, each within its bound."""
    for finding in failing:
        reason = next((one for one in finding.example.reasons if one.since is not None), None)
        if reason is not None:
            words = history_of_drift(finding.example.case, reason.metric, invocation)
            yield "the steps that add up, each within its bound", words
            return


def history_of_drift(case: str, metric: str, invocation: Invocation) -> list[str]:
    """Return the command that shows every value of a metric."""
    options = [f"--case {quoted(case)}", f"--metric {quoted(metric)}"]
    return ["peft-regress", "history", *options, *storage_words(invocation)]


def accepting(comparison: Comparison) -> Step:
    """Return how to accept the new numbers, writing the run file first if there is none."""
    invocation = comparison.invocation
    run = quoted(invocation.file or invocation.run)
    first = _before_accepting(comparison)
    words = ["peft-regress", "accept", run, '--reason "..."', *storage_words(invocation)]
    return f"if the new numbers are right{f', {first}, then' if first else ''}", words


def accept_hint(comparison: Comparison) -> str:
    """Return the same as a sentence, with the run that writes the run file if there is none."""
    _, words = accepting(comparison)
    command, first = f"`{' '.join(words)}`", _before_accepting(comparison)
    return f"{first}, then {command}" if first else command


def _before_accepting(comparison: Comparison) -> str:
    invocation = comparison.invocation
    return "" if invocation.new else f"run again with `--regress-save {invocation.run}`"


def is_of_training(finding: Finding) -> bool:
    """Return whether cases cannot be compared since a side trained one seed alone in full."""
    return finding.cause.strand == "coverage" and finding.cause.what == "training"


def bisection(
    finding: Finding, changed: Mapping[str, tuple[str | None, str | None]]
) -> list[str] | None:
    """Return the bisection between two releases of the most likely package that changed."""
    for name in suspects_of(changed):
        old, new = changed[name]
        if old and new and _is_release(old) and _is_release(new):
            ends = [f"--good {quoted(old)}", f"--bad {quoted(new)}"]
            case = f"--case {quoted(finding.example.case)}"
            return ["peft-regress", "bisect", name, *ends, case, *_metric(finding)]
    return None


def _metric(finding: Finding) -> list[str]:
    """Return the option that limits a bisection to the finding's metric."""
    metrics = [reason.metric.removeprefix("invariant ") for reason in finding.example.reasons]
    names = (finding.cause.what, f"{finding.cause.what}{BATCH_SUFFIX}", *metrics[:1])
    return next(([f"--metric {quoted(name)}"] for name in names if name in metrics), [])


def _is_release(version: str) -> bool:
    """Return whether a package index may have this version: no checkout, no local build."""
    try:
        found = Version(version)
    except InvalidVersion:
        return False
    return not found.is_devrelease and found.local is None


def storage_words(invocation: Invocation) -> list[str]:
    """Return the option that names the storage if it is not the usual one."""
    return [] if invocation.baselines is None else [f"--baselines {quoted(invocation.baselines)}"]


def quoted(text: str) -> str:
    """Quote text as one word of a shell, on one line."""
    return shlex.quote(printable(text)[:_LONGEST_WORD])
