"""The examples in the help of commands that read runs: each works in this repository."""

import shlex

import click
import pytest

from peft_regress.cli.main import cli

READERS = ("compare", "explain", "report", "history")


def examples():
    found = [
        str(getattr(cli.get_command(click.Context(cli), one), "epilog", "")) for one in READERS
    ]
    lines = [line.strip() for text in found for line in text.splitlines()]
    return [
        pytest.param(line, marks=[pytest.mark.slow] * ("--html" in line))  # of the whole storage
        for line in lines
        if line.startswith("peft-regress ")
    ]


@pytest.mark.parametrize("line", examples())
def test_an_example_of_the_help_works(shared, command, monkeypatch, line):
    monkeypatch.chdir(shared)
    # 1 is a verdict: it regressed.
    assert command(*shlex.split(line)[1:])[0] in {0, 1}
