"""Try the gate with faults: it must fail if a library, or this project, is wrong.

    python tools/faults/faults.py                    every fault, and the same cases without any
    python tools/faults/faults.py --only 'dora-*'    the faults that match a glob
    python tools/faults/faults.py --list             their names, and what is wrong
    python tools/faults/faults.py --write            write the table into caught.md

First the cases are measured without a fault, in full: they are the references. Then each fault
replaces a function in a separate process, which measures the fault's case as users do. If only
numbers that are rounded show it, it is tried again on another kind of machine: this one without
AVX-512. Exit code 1 if no signal sees a fault here, if a fault no longer fits the code, or if a
case without a fault does not repeat its reference here, or fails there. More in docs/evidence.md.
"""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final, TypeAlias

sys.path.append(str(Path(__file__).resolve().parents[1] / "docs"))

from fault_catalogue import AREAS, FAULTS, Fault
from fault_runs import (
    Job,
    Judge,
    Outcome,
    Run,
    judged,
    measure_all,
    measure_elsewhere,
    noise_of,
)
from page_tables import put, table

from peft_regress.gate.verdicts import Reason
from peft_regress.metrics import BATCH_SUFFIX

PAGE: Final = Path(__file__).with_name("caught.md")
_MOST_SIGNALS: Final = 2
_SEEN: Final = ("caught", "strict")
Measure: TypeAlias = Callable[[Sequence[Job]], Iterator[Run]]


# --- Trying ---------------------------------------------------------------------------------------


def chosen_faults(globs: Sequence[str]) -> list[Fault]:
    """Return the faults that match one of the globs. Raises `SystemExit` if none does."""
    found = [one for name, one in FAULTS.items() if any(fnmatchcase(name, glob) for glob in globs)]
    if not found:
        sys.exit(f"no fault matches {' or '.join(map(repr, globs))}; --list prints the names")
    return found


def judge_of(cases: Sequence[str]) -> tuple[Judge, list[str]]:
    """Measure cases without a fault, in full and once more; return what differs the second time."""
    runs = list(measure_all(Job(case=case) for case in cases))
    lost = [
        f"{case}: {run.complaint}" for case, run in zip(cases, runs, strict=True) if not run.record
    ]
    if lost:
        sys.exit(f"no reference: {'; '.join(lost)}")
    judge = Judge(run.record for run in runs if run.record)
    return judge, noise_among(cases, judge, measure_all)


def noise_among(cases: Sequence[str], judge: Judge, measure: Measure) -> list[str]:
    """Measure cases without a fault; return what the gate sees."""
    runs = measure([Job(case=case, known=judge.known(case)) for case in cases])
    noise = [noise_of(case, run, judge) for case, run in zip(cases, runs, strict=True)]
    return list(filter(None, noise))


def tried(faults: Sequence[Fault], judge: Judge, measure: Measure) -> list[Outcome]:
    """Measure faults; print one line for each."""
    outcomes = []
    jobs = [Job(case=one.case, fault=one.name, known=judge.known(one.case)) for one in faults]
    for fault, run in zip(faults, measure(jobs), strict=True):
        outcomes.append(judged(fault, run, judge))
        print(line(outcomes[-1]), flush=True)
    return outcomes


# --- Showing --------------------------------------------------------------------------------------


def line(outcome: Outcome) -> str:
    """Return one line for the terminal."""
    training = "repeats" if outcome.repeats else ""
    seen = ", ".join(_signals(outcome.reasons)) or outcome.remark
    return f"{outcome.state:<9}{training:<8}{outcome.fault.name}: {seen}"


def counts(outcomes: Sequence[Outcome], elsewhere: Mapping[str, Outcome]) -> str:
    """Return how many faults were caught, and how. elsewhere: what was tried again there."""
    found = Counter(outcome.state for outcome in outcomes)
    parts = [f"{len(outcomes)} faults", f"{found['caught']} caught"]
    if found["strict"]:
        parts.append(f"{found['strict']} better or a remark, which fail --regress-strict")
    parts += [f"{found[state]} {state}" for state in ("uncaught", "broken") if found[state]]
    repeats = sum(outcome.repeats for outcome in outcomes)
    hidden = sum(outcome.state != "caught" for outcome in elsewhere.values())
    there = f"{hidden} not caught on another kind of machine"
    return f"{', '.join(parts)}; {repeats} train as without the fault; {there}"


