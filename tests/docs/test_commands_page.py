"""docs/commands.md has every command with every option, whatever its tool leaves out."""

import re
from pathlib import Path

import click
import pytest

from peft_regress.cli.main import COMMANDS, cli
from peft_regress.plugin.options import OPTIONS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "commands.md").read_text()
SHARED = PAGE.partition("\n### Options of several commands\n")[2].partition("\n### ")[0]
COMMAND_PAGE, _, PYTEST_PAGE = PAGE.partition("\n## Options of pytest\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_there_with_its_arguments_options_and_examples(name):
    section = COMMAND_PAGE.partition(f"\n### {name}\n")[2].partition("\n### ")[0]
    command = cli.get_command(click.Context(cli), name)
    usage = section.strip().splitlines()[0]
    assert usage.startswith(f"`peft-regress {name} ")
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            assert f" {parameter.human_readable_name}" in usage
            continue
        option = rf"^- `{parameter.opts[0]}[ ,`].*$"
        items = re.findall(option, section, re.MULTILINE)
        if not items:
            assert f"`{parameter.opts[0]}`" in section.partition("- [shared](")[2]
            items = re.findall(option, SHARED, re.MULTILINE)
        (item,) = items
        # The first words of its help, but for what Markdown marks.
        words = re.sub(r"[`\\]", "", item.partition("`: ")[2])
        assert words.startswith(" ".join(parameter.help.replace("`", "").split())[:25]), item
        assert not parameter.required or item.endswith("(required)"), item
    for line in re.findall(r"^  (peft-regress .*)$", command.epilog or "", re.MULTILINE):
        assert f"\n{line}\n" in section


def test_every_option_and_setting_of_pytest_is_there():
    names = [f"--regress-{name}" for name in OPTIONS]
    for name in (*names, "regress_suites", "regress_baselines"):
        assert re.search(rf"^- `{name}[ `]", PYTEST_PAGE, re.MULTILINE), name


def test_every_variable_of_the_page_is_read_by_the_package():
    names = re.findall(r"`([A-Z]+_[A-Z_]+)`", PAGE)
    assert len(names) >= 3
    sources = "".join(path.read_text() for path in (ROOT / "peft_regress").rglob("*.py"))
    for name in names:
        assert f'"{name}"' in sources, name
