"""What a fuzzing brought: the report, issues for the library's tracker, and JSON."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from peft_fuzz.acts import Wrap
from peft_fuzz.oracle.checks import CHECKS
from peft_fuzz.scripts.script import script_of
from peft_fuzz.search.findings import Finding
from peft_fuzz.search.fuzz import Fuzzed
from peft_fuzz.search.replay import Replay, Replayed, State
from peft_regress.report.document import Code, Line, Listing, Section, Words
from peft_regress.report.layout import Row, Style, Table
from peft_regress.runs.schema import OUTPUT_SCHEMA_VERSION
from peft_regress.text import clean, count_of

_STYLES: Final[Mapping[int, Style]] = {0: "good", 1: "bad", 3: "open"}
STATES: Final[Mapping[State, str]] = {
    "new": "failing anew",
    "mended": "mended",
    "not replayed": "not replayed",
    "absent": "not in this release",
    "still there": "still there",
}
"""What a state is called in a report, in the order of the report."""
_MOST_NAMED: Final = 4
_PLAIN_KEYS: Final = frozenset({"name", "kind", "inputs", "outputs"})


def fuzz_document(fuzzed: Fuzzed, *, with_scripts: bool) -> list[Section | Table]:
    """Return the outcome, the corpus, each finding, and what to do."""
    return [
        *_heading(fuzzed),
        *_corpus(fuzzed.replay, all_entries=fuzzed.settings.minutes <= 0),
        *_findings(fuzzed, with_scripts=with_scripts),
        *_what_to_do(fuzzed),
    ]


def _corpus_counts(replay: Replay) -> list[str]:
    found = {state: len(replay.of(state)) for state in STATES}
    return [f"{number} {STATES[state]}" for state, number in found.items() if number]


def _heading(fuzzed: Fuzzed) -> Iterator[Section]:
    packages = ", ".join(f"{clean(name)} {clean(one)}" for name, one in fuzzed.packages.items())
    parts, lines = _corpus_counts(fuzzed.replay), []
    if fuzzed.settings.minutes > 0:
        parts.insert(0, count_of(len(fuzzed.found), "new finding"))
        lives = count_of(sum(fuzzed.counts.lives.values()), "life", "lives")
        jobs = count_of(fuzzed.settings.jobs, "process", "processes")
        lines.append(
            f"{lives} in {fuzzed.seconds / 60:.1f} min by {jobs}, seed {fuzzed.settings.seed}"
        )
    parts += [] if fuzzed.is_complete else ["incomplete"]
    lines += [f"note: {clean(one, longest=400)}" for one in fuzzed.remarks]
    lines += [f"incomplete: {clean(one, longest=400)}" for one in dict.fromkeys(fuzzed.problems)]
    yield Section(
        title=f"fuzz {packages or 'nothing'}: {', '.join(parts)}",
        body=tuple(lines),
        level=2,
        style=_STYLES[fuzzed.exit_code],
    )


def _corpus(replay: Replay, *, all_entries: bool) -> Iterator[Section]:
    """Yield what the corpus does; without `all_entries`, what is as before is only counted."""
    if not replay.entries:
        return
    rows = tuple(
        Row(cells=(one.finding.name, STATES[one.state], _since(one.finding)), notes=_notes(one))
        for state in STATES
        for one in replay.of(state)
        if (all_entries or state in {"new", "mended", "not replayed"})
        and not (one.finding.mended is not None and state == "mended")
    )
    body = (Table(headings=("finding", "now", "fails"), rows=rows),) if rows else ()
    title = f"known defects of the fuzzer's corpus: {', '.join(_corpus_counts(replay))}"
    yield Section(title=title, body=body, level=3)


def _since(finding: Finding) -> str:
    releases = finding.releases
    if releases is None or releases.first is None:
        return ""
    return f"since {'at least ' if releases.last_good is None else ''}{releases.first}"


def _notes(one: Replayed) -> tuple[str, ...]:
    accepted = one.finding.accepted
    reported = accepted.reported if accepted is not None else None
    texts = (title_of(one.finding), one.remark, f"reported as {reported}" if reported else "")
    return tuple(clean(text, longest=300) for text in texts if text)


def _findings(fuzzed: Fuzzed, *, with_scripts: bool) -> Iterator[Section]:
    for number, group in enumerate(grouped(fuzzed.found), start=1):
        yield finding_section(number, group[0], group)
        if with_scripts:
            title = "script, which needs torch and the library alone:"
            yield Section(title=title, body=(Listing(_script(group[0]), language="python"),))


def _script(finding: Finding) -> str:
    return script_of(finding.example, finding.failure, finding.packages).rstrip()


def grouped(findings: Iterable[Finding]) -> list[list[Finding]]:
    """Return findings in groups of one defect, as far as that can be told; the smallest first."""
    groups: dict[tuple[str, ...], list[Finding]] = defaultdict(list)
    for finding in findings:
        groups[finding.cause.group].append(finding)
    return [sorted(group, key=lambda one: one.size) for group in groups.values()]


def finding_section(number: int, finding: Finding, group: Sequence[Finding]) -> Section:
    """Return a group of findings, shown by its smallest one."""
    methods = sorted({one.cause.method for one in group})
    versions = ", ".join(f"{clean(name)} {clean(one)}" for name, one in finding.packages.items())
    lines = {
        "failure": clean(finding.failure.message, longest=400),
        "methods": ", ".join(methods) if len(methods) > _MOST_NAMED else "",
        "example": described(finding),
        "needs": ", ".join(map(clean, finding.cause.traits)),
        "raised in": clean(finding.failure.where or ""),
        "seen with": versions,
        "file": ", ".join(one.name for one in group),
    }
    return Section(
        title=f"{number}. {title_of(finding, methods)}",
        body=tuple(Line(f"{name}: {text}") for name, text in lines.items() if text),
        level=3,
    )


def title_of(finding: Finding, methods: Sequence[str] = ()) -> str:
    """Return a finding's title, as of an issue."""
    position, acts = finding.failure.act, finding.example.acts
    act = acts[position] if 0 <= position < len(acts) else Wrap()
    what = CHECKS.get(finding.failure.check, finding.failure.check)
    what = what.format(clean(finding.failure.error or "an error"))
    layers = ", ".join(dict.fromkeys(one.kind for one in finding.example.network.layers))
    named = ", ".join(methods) or finding.example.method
    who = f"{len(methods)} methods" if len(methods) > _MOST_NAMED else named
    when = "" if finding.failure.check == "cost" else f" after {act.title}"
    return f"{who} on {layers.replace('_', ' ')}: {what}{when}"


