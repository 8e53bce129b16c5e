"""What a fuzzing brought: the report, issues for the library's tracker, and JSON."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from peft_fuzz.acts import Wrap
from peft_fuzz.oracle.checks import CHECKS
from peft_fuzz.search.findings import Finding
from peft_fuzz.search.fuzz import Fuzzed
from peft_fuzz.search.replay import Replay, Replayed, State
from peft_fuzz.search.reproduce import Shown
from peft_regress.report.document import Code, Line, Listing, Section, Words
from peft_regress.report.layout import Row, Style, Table
from peft_regress.runs.schema import OUTPUT_SCHEMA_VERSION
from peft_regress.text import clean, count_of

_STYLES: Final[Mapping[int, Style]] = {0: "good", 1: "bad", 2: "bad", 3: "open"}
_SHOWN: Final[tuple[State, ...]] = ("new", "mended", "not replayed", "absent", "still there")
STATES: Final[Mapping[State, str]] = {
    "new": "failing anew",
    "mended": "mended",
    "not replayed": "not replayed",
    "absent": "not in this release",
    "still there": "still there",
}
"""What a state is called in a report."""
_MOST_NAMED: Final = 4
_MOST_ALIKE: Final = 3


def fuzz_document(
    fuzzed: Fuzzed, scripts: Mapping[str, Shown] | None = None
) -> list[Section | Table]:
    """Return the outcome, the corpus, each finding, the counts, and what to do.

    With `scripts`, by name a script and what it prints, each finding is an issue for the library's
    maintainers.
    """
    return [
        *_heading(fuzzed),
        *corpus_sections(fuzzed.replay, all_entries=fuzzed.settings.minutes <= 0),
        *_findings(fuzzed, scripts or {}),
        *_counts(fuzzed),
        *_what_to_do(fuzzed),
    ]


def outcome_line(fuzzed: Fuzzed) -> str:
    """Return the outcome in one line."""
    parts = [count_of(len(fuzzed.found), "new finding")] if fuzzed.settings.minutes > 0 else []
    if fuzzed.replay.entries:
        parts += corpus_counts(fuzzed.replay)
    if not fuzzed.is_complete:
        parts.append("incomplete")
    return ", ".join(parts) or "nothing to do: the corpus is empty"


def corpus_counts(replay: Replay) -> list[str]:
    """Return how many entries of the corpus are in each state."""
    found = {state: len(replay.of(state)) for state in _SHOWN}
    return [f"{number} {STATES[state]}" for state, number in found.items() if number]


def _heading(fuzzed: Fuzzed) -> Iterator[Section]:
    packages = ", ".join(f"{clean(name)} {clean(one)}" for name, one in fuzzed.packages.items())
    lines: list[Words | Line] = []
    if fuzzed.settings.minutes > 0:
        lives = sum(fuzzed.counts.lives.values())
        lines.append(
            f"{count_of(lives, 'life', 'lives')} in {fuzzed.seconds / 60:.1f} min by "
            f"{count_of(fuzzed.settings.jobs, 'process', 'processes')}, seed {fuzzed.settings.seed}"
        )
    lines += [f"note: {clean(one, longest=400)}" for one in fuzzed.remarks]
    lines += [f"incomplete: {clean(one, longest=400)}" for one in dict.fromkeys(fuzzed.problems)]
    if fuzzed.unwritten:
        lines.append(f"stopped, a finding was not written: {clean(fuzzed.unwritten, longest=400)}")
    yield Section(
        title=f"fuzz {packages or 'nothing'}: {outcome_line(fuzzed)}",
        body=tuple(lines),
        level=2,
        style=_STYLES[fuzzed.exit_code],
    )


def corpus_sections(replay: Replay, *, all_entries: bool = True) -> Iterator[Section]:
    """Yield what the corpus does in an environment; nothing if there is no corpus.

    Without `all_entries`, those that are still there are only counted.
    """
    if not replay.entries:
        return
    shown = [one for state in _SHOWN for one in replay.of(state) if _is_news(one) or all_entries]
    # An interrupt, or an environment that cannot be used, is told once.
    many = [
        why for why, number in Counter(one.remark for one in replay.of("not replayed")).items()
        if number > _MOST_ALIKE
    ]  # fmt: skip
    rows = tuple(
        Row(cells=(one.finding.name, STATES[one.state], _since(one.finding)), notes=_notes(one))
        for one in shown
        if not (one.finding.mended is not None and one.state == "mended")
        and not (one.state == "not replayed" and one.remark in many)
    )
    for why in many:
        alike = [one for one in replay.of("not replayed") if one.remark == why]
        cells = (count_of(len(alike), "finding"), STATES["not replayed"], "")
        rows += (Row(cells=cells, notes=(clean(why, longest=300),)),)
    headings = ("finding", "now", "fails")
    body = (Table(headings=headings, rows=rows),) if rows else ()
    title = f"known defects of the fuzzer's corpus: {', '.join(corpus_counts(replay))}"
    yield Section(title=title, body=body, level=3)


def _is_news(one: Replayed) -> bool:
    return one.state in {"new", "mended", "not replayed"}


def _since(finding: Finding) -> str:
    releases = finding.releases
    if releases is None or releases.first is None:
        return ""
    return f"since {'at least ' if releases.last_good is None else ''}{releases.first}"


def _notes(one: Replayed) -> tuple[str, ...]:
    accepted = one.finding.accepted
    reported = accepted.reported if accepted is not None else None
    title = title_of(one.finding)
    texts = (title, one.remark, f"reported as {reported}" if reported else "")
    return tuple(clean(text, longest=300) for text in texts if text)


def _findings(fuzzed: Fuzzed, scripts: Mapping[str, Shown]) -> Iterator[Section]:
    for number, group in enumerate(grouped(fuzzed.found), start=1):
        smallest = group[0]
        yield finding_section(number, smallest, group)
        shown = scripts.get(smallest.name)
        if shown is not None:
            yield from script_sections(shown)


def grouped(findings: Iterable[Finding]) -> list[list[Finding]]:
    """Return findings in groups of one defect, as far as that can be told; the smallest first."""
    groups: dict[tuple[str, ...], list[Finding]] = defaultdict(list)
    for finding in findings:
        groups[finding.cause.group].append(finding)
    return [sorted(group, key=lambda one: one.size) for group in groups.values()]


def finding_section(number: int, finding: Finding, group: Sequence[Finding]) -> Section:
    """Return a group of findings, shown by its smallest one."""
    methods = sorted({one.cause.method for one in group})
    body: list[Words | Line] = [
        f"failure: {clean(finding.failure.message, longest=400)}",
        f"example: {described(finding)}",
    ]
    if finding.cause.traits:
        body.append(f"needs: {', '.join(map(clean, finding.cause.traits))}")
    if finding.failure.where is not None:
        body.append(f"raised in: {clean(finding.failure.where)}")
    if finding.releases is not None:
        body.append(f"fails: {finding.releases.sentence}")
    versions = ", ".join(f"{clean(name)} {clean(one)}" for name, one in finding.packages.items())
    body.append(f"seen with: {versions}")
    names = ", ".join(one.name for one in group)
    body.append(Line(f"file: {names}", most_lines=3))
    if len(methods) > _MOST_NAMED:
        body.insert(1, Line(f"methods: {', '.join(methods)}", most_lines=3))
    title = f"{number}. {title_of(finding, methods)}"
    return Section(title=title, body=tuple(body), level=3)


def title_of(finding: Finding, methods: Sequence[str] = ()) -> str:
    """Return a finding's title, as of an issue.

    methods: of the group that it stands for; more than four are counted.
    """
    position, acts = finding.failure.act, finding.example.acts
    act = acts[position] if 0 <= position < len(acts) else Wrap()
    check = CHECKS.get(finding.failure.check)
    what = finding.failure.check.replace("_", " ") if check is None else check.broken
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
    rest = ", ".join(f"{key}={value!r}" for key, value in layer.items() if key not in _PLAIN_KEYS)
    sizes = f"{layer['inputs']}, {layer['outputs']}"
    return f"{layer['name']} {layer['kind']}({sizes}{', ' if rest else ''}{rest})"


_PLAIN_KEYS: Final = frozenset({"name", "kind", "inputs", "outputs"})


def _act_text(act: dict[str, Any]) -> str:
    rest = ", ".join(f"{key}={value!r}" for key, value in act.items() if key != "act")
    return f"{act['act']}({rest})" if rest else str(act["act"])


def script_sections(shown: Shown) -> Iterator[Section]:
    """Yield a script and what it prints."""
    title = "script, which needs torch and the library alone:"
    yield Section(title=title, body=(Listing(shown.script.rstrip(), language="python"),))
    note = "" if shown.exit_code in {1, None} else "; by itself it does not show the failure"
    yield Section(title=f"it prints{note}:", body=(Listing(shown.printed),))


def _counts(fuzzed: Fuzzed) -> Iterator[Section]:
    columns = msgspec.structs.asdict(fuzzed.counts)
    rows = [
        Row(cells=(name, *(_number(each.get(name, 0)) for each in columns.values())))
        for name in sorted({name for each in columns.values() for name in each})
    ]
    if rows:
        numbers = tuple(range(1, 1 + len(columns)))
        table = Table(headings=("method", *columns), rows=tuple(rows), numbers=numbers)
        yield Section(title="lives by method:", body=(table,), level=3)


def _number(value: int) -> str:
    return f"{value:,}" if value else ""


def _what_to_do(fuzzed: Fuzzed) -> Iterator[Section]:
    folder = str(fuzzed.settings.save)
    lines: list[Words] = []
    if fuzzed.found:
        first = fuzzed.found[0].name
        lines.append(
            (
                "to keep one as a known defect:",
                Code(f"peft-fuzz accept {folder}/{first}.json --reason TEXT"),
            )
        )
    for one in fuzzed.replay.newly_mended:
        path = f"{folder}/{one.finding.name}.json"
        lines.append(("mended:", Code(f"peft-fuzz accept {path} --reason TEXT")))
    if lines:
        yield Section(title="what to do:", body=tuple(lines), level=3)


def encode_fuzzed(fuzzed: Fuzzed, scripts: Mapping[str, Shown]) -> dict[str, Any]:
    """Return `{schema_version, exit_code, packages, corpus, findings, counts, ...}`."""
    return {
        "schema_version": OUTPUT_SCHEMA_VERSION,
        "exit_code": fuzzed.exit_code,
        "requirements": list(fuzzed.requirements),
        "packages": fuzzed.packages,
        "seed": fuzzed.settings.seed,
        "seconds": fuzzed.seconds,
        "corpus": encode_replay(fuzzed.replay),
        "findings": [
            {
                "name": one.name,
                "title": title_of(one),
                **msgspec.to_builtins(one),
                **_encode_script(scripts.get(one.name)),
            }
            for one in fuzzed.found
        ],
        "counts": msgspec.to_builtins(fuzzed.counts),
        "problems": list(dict.fromkeys([*fuzzed.problems, *filter(None, [fuzzed.unwritten])])),
        "remarks": list(fuzzed.remarks),
    }


def _encode_script(shown: Shown | None) -> dict[str, Any]:
    if shown is None:
        return {"script": None, "prints": None, "shows_failure": None}
    return {
        "script": shown.script,
        "prints": shown.printed,
        "shows_failure": None if shown.exit_code is None else shown.exit_code == 1,
    }


def encode_replay(replay: Replay) -> list[dict[str, Any]]:
    """Return the state of each entry of the corpus."""
    return [
        {"name": one.finding.name, "state": one.state, "remark": one.remark}
        for one in replay.entries
    ]
