"""docs/own-model.md: a reader who types its tutorial from the top sees what the page shows."""

from __future__ import annotations

import subprocess
import sys

import pytest
from example_sandbox import environment, write_program
from examples import ROOT, blocks, differences

PAGE = "docs/own-model.md"
LINES = (ROOT / PAGE).read_text().splitlines()
STEPS = [
    block
    for block in blocks()
    if block.page == PAGE and block.line < LINES.index("## The fields of a case")
]


@pytest.mark.nightly
def test_the_whole_page_runs_from_an_empty_folder(tmp_path):
    for name, module in {"pytest": "pytest", "peft-regress": "peft_regress"}.items():
        write_program(tmp_path / "bin" / name, f'exec {sys.executable} -m {module} "$@"')
    folder = tmp_path / "project"
    folder.mkdir()
    for block in STEPS:
        if block.language == "python":
            (folder / "gates" / "cases.py").write_text(block.text)
            continue
        for command in block.commands:
            printed = typed_in(folder, command.typed, environment(tmp_path))
            assert differences(command.shown, printed) is None, f"{command}\n" + "\n".join(printed)


def typed_in(folder, command, variables):
    """Run a line by bash, and return what it printed."""
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder, env=variables, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    return done.stdout.splitlines()
