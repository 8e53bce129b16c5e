"""Write docs/commands.md from the help of the commands and of the pytest options, or check it.

`python tools/docs/commands.py --write` or `--check`.
"""

import re
import sys
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Final, Self, cast

import click
import pytest
from page_tables import write_or_check

from peft_regress.cli.main import COMMANDS, SECTIONS, cli
from peft_regress.plugin.options import add_options

PAGE: Final = Path(__file__).parents[2] / "docs" / "commands.md"

_SEVERAL: Final = 3
"""An option that as many commands have in the same words is described once."""
_SHARED: Final = "Options of several commands"
_ANCHOR: Final = _SHARED.lower().replace(" ", "-")

_INTRODUCTION: Final = """\
# Commands and options

What `peft-regress --help` and `pytest --help` print, on one page
([`commands.py`](../tools/docs/commands.py) writes it). [Everyday use](usage.md) shows the commands
at work.

- [Commands](#commands): `peft-regress COMMAND`
- [Options of pytest](#options-of-pytest): `pytest --regress-...`
- [Settings of pytest](#settings-of-pytest): in `[tool.pytest.ini_options]`
- [Environment variables](#environment-variables)

OLD, NEW and RUN are run files, folders of shards, or entries of the storage by number, such as
`0004`. GLOB is a pattern with `*` and `?`, in quotes, so that the shell leaves it alone. N is a
whole number. An exit code is 2 for wrong use or unreadable input; else 1 if something regressed or
is over budget; else 3 if something was not compared, or a named thing is absent; else 0.
"""

_VARIABLES: Final = """\
## Environment variables

- `PEFT_REGRESS_CACHE`: the folder of kept environments, in place of the
  user's cache folder.
- `NO_COLOR`: print without colours, if it is set to anything.
- `PIP_...`: pip's own settings; `upgrade` and `bisect` install with them. Where an environment has
  no pip, uv's settings of indexes hold too ([environments](upgrading.md#environments)).
- `GITHUB_STEP_SUMMARY`: in a job of GitHub Actions, `--regress-summary` appends to this summary.
"""


def page() -> str:
    """Return the text of the page."""
    context = click.Context(cli, info_name="peft-regress")
    parts = [_INTRODUCTION, "## Commands", _index(), "### All commands"]
    parts.append("\n".join(_options(cli, context).values()))
    contexts = {}
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None  # noqa: S101  (listed)
        contexts[name] = click.Context(command, info_name=name, parent=context)
    items = [item for one in contexts.values() for item in _options(one.command, one).values()]
    shared = {item for item, count in Counter(items).items() if count >= _SEVERAL}
    parts += [f"### {_SHARED}", "\n".join(sorted(shared))]
    for name, one in contexts.items():
        parts.append(f"### {name}")
        parts += _command(one.command, one, shared)
    declared = _Declared()
    # The plugin asks a parser of pytest for no more than this.
    add_options(cast("pytest.Parser", declared))
    parts += ["## Options of pytest", "\n".join(declared.options)]
    parts += ["## Settings of pytest", "\n".join(declared.settings), _VARIABLES]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def _index() -> str:
    """Return links to the commands by what they are for, as `--help` groups them."""
    return "\n".join(
        f"- {purpose}: {', '.join(f'[{name}](#{name})' for name in names)}"
        for purpose, names in SECTIONS.items()
    )


def _command(
    command: click.Command, context: click.Context, shared: Collection[str]
) -> Iterator[str]:
    """Yield the usage, the description, the options and the examples of a command."""
    yield f"`{' '.join([context.command_path, *command.collect_usage_pieces(context)])}`"
    yield _plain(_paragraphs(command.help or ""))
    options = _options(command, context)
    named = [f"`{name}`" for name, item in options.items() if item in shared]
    own = [item for item in options.values() if item not in shared]
    yield "\n".join([*own, f"- [shared](#{_ANCHOR}): {', '.join(named)}"] if named else own)
    heading, _, examples = (command.epilog or "").replace("\b\n", "").partition("\n")
    if examples:
        lines = [line.strip() for line in examples.splitlines()]
        yield "\n".join([heading, "", "```text", *lines, "```"])


def _options(command: click.Command, context: click.Context) -> dict[str, str]:
    """Return the item of each option by its name, without `--help`, which every command has."""
    options = [one for one in command.get_params(context) if isinstance(one, click.Option)]
    return {
        one.opts[0]: _item(
            record[0].replace(" INTEGER RANGE", " N"), f"{one.help}{_limits(one, context)}"
        )
        for one in options
        if "--help" not in one.opts and (record := one.get_help_record(context))
    }


def _item(names: str, text: str) -> str:
    return f"- `{names}`: {_plain(_paragraphs(text))}"


def _limits(option: click.Option, context: click.Context) -> str:
    """Say in words what click puts into brackets."""
    extra = option.get_help_extra(context)
    words = ["required"] if "required" in extra else []
    if "default" in extra:
        words.append(f"by default {extra['default'].strip('()')}")
    if "range" in extra:
        words.append(extra["range"].replace("<=x<=", " to ").replace("x>=", "at least "))
    return f" ({'; '.join(words)})" if words else ""


def _paragraphs(text: str) -> str:
    """Return a text without the line breaks inside its paragraphs."""
    return "\n\n".join(" ".join(part.split()) for part in re.split(r"\n\s*\n", text.strip()))


def _plain(text: str) -> str:
    """Return a text of the help as Markdown: globs as code, and no accidental markup."""
    text = re.sub(r"(?<![`\w])('[^'`\s]+')(?!\w)", r"`\1`", text)
    parts = re.split(r"(`[^`]*`)", text)
    parts[::2] = [re.sub(r"([*_<>\[\]|])", r"\\\1", part) for part in parts[::2]]
    return "".join(parts)


class _Declared:
    """What a parser of pytest is asked to add, as lists of Markdown."""

    def __init__(self) -> None:
        self.options: list[str] = []
        self.settings: list[str] = []

    def getgroup(self, *_: str) -> Self:
        return self

    def addoption(self, name: str, *, help: str, metavar: str = "", **_: Any) -> None:  # noqa: A002  (pytest's name)
        text = help[0].upper() + help[1:]
        self.options.append(_item(f"{name} {metavar}".strip(), f"{text}."))

    def addini(self, name: str, help: str, **_: Any) -> None:  # noqa: A002  (pytest's name)
        text = help[0].upper() + help[1:]
        self.settings.append(_item(name, f"{text}."))


if __name__ == "__main__":
    sys.exit(write_or_check(PAGE, page()))
