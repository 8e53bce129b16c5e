"""The function that changed a number is found by mixing two releases, each a folder of sources."""

import dataclasses
import os
import shutil
import sys
from pathlib import Path

import peft
import pytest
from builders import make_record
from package_world import SETUP

from peft_regress.cases import Case
from peft_regress.gate.findings import Cause, Finding, Member
from peft_regress.gate.verdicts import Reason
from peft_regress.metrics import METRICS
from peft_regress.mixing.mixture import Unit
from peft_regress.project.project import Project
from peft_regress.project.settings import read_settings
from peft_regress.runner.trials import values_of
from peft_regress.runs.schema import Defect, Failure
from peft_regress.upgrades.functions import Side, find_function
from peft_regress.workers.pool import Environment

SOURCES = {
    "toylib/__init__.py": "from toylib.layers import wrapped\n",
    "toylib/config.py": """from dataclasses import dataclass

@dataclass
class Config:
    rank: int = 2
    runs: int = 1
""",
    "toylib/layers.py": """from torch import nn

from toylib.config import Config
from toylib.products import down, up

SCALE = 1.0

class Layer(nn.Module):
    def __init__(self, base, rank, runs):
        super().__init__()
        self.base = base
        self.a = nn.Linear(base.in_features, rank, bias=False)
        self.b = nn.Linear(rank, base.out_features, bias=False)
        self.runs = runs

    def forward(self, x):
        for _ in range(self.runs):
            found = self.base(x)
        return found + SCALE * up(self, down(self, x))

def wrapped(model, config=None, extra=0):
    config = config or Config()
    model.requires_grad_(False)
    model[0] = Layer(model[0], config.rank + extra, config.runs)
    return model
""",
    "toylib/products.py": """def down(layer, x):
    return layer.a(x)

def up(layer, x):
    return layer.b(x)
""",
}
GATES = """import torch
from torch import nn
import toylib
from peft_regress import FineTune

def data():
    x = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))
    return (x, torch.arange(16) % 3), (x, torch.arange(16) % 3)

GATES = [FineTune("toy/added/line", model=lambda: nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3)),
                  data=data, adapter=toylib.wrapped, batch=8, steps=6, seeds=1)]
"""


SCRIPT = """import torch
import toylib

torch.manual_seed(0)
model = toylib.wrapped(torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.Linear(6, 3)))
optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=0.1)
for _ in range(4):
    optimizer.zero_grad()
    torch.nn.functional.mse_loss(model(torch.randn(8, 6)), torch.randn(8, 3)).backward()
    optimizer.step()
"""
SCRIPTS = """from peft_regress import Script

GATES = [Script("toy/script/line", "train.py", steps=3)]
"""


def environment(folder):
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return Environment(python=Path(sys.executable), variables=(("PYTHONPATH", path),))


def write(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def search(folder, package, releases, *, metric, strand="costs", gates=GATES, **options):
    """Search for a function between two releases of a package, folders that Python imports from."""
    stated = '[tool.peft_regress]\ncases = ["gates:GATES"]\n'
    write(folder, {"gates.py": gates, "train.py": SCRIPT, "pyproject.toml": stated})
    project, case = Project(), gates.partition("GATES = ")[2].split('"')[1]
    project.settings = read_settings(folder)
    kind = "invariant" if strand == "invariant" else "metric"
    reason = Reason(kind=kind, subject=metric, old=1, new=2, verdict="regressed")
    finding = Finding(
        cause=Cause(strand, metric, worse=True), members=(Member(case=case, reasons=(reason,)),)
    )
    sides = tuple(Side(one.name, environment(one)) for one in releases)
    setup = dataclasses.replace(SETUP, project=project, baselines=folder)
    return find_function(
        finding, Case.parse(case), package, sides, setup=setup, progress=print, **options
    )


@pytest.fixture
def searched(tmp_path):
    def call(*changes, metric="forward_flops", **options):
        """Search between the sources and the same with changes: (file, before, after)."""
        new = dict(SOURCES)
        for file, before, after in changes:
            assert before in new[file]
            new[file] = new[file].replace(before, after)
        for version, sources in (("1.0", SOURCES), ("2.0", new)):
            metadata = f"Metadata-Version: 2.1\nName: toylib\nVersion: {version}\n"
            info = f"toylib-{version}.dist-info/METADATA"
            write(tmp_path / version, {**sources, info: metadata})
        releases = tmp_path / "1.0", tmp_path / "2.0"
        return search(tmp_path, "toylib", releases, metric=metric, **options)

    return call


def layers(before, after):
    return ("toylib/layers.py", before, after)


TWICE = ("toylib/products.py", "return layer.b(x)", "return layer.b(x) + 0 * layer.b(x)")


def test_a_function_is_named_with_its_lines_and_what_changed_in_it(searched):
    found = searched(TWICE, layers("SCALE = 1.0", "SCALE = 0.5"), layers("x):", "x, *, y=0):"))
    assert found.units == (Unit("toylib/products.py", "up"),)
    assert found.is_confirmed
    lines = "2.0: lines 4 to 5, 1.0: lines 4 to 5"
    assert f"toylib/products.py, up ({lines}): this is it" in found.sentence
    assert "-    return layer.b(x)\n+    return layer.b(x) + 0 * layer.b(x)\n" in found.diff


RANK = ("toylib/config.py", "rank: int = 2", "rank: int = 4")
RUNS = ("toylib/config.py", "runs: int = 1", "runs: int = 2")
AT_LEAST = layers("self.runs = runs", "self.runs = max(runs, 2)")
EXTRA, SCALE = layers("extra=0", "extra=1"), layers("SCALE = 1.0", "SCALE = 3.0")
LOSSES = {"metric": "first_losses", "strand": "function"}


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("changes", "options", "units"),
    [
        ([RANK, layers("SCALE = 1.0", "SCALE = 1")], {}, ["Config.rank"]),
        ([EXTRA], {}, ["wrapped(extra)"]),
        ([SCALE], LOSSES, ["SCALE"]),
        ([EXTRA], {"gates": SCRIPTS}, ["wrapped(extra)"]),
        ([RUNS, AT_LEAST], {}, ["Config.runs", "Layer.__init__"]),
    ],
)
def test_defaults_fields_and_constants_are_found_too(searched, changes, options, units):
    found = searched(*changes, **options)
    assert sorted(one.name for one in found.units) == units
    assert found.is_confirmed


