"""The page of the fuzzer names every check, state and formula; the architecture, every file."""

import re
from pathlib import Path

from peft_fuzz.checklist.judge import ATOL, HALF_BOUNDS
from peft_fuzz.methods import METHODS
from peft_fuzz.oracle.checks import CHECKS
from peft_fuzz.search.report import STATES

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "fuzz.md").read_text()


def rows(heading):
    part = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    found = re.findall(r"^\| `?([^|`]+)`? \| (.*) \|$", part, re.MULTILINE)
    return {name: text for name, text in found if set(name) != {"-", " "} and "---" not in name}


def test_the_tables_of_checks_and_states_are_those_of_the_code():
    for heading, first, names in (
        ("What is checked", "check", {*CHECKS}),
        ("The corpus", "state", {*STATES.values()}),
    ):
        assert {*rows(heading)} == {first, *names}


def test_the_methods_with_a_formula_are_those_of_the_code():
    limits = " ".join(PAGE.partition("## Limits\n")[2].split())
    found = re.search(r"(\d+) of the (\d+) methods have a formula here: (.*?)\. The", limits)
    assert found is not None
    named = re.split(r", | and ", found[3].lower())
    assert (int(found[1]), int(found[2])) == (len(named), len(METHODS))
    assert set(named) == {name for name, one in METHODS.items() if one.formula is not None}
    without_cost = {name for name in named if METHODS[name].flops is None}
    assert without_cost == {"c3a", "shira"}


def test_the_evidence_sums_up_its_table_of_old_defects():
    page = (ROOT / "docs" / "fuzz-evidence.md").read_text()
    section = page.partition("## Defects that upstream has mended\n")[2].partition("\n## ")[0]
    counts = re.findall(r"^\| [\d.]+ \| (\d+) \| (\d+) \| (.*) \|$", section, re.MULTILINE)
    sought, found = (sum(int(row[column]) for row in counts) for column in (0, 1))
    missed = sum(row[2].count("[#") for row in counts)
    beyond = section.partition("Not sought")[2].count("\n- [#")
    assert sought == found + missed
    said = (
        f"Of {sought + beyond} defects that upstream has mended, the fuzzer found {found}, missed"
    )
    assert f"{said} {missed}, and cannot find {beyond}." in " ".join(section.split())


def test_the_page_on_checklists_has_the_bounds():
    page = (ROOT / "docs" / "checklist.md").read_text()
    halves = ", ".join(f"{dtype} {100 * bound:g} %" for dtype, bound in HALF_BOUNDS.items())
    assert halves in page
    assert f"{ATOL:.0e}".replace("e-0", "e-") in page
