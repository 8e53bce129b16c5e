"""The commands after a verdict: measure again, see more, find the release, accept."""

import os
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final

from packaging.version import InvalidVersion, Version

from peft_regress.gate.comparison import Comparison, Invocation
from peft_regress.gate.findings import Finding
from peft_regress.invariants import INVARIANTS
from peft_regress.metrics import BATCH_SUFFIX, METRICS
from peft_regress.report.document import Command
from peft_regress.runs.environment import changed_packages, suspects_of
from peft_regress.text import printable

_MOST_EXPLAINED: Final = 3
_LONGEST_NAME: Final = 200
_LONGEST_WORD: Final = 1000


def next_steps(
    comparison: Comparison,
    failing: Sequence[Finding],
    incomplete: Sequence[Finding],
    *,
    is_away: bool = False,
) -> Iterator[Command]:
    """Yield what to type after a verdict; first what makes it again, if its reader `is_away`."""
    invocation = comparison.invocation
    findings = (*failing, *incomplete)
    if is_away and findings:
        yield Command("measure these cases again", measuring(invocation, findings))
        yield Command("all of this verdict", [compare_command(invocation)])
    yield from _explaining(comparison, failing, is_away=is_away)
    yield from _drifts(failing, invocation)
    yield from _bisecting(comparison, failing)
    if any(one.cause[:2] == ("coverage", "training") for one in incomplete):
        saved = f"--regress-save {quoted(invocation.run)}"
        words = ["pytest", invocation.suite, "--regress-full", saved]
        yield Command("train all seeds", words)
    if comparison.not_judged:
        return  # Nobody should accept what this verdict does not show.
    if comparison.observed and not comparison.references:
        yield from _first_steps(comparison)
        return
    is_missing = [finding.verdict == "missing" for finding in findings]
    # No accepted run excuses a case that is over its budget.
    can_help = any(one.cause.strand != "budget" for one in comparison.findings) or (
        comparison.strict and comparison.remarked
    )
    if can_help and not (is_missing and all(is_missing)):
        yield accepting(comparison)
    if any(is_missing):
        words = [*accepting(comparison).words, "--retire ID"]
        yield Command("if what is missing is gone for good", words)


def compare_command(invocation: Invocation) -> str:
    """Return the command that repeats the comparison."""
    words = ["peft-regress", "compare", quoted(invocation.old), quoted(invocation.run)]
    words += [] if invocation.matrix is None else [f"--matrix {quoted(invocation.matrix)}"]
    words += [] if invocation.cases == "*" else [f"--cases {quoted(invocation.cases)}"]
    words += ["--strict"] if invocation.strict else []
    # The storage may be named already, as the side that judges.
    words += [] if invocation.baselines == invocation.old else storage_words(invocation)
    return " ".join(words)


def measuring(invocation: Invocation, findings: Sequence[Finding]) -> list[str]:
    """Return the command that measures the cases of findings again."""
    glob = covering_glob({name for finding in findings for name in finding.cases})
    words = ["pytest", invocation.suite]
    words += [f"--regress-cases {quoted(glob)}"] if glob.strip("*/") else []
    words += [] if invocation.matrix is None else [f"--regress-matrix {quoted(invocation.matrix)}"]
    words += ["--regress-strict"] if invocation.strict else []
    return words + ([] if invocation.new else [f"--regress-save {invocation.run}"])


def covering_glob(cases: Collection[str]) -> str:
    """Return a glob that matches these ids, and may match others: `*/dora-r*/resnet18`."""
    words = []
    for found in zip(*(name.split("/") for name in cases), strict=False):
        start = os.path.commonprefix(found)  # noqa: RUF071  (of letters)
        words.append(start if set(found) == {start} else f"{start}*")
    return "/".join(words)


def _explaining(
    comparison: Comparison, failing: Sequence[Finding], *, is_away: bool
) -> Iterator[Command]:
    """Yield how to see the modules behind changed costs, where there is a run file to read."""
    invocation = comparison.invocation
    if invocation.new is None and not is_away:
        return
    for finding in [one for one in failing if _has_costs(one)][:_MOST_EXPLAINED]:
        case = finding.example.case
        if case in comparison.references and len(case) <= _LONGEST_NAME:
            sides = (comparison.references[case].run_name, invocation.run, case)
            words = ["peft-regress", "explain", *map(quoted, sides), *storage_words(invocation)]
            yield Command("which modules and operators", words)


def _has_costs(finding: Finding) -> bool:
    return finding.cause.strand == "costs" or (
        finding.cause.strand == "trained" and any(one.kind == "metric" for one in finding.reasons)
    )


def _bisecting(comparison: Comparison, failing: Sequence[Finding]) -> Iterator[Command]:
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
                yield Command("which release did it", words)


def _first_steps(comparison: Comparison) -> Iterator[Command]:
    """Yield what to type after a first run, which nothing judges yet."""
    invocation = comparison.invocation
    tests = ["pytest", invocation.suite]
    if invocation.new is None:
        saving = [*tests, f"--regress-save {invocation.run}"]
        yield Command("first run: write these numbers to a file", saving)
    words = accepting(comparison).words
    yield Command("if they are right, let them judge later runs", words)
    yield Command("from then on, a case that gets worse fails", tests)


def _drifts(failing: Sequence[Finding], invocation: Invocation) -> Iterator[Command]:
    """Yield how to see the steps that add up to a drift, each within its bound."""
    examples = [one.example for one in failing]
    drifts = [(one.case, reason) for one in examples for reason in one.reasons if reason.since]
    for case, reason in drifts[:1]:
        words = history_of_drift(case, reason.name, invocation)
        yield Command("the steps that add up, each within its bound", words)


def history_of_drift(case: str, metric: str, invocation: Invocation) -> list[str]:
    """Return the command that shows every value of a metric."""
    options = [f"--case {quoted(case)}", f"--metric {quoted(metric)}"]
    return ["peft-regress", "history", *options, *storage_words(invocation)]


def accepting(comparison: Comparison) -> Command:
    """Return how to accept the new numbers, writing the run file first if there is none."""
    invocation = comparison.invocation
    run = quoted(invocation.file or invocation.run)
    first = "" if invocation.new else f", run again with `--regress-save {invocation.run}`, then"
    words = ["peft-regress", "accept", run, '--reason "..."', *storage_words(invocation)]
    return Command(f"if the new numbers are right{first}", words)


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
    telling = finding.example.telling
    metrics = [one.subject for one in telling if one.kind in {"metric", "invariant"}]
    if telling[0].kind not in {"metric", "invariant"}:
        return ["--metric status"] if telling[0].kind == "status" else []
    names = (finding.cause.what, f"{finding.cause.what}{BATCH_SUFFIX}", *metrics[:1])
    known = {*METRICS, *INVARIANTS, "status"}.intersection(metrics)
    return next(([f"--metric {quoted(name)}"] for name in names if name in known), [])


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
