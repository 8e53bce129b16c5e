"""`peft-regress cost`: a method on a built-in network, a case as it is gated, any module."""

import json
import re
import subprocess
import sys
import warnings

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
MODELS = """
from torch import nn

class Linear(nn.Linear):
    def __init__(self):
        super().__init__(4, 2)

class Words(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Embedding(9, 3), nn.Linear(3, 2))

class Branching(Linear):
    def forward(self, x):
        y = super().forward(x)
        return y if y.sum() > 0 else -y

class Named(Linear):
    def forward(self, x, *, mask):
        return super().forward(x) * mask

def resnet18():
    import torchvision
    return torchvision.models.resnet18(num_classes=10).eval()
"""
SMALL = "--architecture resnet18 --resolution 64 --freeze-head"


@pytest.fixture
def cost(project):
    """Type the command in a folder with models and cases; return what it prints."""
    table = '[tool.peft_regress]\ncases = ["gates:GATES"]\n'
    project.write({"pyproject.toml": table, "gates.py": GATES, "models.py": MODELS})

    def call(words, output="json"):
        code, out, err = project.run("cost", *words.split(), "--format", output)
        assert (code, err) == (0, "")
        return json.loads(out) if output == "json" else out

    return call


def values_of(found):
    return {name: metric["value"] for name, metric in found["metrics"].items()}


def test_json_scales_with_the_batch_under_the_same_names(cost):
    one, many = (cost(f"{SMALL} --method lora --rank 4{more}") for more in ("", " --batch 32"))
    assert set(one) == {"case", "settings", "metrics", "spared"}
    spared = sum(site["bytes"] for site in one["spared"])
    assert 0 < spared < values_of(one)["peak_bytes"]
    assert values_of(one)["attainable_bytes"] < values_of(one)["peak_bytes"]
    assert one["case"] == {"architecture": "resnet18", "method": "lora", "rank": 4}
    assert many["settings"] == {**one["settings"], "batch": 32}
    assert one["metrics"]["forward_flops"]["unit"] == "flop"
    assert not any(name.endswith("_b32") for name in many["metrics"])
    assert values_of(many)["forward_flops"] == 32 * values_of(one)["forward_flops"]


@pytest.mark.parametrize("output", ["text", "markdown"])
def test_it_is_printed_for_people(cost, output):
    out = cost("--architecture resnet18 --method head --resolution 32", output)
    assert "forward_flops" in out.replace("\\", "")
    assert "5130" in out.replace(",", "")  # the head's parameters
    assert "no gradient needs it" not in out
    out = cost(f"{SMALL} --method lora --rank 4", output)
    assert re.search(r"no\s+gradient\s+needs\s+it: \S+\s+KiB\s+by\s+BatchNorm", out)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("lora --rank 4 --resolution 1 --bn train",
         "ValueError: Expected more than 1 value per ch"),
        ("lorafa --rank 4",
         "RuntimeError: The size of tensor a (3) must match the size of tensor b"),
    ],
)  # fmt: skip
def test_the_refusal_of_a_library_is_one_line(command, words, said):
    with warnings.catch_warnings():  # as outside of pytest, which makes errors of warnings
        warnings.simplefilter("default")
        typed = ("--architecture", "resnet18", "--method", *words.split())
        code, out, err = command("cost", *typed)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert f" on resnet18 cannot be profiled with these settings: {said}" in err
    assert err.rpartition(". ")[2].startswith("See docs/methods")


def test_an_own_case_costs_what_its_layers_do_on_its_batch(cost):
    head, full = cost("--cases toy/*")["cases"]
    assert (head["id"], head["tensors"]) == ("toy/head/net", "fake tensors")
    forward = 2 * 8 * (6 * 5 + 5 * 3)
    assert values_of(head)["forward_flops"] == forward
    assert values_of(head)["trainable_params"] == 5 * 3 + 3
    # The gradient of the head's weight alone; the input of the whole gets none.
    assert values_of(head)["backward_flops"] == 2 * 8 * 5 * 3
    assert values_of(full)["backward_flops"] == forward + 2 * 8 * 5 * 3
    out = cost("--cases toy/*", "text")
    for name in ("toy/head/net", "toy/full/net"):
        assert f"{name}, one training step of its own (fake tensors)" in out


def test_a_built_in_case_has_the_costs_of_its_method_on_one_image(cost):
    (found,) = cost("--cases shift/head/resnet18 --matrix default")["cases"]
    names = Adaptation(method="head", architecture="resnet18")
    expected = adaptation_cost(names, CostSettings()).step
    assert values_of(found)["peak_bytes"] == expected.peak_bytes
    assert values_of(found)["forward_flops"] == expected.forward_flops


def test_a_model_of_the_current_folder_costs_what_its_layers_do(cost):
    path = list(sys.path)
    found = cost("--model models:Words --input 8x5:int64")
    assert set(found) == {"model", "settings", "metrics", "spared"}
    assert found["model"] == "models:Words"
    assert found["settings"] == {"inputs": ["8x5:int64"], "tensors": "fake tensors"}
    assert values_of(found)["forward_flops"] == 2 * 8 * 5 * 3 * 2
    assert values_of(found)["trainable_params"] == 9 * 3 + 3 * 2 + 2
    assert sys.path == path


def test_a_classifier_by_its_path_costs_what_the_built_in_one_does(cost):
    """The same model, mode and loss; its AdamW has no weight decay."""
    own = cost("--model models:resnet18 --input 2x3x32x32")["metrics"]
    step = "--batch 2 --resolution 32 --loss sum"
    theirs = cost(f"--architecture resnet18 --method full {step}")["metrics"]
    assert theirs.keys() - own.keys() == {"adapter_bytes"}
    differing = {name for name, metric in own.items() if metric != theirs[name]}
    assert differing == {"optimizer_flops", "aten_ops"}


@pytest.mark.parametrize(
    ("words", "title"),
    [
        (
            "Named --input 8x4 --input mask=8x1:bool",
            "models:Named, one training step on 8x4 and mask=8x1:bool (fake tensors)",
        ),
        # A model that needs values has real tensors.
        ("Branching --input 8x4", "(real tensors)"),
    ],
)
def test_the_title_says_the_inputs_and_the_tensors(cost, words, title):
    assert title in cost(f"--model models:{words}", "text")


@pytest.mark.slow
def test_the_current_folder_is_importable_for_the_installed_command_too(tmp_path):
    (tmp_path / "models.py").write_text(MODELS)
    words = [sys.executable, "-P", "-m", "peft_regress", "cost"]
    words += ["--model", "models:Linear", "--input", "8x4"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "trainable_params" in done.stdout
