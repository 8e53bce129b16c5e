"""Real releases of ExecuTorch through the commands: one search by plans, one upgrade that runs."""

import json
import os
import subprocess
import sys

import pytest

GATES = """
import torch
from torch import nn
from peft_regress import Budget, FineTune

def build():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 3))

def load():
    inputs, labels = torch.rand(40, 3, 8, 8), torch.arange(40) % 3
    return (inputs, labels), (inputs, labels)

GATES = [
    FineTune(
        "toy/full/net", model=build, data=load, adapter="full", batch=8, steps=4, seeds=1,
        budget=Budget(edge_train="1 MiB"),
    )
]
"""
CASE = ("--cases", "toy/full/net", "--matrix", "own", "--jobs", "1")

pytestmark = [pytest.mark.slow, pytest.mark.executorch]


@pytest.fixture
def command(tmp_path):
    """Run peft-regress in a project with one case."""
    (tmp_path / "pyproject.toml").write_text('[tool.peft_regress]\ncases = ["toy_gates:GATES"]\n')
    (tmp_path / "toy_gates.py").write_text(GATES)
    (tmp_path / "baselines").mkdir()
    kept = {name: text for name, text in os.environ.items() if not name.startswith("PYTEST_XDIST_")}

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "peft_regress", *arguments, *CASE, "--format", "json"],
            cwd=tmp_path, env=kept, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)

    return run


@pytest.mark.nightly
def test_an_upgrade_runs_the_programs_in_both_releases(command, tmp_path):
    code, found = command("upgrade", "executorch==1.4.1", "--save", str(tmp_path / "run.json"))
    assert code == 0, found
    assert found["compared_with"] == "the current environment"
    (moved,) = [one for one in found["environment"] if one["package"] == "executorch"]
    assert moved["new"] == "1.4.1"
    saved = json.loads((tmp_path / "run.json").read_text())["peft_regress"]
    assert saved["environment"]["executorch"] == "1.4.1"
    (record,) = saved["cases"].values()
    assert record["invariants"]["edge_programs_run"] is True
    assert record["metrics"]["edge_train_bytes"]["value"] > 0


@pytest.mark.nightly
def test_a_search_plans_in_a_release_that_was_built_for_another_torch(command):
    code, found = command(
        "bisect", "executorch", "--good", "1.3.1", "--bad", "1.4.0",
        "--metric", "edge_train_planned_bytes",
    )  # fmt: skip
    assert (code, found["evidence"], found["skipped"]) == (3, "costs", {})
    assert found["tried"] == ["1.3.1", "1.4.0"]
