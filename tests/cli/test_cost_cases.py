"""`peft-regress cost --cases`: the step of each case, as it is gated."""

import json
import sys

import pytest

from peft_regress.cases import Adaptation
from peft_regress.measure.costs import CostSettings, adaptation_cost

GATES = """
import torch
from peft_regress import FineTune

def build():
    return torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Linear(5, 3))

def load():
    inputs, labels = torch.rand(40, 6), torch.arange(40) % 3
    return (inputs, labels), (inputs, labels)

GATES = [
    FineTune(f"toy/{name}/net", model=build, data=load, adapter=name, also_train=["1"], batch=8)
    for name in ("head", "full")
]
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").write_text('[tool.peft_regress]\ncases = ["toy_gates:GATES"]\n')
    (tmp_path / "toy_gates.py").write_text(GATES)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("toy_gates", None)


@pytest.mark.usefixtures("project", "clean_registry")
def test_an_own_case_costs_what_its_layers_do_on_its_batch(command):
    code, out, err = command("cost", "--cases", "toy/*", "--format", "json")
    assert (code, err) == (0, "")
    head, full = json.loads(out)["cases"]
    assert (head["id"], head["tensors"]) == ("toy/head/net", "fake tensors")
    forward = 2 * 8 * (6 * 5 + 5 * 3)
    assert head["metrics"]["forward_flops"]["value"] == forward
    assert head["metrics"]["trainable_params"]["value"] == 5 * 3 + 3
    # The gradient of the head's weight alone; the input of the whole gets none.
    assert head["metrics"]["backward_flops"]["value"] == 2 * 8 * 5 * 3
    assert full["metrics"]["backward_flops"]["value"] == forward + 2 * 8 * 5 * 3
    code, out, _ = command("cost", "--cases", "toy/*")
    assert code == 0
    for name in ("toy/head/net", "toy/full/net"):
        assert f"{name}, one training step of its own (fake tensors)" in out


def test_a_built_in_case_has_the_costs_of_its_method_on_one_image(command):
    name = "shift/head/shufflenet_v2_x0_5"
    code, out, _ = command("cost", "--cases", name, "--format", "json")
    assert code == 0
    (found,) = json.loads(out)["cases"]
    names = Adaptation(method="head", architecture="shufflenet_v2_x0_5")
    expected = adaptation_cost(names, CostSettings()).step
    assert found["metrics"]["peak_bytes"]["value"] == expected.peak_bytes
    assert found["metrics"]["forward_flops"]["value"] == expected.forward_flops


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cases", "nothing/*"], "case pattern 'nothing/*'"),
        (["--cases", "shift/*", "--rank", "4"], "--rank does not go with --cases"),
        (["--cases", "shift/*", "--model", "a:b"], "--cases does not go with --model"),
    ],
)
def test_what_contradicts_is_refused(command, arguments, message):
    code, out, err = command("cost", *arguments)
    assert (code, out) == (2, "")
    assert message in err
