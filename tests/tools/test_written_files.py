"""The files of docs/ that tools write are what the code says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from written_file import write_or_check

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("tool", ["api", "commands", "schema"])
def test_what_a_tool_writes_into_docs_is_up_to_date(tool):
    done = subprocess.run(
        [sys.executable, f"tools/docs/{tool}.py", "--check"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_file_that_is_out_of_date_is_an_error_with_the_command(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("old")
    monkeypatch.setattr(sys, "argv", ["tools/docs/api.py"])
    with pytest.raises(SystemExit) as ended:
        write_or_check(page, "new", ["--check"])
    assert ended.value.code == "page.md is out of date: run `python tools/docs/api.py --write`"
    write_or_check(page, "new", ["--write"])
    write_or_check(page, "new", ["--check"])
