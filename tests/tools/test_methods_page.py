"""docs/methods.md and the tool that writes its table: complete and up to date."""

import re

import methods as tool
from tiny_methods import ALL

from peft_regress.catalogue.matrix import matrix_cases

PAGE = tool.PAGE.read_text()
LISTED = PAGE.partition("## Where each works")[0]
METHODS = re.findall(r"^\| `([\w-]+)`", LISTED, re.MULTILINE)


def test_every_method_has_its_row_with_its_ranks_and_says_if_it_is_in_no_matrix():
    assert {method.name.removesuffix("-bf16") for method in ALL} == set(METHODS)
    for method in ALL:
        marked = f"`{method.name}` (no matrix)" in LISTED
        assert marked == (not method.matrices), method.name
        (row,) = re.findall(rf"^\|[^|]*`{method.name}`.*$", LISTED, re.MULTILINE)
        declared = method.at(tool.rank_of(method)).hyperparameters()
        ranks = ", ".join(map(str, method.ranks)) or "none"
        rate = f"{declared['optimizer']}, {declared['learning_rate']:g}"
        if not method.name.endswith("-bf16"):
            assert row.endswith(f"| {ranks} | {rate} |"), method.name


def test_every_method_of_a_matrix_has_a_state():
    states = PAGE.partition("<!-- methods:states -->")[2].partition("<!-- /methods:states -->")[0]
    in_states = set(re.findall(r"`([a-z0-9_-]+)`", states))
    names = {method.name for method in ALL}
    assert in_states & names == {method.name for method in ALL if method.matrices}


def test_accepted_records_have_the_tables_of_the_pages(capsys):
    """Only once every case has a record; until then the pages are of an earlier run."""
    wanted = {case.id for m in ("default", "extended") for case in matrix_cases(m, task="shift")}
    wanted |= {case.id for case in matrix_cases("language")}
    if wanted <= tool.recorded().keys():
        assert tool.main(["--check"]) == 0, capsys.readouterr().out
