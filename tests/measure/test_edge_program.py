"""Programs for ExecuTorch: their plan adds up, names modules, and what is not expressed is said."""

import importlib.metadata
import importlib.util
import sys

import edge_programs
import pytest
import torch
from edge_programs import batch, lora_model, loss, tiny_training
from tiny_network import tiny_network
from torch import nn
from torch.export.experimental import _export_forward_backward
from torch.nn import functional

from peft_regress.errors import InputError
from peft_regress.measure.edge import (
    UnsupportedProgramError,
    inference_program,
    owners,
    package,
    training_program,
)
from peft_regress.measure.edge.program import UNUSED


def call(model, images):
    return model(images)


class Halved(nn.Module):
    """Two layers whose plan can be added up by hand."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 16, bias=False)

    def forward(self, rows):
        return functional.relu(self.first(rows))


@pytest.mark.executorch
def test_a_plan_is_what_one_counts_by_hand():
    program = inference_program(Halved(), torch.zeros(4, 8), call=call)
    # rows 4x8, the weight turned around 8x16, and their product 4x16, of 4 bytes each.
    assert program.plan == {
        ("", "input"): 4 * 8 * 4,
        ("first", "activation aten.permute_copy"): 8 * 16 * 4,
        ("first", "activation aten.mm"): 4 * 16 * 4,
    }
    assert program.planned_bytes == sum(program.plan.values())
    assert program.calls == {"aten::mm.out": 1, "aten::permute_copy.out": 1, "aten::relu.out": 1}
    assert program.program_bytes > 8 * 16 * 4


@pytest.mark.executorch
def test_the_plan_of_training_adds_up_and_names_the_modules():
    program = tiny_training()
    assert sum(program.plan.values()) == program.planned_bytes
    trained = {
        "conv.lora_A.default": 2 * 3 * 3 * 3,
        "conv.lora_B.default": 8 * 2,
        "linear.lora_A.default": 2 * 8,
        "linear.lora_B.default": 12 * 2,
    }
    for module, numbers in trained.items():
        # Sizes are rounded up to 16 bytes.
        assert program.plan[module, "param"] == -(-numbers * 4 // 16) * 16
    head = (-(-12 * 4 * 4 // 16) + 1) * 16
    assert program.plan["head.modules_to_save.default", "param"] == head
    assert program.plan["", "input"] == 2 * 3 * 12 * 12 * 4
    categories = {what.partition(" ")[0] for _, what in program.plan}
    assert categories <= {"param", "input", "grad", "activation", "temp", UNUSED}
    assert {"param", "input", "grad", "activation", "temp"} <= categories
    assert {module for module, _ in program.plan} & {"depthwise", "linear.lora_B.default"}


@pytest.mark.executorch
def test_every_operator_that_works_for_a_layer_is_named_after_it():
    """The modules of operators that only layers have, forward and backward."""
    found = {(module, what) for module, what in tiny_training().plan if "aten.convolution" in what}
    assert found
    assert all(module.partition(".")[0] in {"conv", "depthwise"} for module, _ in found)


@pytest.mark.executorch
def test_naming_modules_leaves_the_program_as_it_is():
    from executorch.exir import EdgeCompileConfig, to_edge

    class Step(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = lora_model()

        def forward(self, images, labels):
            return loss(self.model, (images, labels))

    with package.quiet():
        joint = _export_forward_backward(torch.export.export(Step(), batch()))
        unchecked = EdgeCompileConfig(_check_ir_validity=False)
        plain = to_edge(joint, compile_config=unchecked).to_executorch()
    assert bytes(plain.buffer) == tiny_training().content


@pytest.mark.executorch
def test_without_names_every_byte_is_counted(monkeypatch):
    monkeypatch.setattr(owners, "_name_in_first_trace", lambda _: "")
    program = training_program(lora_model(), batch(), loss=loss)
    assert program.content == tiny_training().content
    assert sum(program.plan.values()) == program.planned_bytes
    operators = {module for module, what in program.plan if " " in what}
    assert operators == {""}


@pytest.mark.executorch
def test_a_step_that_moves_statistics_is_unsupported_and_the_buffer_is_named():
    with pytest.raises(UnsupportedProgramError, match=r"norm\.running_mean"):
        training_program(tiny_network().train(), batch(), loss=loss)


@pytest.mark.executorch
def test_a_loss_that_depends_on_values_is_unsupported():
    def picky(model, images):
        found = loss(model, images)
        return found if found.item() > 0 else -found

    with pytest.raises(UnsupportedProgramError, match=r"GuardOnDataDependentSymNode|UserError"):
        training_program(tiny_network(), batch(), loss=picky)


@pytest.mark.executorch
def test_an_operator_without_a_portable_kernel_is_named():
    class Bessel(nn.Module):
        def forward(self, rows):
            return torch.special.bessel_j0(rows) + 1

    program = inference_program(Bessel(), torch.zeros(4), call=call)
    assert program.without_kernel == ("aten::special_bessel_j0.out",)


def test_without_executorch_the_error_is_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"pip install 'peft-regress\[executorch\]'"):
        training_program(tiny_network(), batch(), loss=loss)


@pytest.mark.parametrize(
    ("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)]
)
def test_without_executorch_its_tests_are_skipped_but_fail_in_ci(monkeypatch, ci, outcome):
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(edge_programs, "problem", lambda: "executorch is not installed")
    with pytest.raises(outcome, match="executorch is not installed"):
        edge_programs.require()


@pytest.mark.executorch
def test_a_runtime_of_another_torch_is_one_line(monkeypatch):
    def broken(_):
        raise ImportError("/home/me/lib/_portable_lib.so: undefined symbol: _ZN3c10\n4impl")

    monkeypatch.setattr(package.importlib, "import_module", broken)
    with pytest.raises(InputError, match=r"executorch \S+ does not import beside torch 2") as info:
        package.require_executorch(runs=True)
    assert "\n" not in str(info.value)
    assert ": ImportError: _portable_lib.so: undefined symbol: _ZN3c10" in str(info.value)
    assert "--with torch==VERSION --yes" in str(info.value)


def write_release(folder, *modules, version="1.0"):
    """Write a package named executorch into a folder; without a version it is no installed one."""
    for name in modules:
        file = folder / "executorch" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("", encoding="utf-8")
    if version is not None:
        described = folder / f"executorch-{version}.dist-info" / "METADATA"
        described.parent.mkdir()
        text = f"Metadata-Version: 2.1\nName: executorch\nVersion: {version}\n"
        described.write_text(text, encoding="utf-8")


@pytest.fixture
def unimported(monkeypatch):
    """Let a test import a package of its own in place of ExecuTorch."""
    found = [name for name in sys.modules if name.partition(".")[0] == "executorch"]
    for name in found:
        monkeypatch.delitem(sys.modules, name)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "executorch"]:
        del sys.modules[name]


@pytest.mark.usefixtures("unimported")
def test_what_a_release_lacks_does_not_come_from_another_one(tmp_path, monkeypatch):
    write_release(tmp_path / "below", "kept", "lacking", version="2.0")
    write_release(tmp_path / "over", "kept", version="1.0")
    write_release(tmp_path / "checkout", "kept", "lacking", version=None)
    for name in ("below", "over", "checkout"):
        monkeypatch.syspath_prepend(tmp_path / name)
    assert package.package_folders() == [str(tmp_path / "over" / "executorch")]
    assert package.load("executorch.kept").__file__.startswith(str(tmp_path / "over"))
    with pytest.raises(ImportError):
        package.load("executorch.lacking")


@pytest.mark.usefixtures("unimported")
def test_a_folder_of_its_name_is_not_executorch(tmp_path, monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    write_release(tmp_path, "exir", version=None)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(importlib.metadata, "version", absent)
    with pytest.raises(InputError, match="executorch is not installed: python -m pip install"):
        package.require_executorch(runs=True)
