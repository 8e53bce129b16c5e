"""`checklist`: what it prints and writes, how it ends; on real checkouts, too."""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import peft
import pytest

from peft_fuzz.checklist.checklist import Checklist
from peft_fuzz.checklist.judge import Detail, Judged, Row
from peft_fuzz.cli import checklist as checklist_module
from peft_fuzz.cli import main

ROWS = (
    Row(about="outputs", what="Linear, float32", configurations=11, bound="0.0001", verdict="ok"),
    Row(about="checkpoint", what="names, types and shapes", verdict="ok"),
    Row(about="configuration", what="new fields", difference="none", verdict="ok"),
    Row(about="training", what="Linear", configurations=11, verdict="ok"),
)
BAD = Row(
    about="outputs",
    what="Conv2d, float32",
    verdict="out of bounds",
    details=(Detail("Conv2d, float32", "1 of 22 outputs differ, most rsLoRA, merged, by 0.1"),),
)
MISSING = Row(
    about="outputs",
    what="Linear, float16",
    verdict="not measured",
    details=(Detail("Linear", "no <b>"),),
)


@pytest.fixture
def fill(monkeypatch, capsys, tmp_path):
    """Call the command with rows in place of a comparison; return code, output, and what it got."""
    monkeypatch.chdir(tmp_path)
    asked = []

    def call(*words, rows=ROWS):
        def checklist(requirements, settings, **_):
            asked[:] = [requirements, settings]
            return Checklist(
                method=settings.method,
                requirements=tuple(requirements),
                base="the installed packages",
                packages=({"peft": "0.21.2"}, {"peft": "0.22.0"}),
                remarks=("torchao 0.1 was yanked",),
                judged=Judged(rows=tuple(rows), unsupported=(Detail("Conv3d (DoRA)", "refused"),)),
                situations=442,
                seconds=1.0,
            )

        monkeypatch.setattr(checklist_module, "checklist", checklist)
        with pytest.raises(SystemExit) as stopped:
            main(["checklist", *words])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return int(stopped.value.code or 0), captured.out, captured.err

    call.asked = asked
    return call


MEASURED = [
    "[x] state dict",
    "[x] configuration",
    "[x] benchmark, what a CPU can show of it",
    "[x] script, on this CPU and these networks",
]


@pytest.mark.parametrize(
    ("rows", "code", "ticked"),
    [
        (ROWS, 0, MEASURED),
        ((*ROWS, BAD), 1, MEASURED[1:3]),
        ((*ROWS, MISSING), 3, MEASURED[1:3]),
        ((*ROWS, MISSING, BAD), 1, MEASURED[1:3]),
        (ROWS[1:], 3, MEASURED[:3]),
    ],
)
def test_the_worst_row_makes_the_exit_code_and_only_what_passed_is_ticked(fill, rows, code, ticked):
    found, out, _ = fill("lora", "peft==0.22.0", rows=rows)
    lines = [line.strip().partition(":")[0].removeprefix("- ") for line in out.splitlines()]
    assert (found, [line for line in lines if "[x]" in line]) == (code, ticked)
    assert sum("[ ] " in line for line in lines) == 10 - len(ticked)
    assert "pytest tests -k lora" in out


def test_markdown_has_boxes_and_tables_and_escapes_what_libraries_say(fill, tmp_path):
    summary = tmp_path / "pr.md"
    words = ("dora", "peft==0.22.0", "--format", "markdown", "--summary", str(summary))
    code, out, _ = fill(*words, rows=(*ROWS, BAD, MISSING))
    assert code == 1
    assert out.strip() == summary.read_text().strip()
    for part in (
        "- [ ] unit tests of the method: not run here; `pytest tests -k lora`",
        "- [x] configuration",
        "| Linear, float32 | 11 |",
        "1 of 22 outputs differ, most rsLoRA, merged, by 0.1: Conv2d, float32",
        "no &lt;b&gt;",
        "torchao 0.1 was yanked",
    ):
        assert part in out


def test_json_has_every_row(fill):
    _, out, _ = fill("lora", "peft==0.22.0", "--format", "json", rows=(*ROWS, BAD))
    found = json.loads(out)
    assert found["exit_code"] == 1
    assert [row["verdict"] for row in found["rows"]][-1] == "out of bounds"
    assert found["rows"][-1]["details"] == [BAD.details[0]._asdict()]
    assert found["unsupported"] == [{"where": "Conv3d (DoRA)", "said": "refused"}]
    assert found["packages"] == [{"peft": "0.21.2"}, {"peft": "0.22.0"}]


def test_requirements_and_settings_reach_the_comparison(fill):
    fill(
        "lora", "./peft", "torchao", "--base", "../main", "--jobs", "1", "--pre",
        "--time-limit", "7", "--yes",
    )  # fmt: skip
    requirements, settings = fill.asked
    assert requirements == ("./peft", "torchao")
    assert (settings.method, settings.base) == ("lora", "../main")
    assert (settings.pre, settings.replace_torch) == (True, True)
    assert (settings.jobs, settings.time_limit) == (1, 7)


# --- Real checkouts -------------------------------------------------------------------------------

_PROJECT = f"""
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "peft"
version = "{version("peft")}"
[tool.setuptools.packages.find]
include = ["peft*"]
"""
_LINE = "result = self.ln_tuning_layers[active_adapter](x, *args, **kwargs)"


@pytest.fixture
def checkout(tmp_path):
    """Write a checkout of the installed peft, with a line of LN tuning replaced."""

    def write(name, line=_LINE):
        folder = tmp_path / name
        shutil.copytree(Path(peft.__file__).parent, folder / "peft")
        (folder / "pyproject.toml").write_text(_PROJECT)
        layer = folder / "peft" / "tuners" / "ln_tuning" / "layer.py"
        text = layer.read_text()
        assert text.count(_LINE) == 1
        layer.write_text(text.replace(_LINE, line))
        return str(folder)

    return write


@pytest.mark.nightly
def test_a_changed_line_of_a_checkout_fails_and_an_unchanged_checkout_passes(checkout, tmp_path):
    def filled(branch, base):
        done = subprocess.run(
            [
                sys.executable, "-m", "peft_fuzz", "checklist", "ln_tuning", branch,
                "--base", base, "--format", "json",
            ],
            env={**os.environ, "PEFT_REGRESS_CACHE": str(tmp_path / "cache")},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)

    same = checkout("same")
    code, found = filled(same, "installed")
    assert code == 0
    assert {row["verdict"] for row in found["rows"]} == {"ok"}

    code, found = filled(checkout("changed", f"{_LINE} * 1.01"), same)
    assert code == 1
    verdicts = {row["what"]: row["verdict"] for row in found["rows"] if row["about"] == "outputs"}
    assert verdicts["LayerNorm, float32"] == "out of bounds"
    assert {row["verdict"] for row in found["rows"] if row["about"] == "checkpoint"} <= {"ok"}