def test_a_change_that_no_unit_mends_is_listed(searched):
    at_top = "import Config\n\nConfig.__init__.__defaults__ = (2, 3)\n"
    found = searched(layers("import Config\n", at_top), layers("SCALE = 1.0", "SCALE = 1"))
    assert found.units == ()
    assert "no function that changed does it by itself or with others" in found.sentence
    assert found.listed == ("toylib/layers.py SCALE",)


def test_a_search_ends_in_time_and_says_so(searched):
    found = searched(TWICE, seconds=0)
    assert "not found in toylib (no time was left; 0 trials)" in found.sentence


def test_a_mixture_that_raises_another_error_shows_neither_release():
    gone, lost = (Failure(type="RuntimeError", message=words) for words in ("is gone", "is lost"))
    wrong = {"invariants": {"frozen_unchanged": False}}
    shown = [
        *(make_record(status="error", error=error) for error in (gone, lost)),
        make_record(**wrong),
        make_record(**wrong, defects={"frozen_unchanged": Defect(error=gone)}),
    ]
    assert len({str(values_of(record)) for record in shown}) == 4


PEFT_GATES = """import peft
import torch
from peft_regress import FineTune
from torch import nn

def data():
    x = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return (x, torch.arange(16) % 3), (x, torch.arange(16) % 3)

def model():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(),
                         nn.Linear(128, 3))

GATES = [FineTune("peft/lora/net", model=model, data=data, batch=8, steps=6, seeds=1,
                  adapter=peft.LoraConfig(r=4, target_modules=["0", "2"]))]
"""
LAYER, TUNERS = "tuners/lora/layer.py", "tuners/tuners_utils.py"
ADDED = "result = result + lora_B(lora_A(dropout(x))) * scaling"
EDITS = {
    "_ConvNd.forward": (LAYER, -1, ADDED, f"{ADDED} + 0 * lora_B(lora_A(x))", "forward_flops"),
    "LoraLayer.reset_lora_parameters": (
        LAYER, 1, "nn.init.zeros_(self.lora_B", "nn.init.ones_(self.lora_B", "first_losses"
    ),
    "_ConvNd.get_delta_weight": (
        LAYER, 0, "self.conv_fn(weight_A.transpose(0, 1), weight_B)",
        "1.1 * self.conv_fn(weight_A.transpose(0, 1), weight_B)", "merge_equals_unmerged"
    ),
    "_ConvNd.update_layer": (
        LAYER, 2, "= lora_alpha / r\n", "= lora_alpha / (r + 1)\n", "filled_losses"
    ),
    "LoraConfig.lora_alpha": (
        "tuners/lora/config.py", 0, "lora_alpha: int = field(default=8",
        "lora_alpha: int = field(default=16", "filled_losses"
    ),
    "LoraLayer.adapter_layer_names": (LAYER, 0, '        "lora_B",\n', "", "delete_leaves_nothing"),
    "BaseTuner._unload_and_optionally_merge(merge)": (
        TUNERS, 0, "merge: bool = True", "merge: bool = False", "merge_equals_unmerged"
    ),
    "get_peft_model_state_dict": (
        "utils/save_and_load.py", 0, "adapter_name): v for k, v in to_return.items()}",
        'adapter_name): v for k, v in to_return.items() if "lora_A" in k}', "saved_adapter_reloads"
    ),
    "BaseTunerLayer.delete_adapter": (
        TUNERS, -1, "layer_names + self.other_param_names:\n            if adapter_name in",
        "layer_names:\n            if adapter_name in", "delete_leaves_nothing"
    ),
    "BaseTuner._mark_only_adapters_as_trainable": (
        TUNERS, 0, "p.requires_grad = False\n", 'p.requires_grad = "bias" in n\n',
        "trainable_params",
    ),
}  # fmt: skip
STRANDS = {"first_losses": "function", "filled_losses": "function"}


@pytest.mark.nightly
@pytest.mark.parametrize("unit", EDITS)
def test_ten_edits_of_peft_are_found(tmp_path, unit):
    file, which, before, after, metric = EDITS[unit]
    installed = Path(peft.__file__).parent
    releases = tmp_path / "old", tmp_path / "new"
    for release in releases:
        shutil.copytree(installed, release / "peft", ignore=shutil.ignore_patterns("__pycache__"))
        info = next(installed.parent.glob("peft-*.dist-info"))
        shutil.copytree(info, release / info.name)
    path = releases[1] / "peft" / file
    parts = path.read_text().split(before)
    at = range(len(parts) - 1)[which] + 1
    path.write_text(before.join(parts[:at]) + after + before.join(parts[at:]))
    strand = STRANDS.get(metric, "costs" if metric in METRICS else "invariant")
    found = search(tmp_path, "peft", releases, metric=metric, strand=strand, gates=PEFT_GATES)
    assert [one.name for one in found.units] == [unit], found.sentence
    assert found.is_confirmed
