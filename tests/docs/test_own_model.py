"""The tutorials: a reader who types one from the top sees what the page shows."""

import json
import subprocess
import sys

import pytest
from example_sandbox import environment, write_program
from examples import ROOT, blocks, differences

END_OF_TUTORIAL = {
    "docs/own-model.md": "## The fields of a case",
    "docs/own-script.md": "## What is judged",
}


@pytest.mark.nightly
@pytest.mark.parametrize("page", ["docs/own-model.md", "docs/own-script.md"])
def test_the_whole_page_runs_from_an_empty_folder(page, tmp_path):
    end = (ROOT / page).read_text().splitlines().index(END_OF_TUTORIAL[page])
    for name, module in {"pytest": "pytest", "peft-regress": "peft_regress"}.items():
        write_program(tmp_path / "bin" / name, f'exec {sys.executable} -m {module} "$@"')
    folder = tmp_path / "project"
    folder.mkdir()
    for block in blocks():
        if block.page != page or block.line > end:
            continue
        if block.language == "python":
            path = block.text.partition("\n")[0].removeprefix("# ")
            (folder / path).write_text(block.text)
            continue
        for command in block.commands:
            done = subprocess.run(
                ["bash", "-c", command.typed],
                cwd=folder, env=environment(tmp_path), capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert "Traceback" not in done.stderr, done.stderr
            assert done.returncode in {0, 1}, done.stdout + done.stderr
            printed = done.stdout.splitlines()
            assert differences(command.shown, printed) is None, f"{command}\n" + "\n".join(printed)
    if page == "docs/own-model.md":
        cases = json.loads((folder / "runs/own.json").read_text())["peft_regress"]["cases"]
        assert min(cases["digits/lora-r4/digitnet"]["metrics"]["accuracy"]["samples"]) > 0.75
