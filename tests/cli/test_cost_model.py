"""`peft-regress cost --model`: any module by its import path, from the current folder."""

import json
import subprocess
import sys

import pytest

MODULE = """
import torch
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

def frozen():
    return Linear().requires_grad_(False)

def resnet18():
    import torchvision
    model = torchvision.models.resnet18(num_classes=10)
    return model.eval()
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "my_models.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_models", raising=False)
    yield tmp_path
    sys.modules.pop("my_models", None)


def test_a_model_of_the_current_folder_costs_what_its_layers_do(command, folder):
    path = list(sys.path)
    code, out, err = command(
        "cost", "--model", "my_models:Words", "--input", "8x5:int64", "--format", "json"
    )
    assert (code, err) == (0, "")
    cost = json.loads(out)
    assert set(cost) == {"model", "settings", "metrics"}
    assert cost["model"] == "my_models:Words"
    assert cost["settings"] == {"inputs": ["8x5:int64"], "tensors": "fake tensors"}
    assert cost["metrics"]["forward_flops"]["value"] == 2 * 8 * 5 * 3 * 2
    assert cost["metrics"]["trainable_params"]["value"] == 9 * 3 + 3 * 2 + 2
    assert sys.path == path


def test_a_classifier_by_its_path_costs_what_the_built_in_one_does(command, folder):
    """The same model, mode and loss; its AdamW has no weight decay."""
    _, out, _ = command(
        "cost", "--model", "my_models:resnet18", "--input", "2x3x32x32",
        "--format", "json",
    )  # fmt: skip
    _, built_in, _ = command(
        "cost", "--architecture", "resnet18", "--method", "full", "--batch", "2", "--resolution",
        "32", "--loss", "sum", "--format", "json",
    )  # fmt: skip
    own, theirs = (json.loads(text)["metrics"] for text in (out, built_in))
    assert theirs.keys() - own.keys() == {"adapter_bytes"}
    differing = {name for name, metric in own.items() if metric != theirs[name]}
    assert differing == {"optimizer_flops", "aten_ops"}


def test_inputs_may_have_names_and_a_model_that_needs_values_has_real_tensors(command, folder):
    words = ("--model", "my_models:Named", "--input", "8x4", "--input", "mask=8x1:bool")
    code, out, _ = command("cost", *words)
    assert code == 0
    title = "my_models:Named, one training step on 8x4 and mask=8x1:bool (fake tensors)"
    assert title in out
    code, out, _ = command("cost", "--model", "my_models:Branching", "--input", "8x4")
    assert (code, "(real tensors)" in out) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--model my_models:Linear --input 8x5", "a step of --model my_models:Linear --input 8x5"),
        ("--model my_models:Linear", "a step of --model my_models:Linear without --input fails"),
        ("--model my_models:Words --input 8x5", "fails: RuntimeError: "),
        ("--model my_models:Linear --input 8x4 --input y=1", "unexpected keyword argument 'y'"),
        ("--model my_models:Linear --input 8by4", "'8by4' is not [NAME=]SHAPE[:DTYPE]"),
        ("--model my_models:nothing --input 8x4", "unknown name in module my_models 'nothing'. "),
        ("--model my_module:build --input 8x4", "there is no module 'my_module' among"),
        ("--model build --input 8x4", "'build' is not an import path"),
        ("--model my_models:frozen --input 8x4", "nothing to train"),
        ("--model my_models:Linear --loss sum", "--loss does not go with --model"),
        ("--model my_models:Linear --input 8x4 --batch 1", "--batch does not go with --model"),
        (
            "--model my_models:Linear --method lora --architecture resnet18",
            "does not go with --model: build the model as you train it",
        ),
        ("--input 8x4 --method head --architecture resnet18", "name it by --model MODULE:NAME"),
    ],
)
def test_a_wrong_input_is_one_line_and_exit_2(command, folder, arguments, message):
    code, out, err = command("cost", *arguments.split())
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_the_current_folder_is_importable_for_the_installed_command_too(folder):
    done = subprocess.run(
        [sys.executable, "-P", "-m", "peft_regress", "cost", "--model", "my_models:Linear",
         "--input", "8x4"],
        capture_output=True, text=True, check=False, cwd=folder,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "trainable_params" in done.stdout