def tables(outcomes: Sequence[Outcome], elsewhere: Mapping[str, Outcome]) -> str:
    """Return how many faults were caught, then a Markdown table per area."""
    parts = [f"{counts(outcomes, elsewhere)}."]
    header = ["fault", "seen by", "elsewhere"]
    for area in AREAS:
        rows = [
            [f"`{one.fault.name}`", _cell(one), _cell(there)]
            for one in outcomes
            if one.fault.area == area
            for there in [elsewhere.get(one.fault.name) or replace(one, reasons=one.anywhere)]
        ]
        parts += [f"### {area[0].upper()}{area[1:]}", table(header, rows, names=3)]
    return "\n\n".join(parts)


def _cell(outcome: Outcome) -> str:
    signals = _signals(outcome.reasons)
    shown = [re.sub(r"^\S+", r"`\g<0>`", signal) for signal in signals[:_MOST_SIGNALS]]
    if len(signals) > _MOST_SIGNALS:
        shown.append(f"{len(signals) - _MOST_SIGNALS} more")
    if outcome.state == "strict":
        shown.append("**improved**" if shown else f"`{outcome.remark}`: **a remark**")
    elif outcome.state != "caught":
        shown.append(f"**{outcome.state}**: {outcome.remark}")
    return ", ".join(shown)


def _signals(reasons: Iterable[Reason]) -> list[str]:
    """Return each signal that saw a fault, and how far beyond its bound; the farthest first.

    A cost at batch 1 and at batch 32 is one signal.
    """
    farthest: dict[str, tuple[float, str]] = {}
    for reason in reasons:
        name = (reason.subject or reason.kind).removesuffix(BATCH_SUFFIX)
        found = _distance(reason)
        farthest[name] = max(found, farthest.get(name, found))
    ordered = sorted(farthest.items(), key=lambda item: (-item[1][0], item[0]))
    return [f"{name} {far}".rstrip() for name, (_, far) in ordered]


def _distance(reason: Reason) -> tuple[float, str]:
    """Return the change as a multiple of the bound; signals without a bound come first."""
    if reason.bound and reason.relative_change is not None:
        multiple = abs(reason.relative_change) / reason.bound
        return multiple, f"{_rounded(multiple)}x"
    if reason.kind == "status":
        return float("inf"), str(reason.new).partition(" ")[0]
    if reason.kind == "curve":
        return float("inf"), "".join(re.findall(r"from step \d+ on", str(reason.new)))
    if reason.kind == "invariant":
        return float("inf"), str(reason.new).lower()
    return float("inf"), ""


def _rounded(multiple: float) -> str:
    """Return two digits, since more differ between machines; at most one million."""
    if multiple >= 1e6:
        return "over 1,000,000"
    return f"{multiple:.1f}" if multiple < 10 else f"{float(f'{multiple:.2g}'):,.0f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the chosen faults; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--only", nargs="+", default=["*"], metavar="GLOB", help="faults by name")
    mode.add_argument("--list", action="store_true", help="print the faults, try none")
    mode.add_argument("--write", action="store_true", help="write the table into caught.md")
    chosen = parser.parse_args(arguments)
    faults = chosen_faults(chosen.only)
    if chosen.list:
        print("\n".join(f"{fault.name}: {fault.wrong}" for fault in faults))
        return 0
    cases = sorted({fault.case for fault in faults})
    judge, noise = judge_of(cases)
    repeat = f"{len(cases) - len(noise)} of {len(cases)} cases repeat"
    print(f"without a fault: {repeat}", *noise, sep="\n  ")
    outcomes = tried(faults, judge, measure_all)
    hidden = [one.fault for one in outcomes if one.state == "caught" and not one.anywhere]
    cases = sorted({fault.case for fault in hidden})
    alarms = noise_among(cases, judge, measure_elsewhere)
    passing = f"{len(cases) - len(alarms)} of {len(cases)} cases pass"
    print(f"on another kind of machine, without a fault: {passing}", *alarms, sep="\n  ")
    elsewhere = {one.fault.name: one for one in tried(hidden, judge, measure_elsewhere)}
    wrong = [f"{one.fault.name} is {one.state}" for one in outcomes if one.state not in _SEEN]
    print(f"\n{counts(outcomes, elsewhere)}")
    if wrong:
        print(f"not as it should be: {', '.join(wrong)}")
    if chosen.write and not (noise or alarms):
        PAGE.write_text(put(PAGE.read_text(), "faults", "caught", tables(outcomes, elsewhere)))
    return int(bool(wrong or noise or alarms))


if __name__ == "__main__":
    sys.exit(main())
