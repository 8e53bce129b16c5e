"""The help texts, and what shows them: no torch, and no module of another command."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from peft_regress.cli.main import COMMANDS, cli
from peft_regress.cli.options import environment_options

HEAVY = {"torch", "peft", "numpy", "scipy", "sklearn", "ruptures", "pytest"}


def command_of(name: str) -> click.Command:
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    return found


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_the_help_of_every_command(command, snapshot, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = command(*name.split(), "--help")
    assert (code, err) == (0, "")
    assert out == snapshot


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_of_commands_holds_the_first_sentence_of_each_help(name):
    assert str(command_of(name).help).partition("\n\n")[0].replace("\n", " ") == COMMANDS[name]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_of_a_command_are_commands(name):
    lines = [line.strip() for line in str(command_of(name).epilog).splitlines()]
    examples = [line for line in lines if line.startswith("peft-regress ")]
    assert examples
    for example in examples:
        _, first, *words = shlex.split(example)
        assert first == name
        assert command_of(name).make_context(name, words).info_name == name


@pytest.mark.parametrize(
    "name", ["list", "history", "report", "export", "upgrade", "bisect", "time"]
)
def test_cases_have_one_option_and_its_old_name_still_works(name):
    words = {
        "bisect": ["peft", "--good", "1", "--bad", "2"],
        "export": ["run.json", "--to", "csv"],
        "time": ["a", "b"],
    }.get(name, [])
    for option in ("--cases", "--case"):
        context = command_of(name).make_context(name, [*words, option, "shift/*"])
        assert context.params["cases"] == "shift/*"
    assert "--case " not in command_of(name).get_help(context)


def test_the_environment_options_arrive_as_one_setup(tmp_path):
    seen = {}

    @click.command()
    @environment_options
    def measure(**settings):
        seen.update(settings)

    words = "--jobs 3 --time-limit 5 --pip-time-limit 7 --pre --yes --summary a.md --baselines b"
    words += " --resume c.json"
    measure.main(words.split(), standalone_mode=False)
    setup = seen.pop("setup")
    assert (setup.jobs, setup.time_limit, setup.pip_seconds) == (3, 5, 7)
    assert setup.baselines == Path("b")
    assert seen == {
        "pre": True,
        "replace_torch": True,
        "resume": Path("c.json"),
        "summary": Path("a.md"),
    }


def test_an_unknown_command_is_wrong_use(command):
    code, out, err = command("frobnicate")
    assert (code, out) == (2, "")
    assert "No such command 'frobnicate'" in err


def test_help_and_list_import_no_torch_and_help_imports_no_command():
    """In a process of its own, which has imported nothing yet."""
    code = """
import json, sys
from peft_regress.cli.main import COMMANDS, main

def loaded(*arguments):
    try:
        main(list(arguments))
    except SystemExit:
        return sorted(sys.modules)

found = dict(help=loaded("--help"), list=loaded("list"))
for name in COMMANDS:
    found[name + " --help"] = loaded(name, "--help")
print(json.dumps(found), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = json.loads(done.stderr)
    modules = {f"peft_regress.cli.{name}" for name in COMMANDS}
    assert not modules & set(loaded["help"])
    assert modules & set(loaded["list"]) == {"peft_regress.cli.list"}
    for arguments, modules in loaded.items():
        assert not HEAVY & set(modules), arguments
