"""Annotations of any content, read as GitHub's runner reads a log."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from builders import ENVIRONMENT, FULL, GALORE, LORA, UNSEEN_LORA, VALUES, compare, make_record
from hypothesis import given, settings
from hypothesis import strategies as st
from test_markdown import HOSTILE, hostile_sides

from peft_regress.gate.comparison import Invocation
from peft_regress.report.github import (
    SourceLine,
    annotation,
    line_in_repository,
    verdict_annotations,
)

NEWER = {**ENVIRONMENT, "peft": "0.19.1"}
MORE = {**VALUES, "forward_flops": 4_000_000_000}
HERE = SourceLine("benchmarks/test_shift.py", 6)


def read(line):
    """Read a line as actions/runner does (ActionCommand.TryParseV2): level, properties, message."""
    assert "\n" not in line
    assert "\r" not in line
    assert line.startswith("::")
    head, _, message = line[2:].partition("::")
    level, _, pairs = head.partition(" ")
    properties = {}
    for pair in pairs.split(","):
        name, _, value = pair.partition("=")
        for code, letter in (("%3A", ":"), ("%2C", ","), ("%0D", "\r"), ("%0A", "\n")):
            value = value.replace(code, letter)
        properties[name] = value.replace("%25", "%")
    message = message.replace("%0D", "\r").replace("%0A", "\n").replace("%25", "%")
    return level, properties, message


def made(old, new, places, *, environment=NEWER, strict=False):
    invocation = Invocation(strict=strict)
    comparison = compare(old, new, environment=environment, invocation=invocation)
    return verdict_annotations(comparison, places)


def test_the_cases_of_one_test_are_one_error_on_its_line():
    ids = [LORA, FULL]
    lines = made(
        [make_record(name) for name in ids],
        [make_record(name, MORE) for name in ids],
        dict.fromkeys(ids, HERE),
    )
    (line,) = lines
    assert line.startswith("::error file=benchmarks/test_shift.py,line=7,title=peft_regress%3A 2 ")
    level, properties, message = read(line)
    assert (level, properties["title"]) == ("error", "peft_regress: 2 regressed")
    assert message.split("\n") == [
        "regressed in 1 case: forward_flops +9.951 %",
        "regressed in 1 case: forward_flops +9.951 %",
        "packages: peft 0.18.1 -> 0.19.1",
        FULL,
        LORA,
    ]


def test_each_line_has_its_own_annotation_and_the_one_with_most_cases_is_first():
    ids = [LORA, FULL, GALORE]
    places = {
        LORA: SourceLine("a.py", 0),
        FULL: SourceLine("b.py", 1),
        GALORE: SourceLine("b.py", 1),
    }
    lines = made(
        [make_record(name) for name in ids], [make_record(name, MORE) for name in ids], places
    )
    assert [read(line)[1]["file"] for line in lines] == ["b.py", "a.py"]


def test_a_finding_on_several_lines_counts_the_cases_of_each_line():
    ids = [LORA, UNSEEN_LORA, LORA.replace("r4", "r16")]
    lines = {ids[0]: SourceLine("a.py", 0), ids[1]: HERE, ids[2]: HERE}
    records = [make_record(name) for name in ids]
    annotations = made(records, [make_record(name, MORE) for name in ids], lines)
    heads = [read(line)[2].partition(":")[0] for line in annotations]
    assert heads == ["regressed in 2 cases", "regressed in 1 case"]


@pytest.mark.parametrize(("strict", "level"), [(False, "warning"), (True, "error")])
def test_an_improvement_is_a_warning_and_under_strict_an_error(strict, level):
    better = make_record(LORA, {**VALUES, "forward_flops": 1})
    (line,) = made([make_record()], [better], {LORA: HERE}, strict=strict)
    assert read(line)[0] == level
    assert read(line)[1]["title"] == "peft_regress: 1 improved"


def test_a_case_whose_test_did_not_run_is_an_error_without_a_line():
    (line,) = made([make_record(), make_record(FULL)], [make_record(FULL)], {FULL: HERE})
    level, properties, message = read(line)
    assert (level, properties) == ("error", {"title": "peft_regress: 1 missing"})
    assert message == f"missing in 1 case: expected, but the run has no record of it\n{LORA}"


def test_a_green_run_has_no_annotation():
    assert made([make_record()], [make_record()], {LORA: HERE}) == []


def test_there_are_at_most_ten_and_the_last_has_the_rest():
    ids = [f"shift/m{n}/x" for n in range(25)]
    places = {name: SourceLine(f"test_{name.replace('/', '_')}.py", 1) for name in ids}
    lines = made(
        [make_record(name) for name in ids], [make_record(name, MORE) for name in ids], places
    )
    assert len(lines) == 10
    assert read(lines[-1])[1] == {"title": "peft_regress: 16 regressed"}
    told = "\n".join(read(line)[2] for line in lines)
    for name in ids:
        assert name in told


@pytest.mark.parametrize("text", HOSTILE.values(), ids=list(HOSTILE))
def test_no_message_begins_another_command(text):
    old, new = hostile_sides(text)
    places = {record.case.id: SourceLine(text or "x", 3) for record in [*old, *new]}
    for line in made(old, new, places, environment={"peft": text, text: "1"}):
        level, properties, message = read(line)
        assert level in {"error", "warning"}
        assert properties["file"] == (text or "x")
        assert properties["line"] == "4"
        assert len(message) < 15_000


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.text(), st.text(), st.text(min_size=1))
def test_the_runner_reads_back_what_was_written(message, title, path):
    line = annotation("error", message, line=SourceLine(path, 0), title=title)
    assert read(line) == ("error", {"file": path, "line": "1", "title": title}, message)


@pytest.mark.parametrize(
    ("path", "base", "found"),
    [
        ("benchmarks/a.py", "/w/r", "benchmarks/a.py"),
        ("a.py", "/w/r/benchmarks", "benchmarks/a.py"),
        ("../b/a.py", "/w/r/benchmarks", "b/a.py"),
        ("../../a.py", "/w/r/benchmarks", ""),
        ("../a.py", "/w/r", ""),
        ("/usr/a.py", "/w/r", ""),
    ],
)
def test_a_path_is_relative_to_the_checkout(monkeypatch, path, base, found):
    monkeypatch.setenv("GITHUB_WORKSPACE", "/w/r")
    place = line_in_repository(path, 3, base=Path(base))
    assert place == (SourceLine(found, 3) if found else SourceLine("", None))


def test_without_a_checkout_a_path_is_relative_to_the_root_of_pytest(monkeypatch):
    monkeypatch.delenv("GITHUB_WORKSPACE", raising=False)
    assert line_in_repository("b/a.py", 3, base=Path("/w/r")) == SourceLine("b/a.py", 3)


def test_the_older_syntax_of_the_runner_does_not_apply_to_annotations():
    """`##[...]` counts anywhere in a line, except in a line that is a command."""
    (line,) = made([make_record()], [make_record(LORA, MORE)], {LORA: HERE})
    assert re.match(r"::(error|warning) ", line)
