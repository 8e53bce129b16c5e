"""The help texts, and what shows them: no torch, and no module of another command."""

import json
import shlex
import subprocess
import sys

import click
import pytest

from peft_regress.cli.main import COMMANDS, cli

HEAVY = {"torch", "peft", "numpy", "scipy", "sklearn", "pytest"}


def command_of(name):
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
def test_the_examples_of_a_command_are_commands_that_fit(name):
    lines = str(command_of(name).epilog).splitlines()
    assert max(len(f"  {line}") for line in lines) <= 80
    examples = [line.strip() for line in lines if line.startswith("  peft-regress ")]
    assert examples
    for example in examples:
        _, first, *words = shlex.split(example)
        assert first == name
        assert command_of(name).make_context(name, words).info_name == name


def test_cases_have_one_option_and_its_old_name_still_works():
    for option in ("--cases", "--case"):
        context = command_of("list").make_context("list", [option, "shift/*"])
        assert context.params["cases"] == "shift/*"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_can_complete_commands_and_options(command, monkeypatch, shell):
    monkeypatch.setenv("_PEFT_REGRESS_COMPLETE", f"{shell}_source")
    code, out, _ = command()
    assert (code, "_PEFT_REGRESS_COMPLETE" in out) == (0, True)
    monkeypatch.setenv("_PEFT_REGRESS_COMPLETE", f"{shell}_complete")
    for words, last, found in (("peft-regress comp", 1, "compare"),
                               ("peft-regress history --me", 2, "--metric")):  # fmt: skip
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", words.split()[-1] if shell == "fish" else str(last))
        assert found in command()[1]


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


def test_without_torch_a_command_that_needs_it_is_one_line(tmp_path):
    code = """
import sys
sys.modules["torch"] = None
from peft_regress.cli.main import main
for words in (["cost", "--architecture", "resnet18", "--method", "full"], ["sources", "--check"]):
    try:
        main(words)
    except SystemExit as stopped:
        print(stopped.code)
"""
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["2", "2"]
    first, second = done.stderr.splitlines()
    assert first.startswith("error: ModuleNotFoundError: import of torch halted")
    assert second.endswith("Repair or install that package.")
