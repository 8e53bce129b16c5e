"""The commands that reproduce a verdict: pytest for its cases, then those that show details."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import combinations, islice
from typing import Final

from peft_regress.cases import Case
from peft_regress.gate.attribution import COSTS
from peft_regress.gate.comparison import Comparison, Invocation
from peft_regress.gate.findings import Finding
from peft_regress.gate.verdicts import Observation
from peft_regress.metrics import BATCH_SUFFIX
from peft_regress.report.verdict.next_steps import quoted, storage_words
from peft_regress.text import clean

_FIELDS: Final = ("task", "method", "rank", "architecture")
_TYPABLE: Final = re.compile(r"[\w.+-]+")
_MOST_TERMS: Final = 40
_LONGEST_NAME: Final = 200


def compare_command(invocation: Invocation) -> str:
    """Return the command that repeats the comparison."""
    words = ["peft-regress", "compare", _quoted(invocation.old), _quoted(invocation.run)]
    words += [] if invocation.matrix is None else [f"--matrix {_quoted(invocation.matrix)}"]
    words += [] if invocation.only is None else [f"--only {_quoted(invocation.only)}"]
    words += ["--strict"] if invocation.strict else []
    # The storage may be named already, as the side that judges.
    words += [] if invocation.baselines == invocation.old else storage_words(invocation)
    return " ".join(words)


def reproducing_commands(comparison: Comparison, findings: Iterable[Finding]) -> list[str]:
    """Return the commands that measure the cases of findings again, and that show more of them.

    Only cases that either side has a record of are measured.
    """
    findings, invocation = list(findings), comparison.invocation
    known = {**comparison.observed, **comparison.references}
    wanted = {name for finding in findings for name in finding.cases if name in known}
    cases = {name: side.record.case for name, side in known.items()}
    everything = {**{case.id: case for case in invocation.cases}, **cases}
    expression = marker_expression([cases[name] for name in wanted], everything.values())
    chosen = f' -m "{expression}"' if expression else ""
    matrix = "" if invocation.matrix is None else f" --regress-matrix {_quoted(invocation.matrix)}"
    strict = " --regress-strict" if invocation.strict else ""
    kept = "" if invocation.new else f" --regress-save {invocation.run}"
    commands = [f"pytest {invocation.suite}{chosen}{matrix}{strict}{kept}"]
    storage = "".join(f" {word}" for word in storage_words(invocation))
    new = _quoted(invocation.run)
    commands.append(compare_command(invocation))
    commands += [
        f"peft-regress explain {_quoted(run_name)} {new} {_quoted(case)} --metric {metric}{storage}"
        for run_name, case, metric in _explainable(findings, known)
    ]
    drifts = (
        (finding.example.case, reason.metric)
        for finding in findings
        for reason in finding.example.reasons
        if reason.since is not None
    )
    return commands + [
        f"peft-regress history --case {_quoted(case)} --metric {_quoted(metric)} --all{storage}"
        for case, metric in islice(drifts, 1)
    ]


def marker_expression(wanted: Collection[Case], known: Collection[Case]) -> str:
    """Return the expression of `-m` that selects the wanted cases and no other known one.

    It has as few terms as a greedy choice finds: `case(method='dora')` if all cases of DoRA are
    wanted. Empty if it would be too long, select all, or contain a name that cannot be invocation.
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


def _explainable(
    findings: Iterable[Finding], known: Mapping[str, Observation]
) -> Iterator[tuple[str, str, str]]:
    """Yield (reference, case, metric) of the first finding that a ledger can explain."""
    for finding in findings:
        example = finding.example
        metrics = [reason.metric for reason in example.reasons]
        leading = (finding.cause.what, f"{finding.cause.what}{BATCH_SUFFIX}", *metrics)
        metric = next((name for name in leading if name in metrics and name in COSTS), None)
        if metric and len(example.case) <= _LONGEST_NAME and example.case in known:
            yield known[example.case].run_name, example.case, metric
            return


def _quoted(text: str) -> str:
    return quoted(clean(text, longest=1000))
