"""The files of docs/ that tools write are what the code says."""

import subprocess
import sys
from pathlib import Path

import pytest
from page_tables import put, write_or_check

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("tool", ["commands", "schema", "edge_page", "evidence_tables"])
def test_what_a_tool_writes_into_docs_is_up_to_date(tool):
    done = subprocess.run(
        [sys.executable, f"tools/docs/{tool}.py", "--check"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_file_that_is_out_of_date_is_an_error_with_the_command(tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.md"
    page.write_text("old")
    monkeypatch.setattr(sys, "argv", ["tools/docs/commands.py"])
    assert write_or_check(page, "new", ["--check"]) == 1
    said = capsys.readouterr().err
    assert "page.md is out of date: run `python tools/docs/commands.py --write`" in said
    assert write_or_check(page, "new", ["--write"]) == 0
    assert write_or_check(page, "new", ["--check"]) == 0


def test_a_table_is_put_in_its_place_and_nothing_else_moves():
    page = "a\n<!-- methods:x -->\nold\n<!-- /methods:x -->\nb\n"
    new = put(page, "methods", "x", "| new \\1 |")
    assert new == "a\n<!-- methods:x -->\n\n| new \\1 |\n\n<!-- /methods:x -->\nb\n"
    assert put(new, "methods", "x", "| new \\1 |") == new
    with pytest.raises(SystemExit, match="add <!-- methods:y --> and <!-- /methods:y -->"):
        put(page, "methods", "y", "")