def described(finding: Finding) -> str:
    """Return the example on one line: layers, settings, acts."""
    network = finding.example.network
    layers = "; ".join(_layer_text(msgspec.to_builtins(one)) for one in network.layers)
    settings = "; ".join(
        f"{one.name}: " + ", ".join(f"{k}={v!r}" for k, v in one.settings.items())
        for one in finding.example.adapters
    )
    acts = ", ".join(_act_text(msgspec.to_builtins(one)) for one in finding.example.acts)
    dtype = "" if network.dtype == "float32" else f"{network.dtype} "
    return clean(f"{dtype}{layers} | {settings} | {acts or 'wrap alone'}", longest=600)


def _layer_text(layer: dict[str, Any]) -> str:
    rest = "".join(f", {key}={value!r}" for key, value in layer.items() if key not in _PLAIN_KEYS)
    return f"{layer['name']} {layer['kind']}({layer['inputs']}, {layer['outputs']}{rest})"


def _act_text(act: dict[str, Any]) -> str:
    rest = ", ".join(f"{key}={value!r}" for key, value in act.items() if key != "act")
    return f"{act['act']}({rest})" if rest else str(act["act"])


def _what_to_do(fuzzed: Fuzzed) -> Iterator[Section]:
    wanted = {"to keep one as a known defect:": [one.name for one in fuzzed.found[:1]]}
    wanted["mended:"] = [one.finding.name for one in fuzzed.replay.newly_mended]
    lines: list[Words] = [
        (words, Code(f"peft-fuzz accept {fuzzed.settings.save}/{name}.json --reason TEXT"))
        for words, names in wanted.items()
        for name in names
    ]
    if lines:
        yield Section(title="what to do:", body=tuple(lines), level=3)


def encode_fuzzed(fuzzed: Fuzzed) -> dict[str, Any]:
    """Return `{schema_version, exit_code, packages, corpus, findings, counts, ...}`."""
    return {
        "schema_version": OUTPUT_SCHEMA_VERSION,
        "exit_code": fuzzed.exit_code,
        "requirements": list(fuzzed.requirements),
        "packages": fuzzed.packages,
        "seed": fuzzed.settings.seed,
        "seconds": fuzzed.seconds,
        "corpus": [
            {"name": one.finding.name, "state": one.state, "remark": one.remark}
            for one in fuzzed.replay.entries
        ],
        "findings": [
            {
                "name": one.name,
                "title": title_of(one),
                **msgspec.to_builtins(one),
                "script": _script(one),
            }
            for one in fuzzed.found
        ],
        "counts": msgspec.to_builtins(fuzzed.counts),
        "problems": list(dict.fromkeys(fuzzed.problems)),
        "remarks": fuzzed.remarks,
    }
