"""`peft-regress cost --runtime executorch`: what the programs of a step ask of a device."""

from __future__ import annotations

import importlib.util
import json
import sys

import pytest

HEAD = ("cost", "--architecture", "shufflenet_v2_x0_5", "--method", "head", "--resolution", "32")
RUNTIME = ("--runtime", "executorch")


@pytest.mark.slow
@pytest.mark.executorch
def test_the_metrics_of_programs_come_after_those_of_the_step(command):
    code, out, err = command(*HEAD, *RUNTIME, "--format", "json")
    assert (code, err) == (0, "")
    values = {name: m["value"] for name, m in json.loads(out)["metrics"].items()}
    state = values["optimizer_state_bytes"]
    assert values["edge_train_bytes"] == values["edge_train_planned_bytes"] + state
    assert list(values)[-1] == "edge_inference_program_bytes"
    # Weights of 4 bytes are in the file.
    assert values["edge_inference_program_bytes"] > 4 * values["total_params"]


@pytest.mark.slow
@pytest.mark.executorch
def test_what_has_no_program_is_one_line(command):
    arguments = ("--method", "full", "--bn", "train")
    code, out, err = command(*HEAD[:3], *arguments, "--resolution", "64", *RUNTIME)
    assert (code, out) == (2, "")
    assert "full on shufflenet_v2_x0_5 has no program for ExecuTorch: " in err
    assert "running_mean" in err
    assert len(err.splitlines()) == 1


def test_without_executorch_the_error_is_the_command_that_installs_it(command, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "executorch" else real(name, *rest),
    )
    code, out, err = command(*HEAD, *RUNTIME)
    assert (code, out) == (2, "")
    assert "python -m pip install 'peft-regress[executorch]'" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cost", "--model", "a:b", *RUNTIME), "--runtime does not go with --model"),
        ((*HEAD, "--matrix", "edge"), "name them by --cases GLOB"),
        (("cost", "--cases", "nothing/*", "--matrix", "edge"), "edge/full/"),
    ],
)
def test_a_runtime_goes_with_no_model_of_ones_own_and_a_matrix_is_of_cases(
    command, arguments, message
):
    code, _, err = command(*arguments)
    assert (code, message in err) == (2, True)


GATES = """
import torch
from torch import nn
from peft_regress import FineTune

def build():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 6 * 6, 3)
    )

def load():
    inputs, labels = torch.rand(40, 3, 8, 8), torch.arange(40) % 3
    return (inputs, labels), (inputs, labels)

GATES = [
    FineTune(f"toy/{mode}/net", model=build, data=load, adapter="full", batch=8, mode=mode)
    for mode in ("eval", "train")
]
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Two cases, of which one moves BatchNorm's statistics."""
    (tmp_path / "pyproject.toml").write_text(
        '[tool.peft_regress]\ncases = ["edge_gates:GATES"]\nmatrix = "own"\n'
    )
    (tmp_path / "edge_gates.py").write_text(GATES)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("edge_gates", None)


@pytest.mark.executorch
@pytest.mark.usefixtures("project", "clean_registry")
def test_each_case_has_what_its_programs_ask_or_why_it_has_none(command):
    code, out, _ = command("cost", "--cases", "toy/*", *RUNTIME, "--format", "json")
    assert code == 3
    whole, refused = json.loads(out)["cases"]
    values = {name: metric["value"] for name, metric in whole["metrics"].items()}
    state = values["optimizer_state_bytes"]
    assert values["edge_train_bytes"] == values["edge_train_planned_bytes"] + state
    # Weights of 4 bytes, that AdamW keeps twice, and their gradients.
    assert values["edge_train_planned_bytes"] > 2 * 4 * values["total_params"]
    assert "error" not in whole
    assert not [name for name in refused["metrics"] if "edge" in name]
    assert refused["metrics"]["peak_bytes"]["value"] > 0
    assert refused["error"]["type"] == "UnsupportedProgramError"
    assert "1.running_mean" in refused["error"]["message"]


@pytest.mark.executorch
@pytest.mark.usefixtures("project", "clean_registry")
def test_text_says_below_a_case_why_it_has_no_program(command):
    code, out, _ = command("cost", "--cases", "toy/train/*", *RUNTIME)
    assert code == 3
    assert "no program for ExecuTorch: the step changes a buffer, 1.running_mean" in out
    code, out, _ = command("cost", "--cases", "toy/eval/*", *RUNTIME)
    assert code == 0
    assert "edge_train_bytes" in out


@pytest.mark.slow
@pytest.mark.executorch
def test_a_built_in_case_is_exported_as_its_method_is(command):
    """At the step of its costs, whatever it is trained on."""
    names = ("cost", "--architecture", "mobilenet_v3_small", "--method", "head")
    alone = json.loads(command(*names, *RUNTIME, "--format", "json")[1])["metrics"]
    id_ = "shift/head/mobilenet_v3_small"
    _, out, _ = command("cost", "--cases", id_, *RUNTIME, "--format", "json")
    (case,) = json.loads(out)["cases"]
    found = {name: metric for name, metric in case["metrics"].items() if name in alone}
    assert found == alone
