"""The page of the fuzzer names every check and every state."""

from __future__ import annotations

import re
from pathlib import Path

from peft_regress.fuzz.checks import CHECKS
from peft_regress.fuzz.report import STATES

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "fuzz.md").read_text()


def rows(heading: str) -> dict[str, str]:
    part = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    found = re.findall(r"^\| `?([^|`]+)`? \| (.*) \|$", part, re.MULTILINE)
    return {name: text for name, text in found if set(name) != {"-", " "} and "---" not in name}


def test_the_table_of_checks_is_that_of_the_code() -> None:
    found = rows("What is checked")
    found.pop("check")
    assert found == dict(CHECKS)


def test_every_state_of_an_entry_is_explained() -> None:
    found = rows("The corpus")
    found.pop("state")
    assert set(found) == set(STATES.values())
