"""The page of the fuzzer names every check, state and formula; the architecture, every file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from peft_regress.fuzz.checks import CHECKS
from peft_regress.fuzz.methods import METHODS
from peft_regress.fuzz.report import STATES

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "fuzz.md").read_text()


def rows(heading):
    part = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    found = re.findall(r"^\| `?([^|`]+)`? \| (.*) \|$", part, re.MULTILINE)
    return {name: text for name, text in found if set(name) != {"-", " "} and "---" not in name}


def test_the_table_of_checks_is_that_of_the_code():
    found = rows("What is checked")
    found.pop("check")
    assert found == dict(CHECKS)


def test_every_state_of_an_entry_is_explained():
    found = rows("The corpus")
    found.pop("state")
    assert set(found) == set(STATES.values())


def test_the_methods_with_a_formula_are_those_of_the_code():
    limits = " ".join(PAGE.partition("## Limits\n")[2].split())
    found = re.search(r"(\d+) of the (\d+) methods have a formula here: (.*?)\. The", limits)
    assert found is not None
    named = re.split(r", | and ", found[3].lower())
    assert (int(found[1]), int(found[2])) == (len(named), len(METHODS))
    assert set(named) == {name for name, one in METHODS.items() if one.formula is not None}
    without_cost = {name for name in named if METHODS[name].flops is None}
    assert without_cost == {"c3a", "shira"}


@pytest.mark.parametrize(
    ("title", "folder"),
    [
        ("The fuzzer", "fuzz"),
        ("Saved adapters over releases", "environments/compat"),
        ("The checklist", "environments/checklist"),
    ],
)
def test_the_architecture_names_every_file(title, folder):
    text = (ROOT / "docs" / "architecture.md").read_text()
    section = text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    files = (ROOT / "peft_regress" / folder).rglob("*.py")
    names = {file.stem for file in files} - {"__init__"}
    named = set(re.findall(r"`(\w+)`", section))
    assert names - named == set()
