"""What commands print ends in terminals and logs: no string from a file or a user is a command."""

import contextlib
import io
import json
import re
import sys
from unittest import mock

import msgspec
import pytest
from builders import FULL, LORA, MACHINE, VALUES, make_record, make_run, write_run

from peft_regress.cli.main import main
from peft_regress.metrics import Metric
from peft_regress.project.budgets import Bound
from peft_regress.report.terminal import in_log
from peft_regress.runs import schema

HOSTILE = "x\n::error::bad\r\x1b[31mred\x9b31m\u202eabc ##[error]z;=1+1"
TYPED = "a\x1b[31m\n::error::q##[group]"


def hostile_run(value):
    """Return a run with a hostile string wherever a run file may have one."""
    number = Metric(value=value, unit="count", direction="lower", kind="exact")
    lora = make_record(
        LORA,
        {**VALUES, HOSTILE: number},
        invariants={HOSTILE: value == 1},
        inputs=schema.Inputs(
            weights={HOSTILE: schema.TensorSummary(shape=[1], dtype=HOSTILE, mean=value, norm=1)}
        ),
        trained={HOSTILE: [value]},
        bounds={HOSTILE: Bound(bound=0.1, reason=HOSTILE)},
        invariant_notes={HOSTILE: HOSTILE},
        ledger=schema.Ledger(modules={HOSTILE: schema.ModuleCosts(forward_flops={HOSTILE: value})}),
    )
    message = f"{HOSTILE}{value}{' ::error::t' * 9}"
    error = schema.Failure(type=HOSTILE, message=message)
    return make_run(
        lora,
        make_record(FULL, status="error", error=error),
        selection=schema.Selection(complete=False, narrowed_by=[HOSTILE]),
        machine=msgspec.structs.replace(MACHINE, cpu=HOSTILE, instruction_set=HOSTILE),
    )


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for value in (1, 2):
        write_run(tmp_path / f"{value}.json", hostile_run(value))
    monkeypatch.setenv("COLUMNS", "40")  # a line may begin with any word
    for value in (1, 2):
        printed("accept", f"{value}.json", "--reason", "r", "--allow-errors", "*")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    return tmp_path


def printed(*arguments):
    """Return what a command prints on its two streams."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="") for _ in "oe")
    with mock.patch.multiple(sys, stdout=out, stderr=err), contextlib.suppress(SystemExit):
        main(list(arguments))
    streams = []
    for stream in (out, err):
        stream.flush()
        streams.append(stream.buffer.getvalue().decode())
    return streams[0], streams[1]


COMMANDS: list[tuple[str, ...]] = [
    ("accept", "1.json", "--reason", "r"),
    ("accept", "1.json", "--reason", "r", "--baselines", TYPED),
    ("accept", TYPED, "--reason", "r"),
    ("accept", "1.json", "--reason", "r", "--retire", TYPED),
    ("compare", "1.json", "2.json"),
    ("compare", "baselines", "2.json"),
    ("compare", "1.json", "2.json", "--format", "markdown"),
    ("compare", "1.json", "2.json", "--format", "json"),
    ("compare", "1.json", "2.json", "--format", TYPED),
    ("compare", "1.json", "2.json", "--matrix", TYPED),
    ("history", "--all"),
    ("history", "--all", "--format", "markdown"),
    ("history", "--all", "--format", "json"),
    ("history", "--by", TYPED),
    ("history", "--baselines", TYPED),
    ("report", "1.json"),
    ("report", "1.json", "--format", "json"),
    ("report", TYPED),
    ("report", "1.json", "--html", TYPED),
    ("explain", "1.json", "2.json", LORA),
    ("explain", "1.json", "2.json", LORA, "--format", "markdown"),
    ("explain", "1.json", "2.json", LORA, "--format", "json"),
    ("explain", "1.json", "2.json", TYPED),
    ("list", "--cases", TYPED),
    ("sources", "--check", "--architecture", TYPED),
    (TYPED,),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: "-".join(words[:1] + words[-1:]))
@pytest.mark.usefixtures("world")
def test_no_string_is_a_command_of_a_terminal_or_of_a_runner(command):
    streams = printed(*command)
    assert any(streams)
    for text in streams:
        assert not re.search(r"^\s*::|##\[", text, re.MULTILINE)
        # `csv` ends its rows as RFC 4180 says.
        assert all(line.removesuffix("\r").isprintable() for line in text.split("\n"))
    if streams[1].startswith("error"):
        assert streams[1].count("\n") == 1


@pytest.mark.usefixtures("world")
def test_data_stay_what_they_are():
    """Another program reads them: a string is written another way, and never changed."""
    out, _ = printed("compare", "1.json", "2.json", "--format", "json")
    reasons = [reason for case in json.loads(out)["cases"] for reason in case["reasons"]]
    assert HOSTILE in {reason["metric"] for reason in reasons}


def test_colours_pass_only_where_they_were_laid_out():
    ours = "\x1b[1;31mbad\x1b[0m"
    assert in_log(ours, styles=True) == ours
    assert in_log(ours) == r"\x1b[1;31mbad\x1b[0m"
    assert in_log("\x1b[2J\x1b]0;t\x07a\tb", styles=True) == r"\x1b[2J\x1b]0;t\x07a\tb"
