"""Programs for ExecuTorch: their plan adds up, names modules, and what is not expressed is said."""

import pytest
import torch
from edge_programs import batch, lora_model, loss, tiny_training
from torch import nn
from torch.export.experimental import _export_forward_backward
from torch.nn import functional

from peft_regress import lean
from peft_regress.errors import InputError
from peft_regress.measure.edge import package
from peft_regress.measure.edge.program import UNUSED, inference_program, training_program


class Halved(nn.Module):
    """Two layers whose plan can be added up by hand."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 16, bias=False)

    def forward(self, rows):
        return functional.relu(self.first(rows))


@pytest.mark.executorch
def test_a_plan_is_what_one_counts_by_hand():
    found = inference_program(Halved(), torch.zeros(4, 8))
    # rows 4x8, the weight turned around 8x16, and their product 4x16, of 4 bytes each.
    assert found.plan == {
        ("", "input"): 4 * 8 * 4,
        ("first", "activation aten.permute_copy"): 8 * 16 * 4,
        ("first", "activation aten.mm"): 4 * 16 * 4,
    }
    assert found.planned_bytes == sum(found.plan.values())
    assert found.calls == {"aten::mm.out": 1, "aten::permute_copy.out": 1, "aten::relu.out": 1}
    assert len(found.content) > 8 * 16 * 4


@pytest.mark.executorch
def test_the_plan_of_training_adds_up_and_names_the_modules():
    found = tiny_training()
    assert sum(found.plan.values()) == found.planned_bytes
    trained = {
        "conv.lora_A.default": 2 * 3 * 3 * 3,
        "conv.lora_B.default": 8 * 2,
        "linear.lora_A.default": 2 * 8,
        "linear.lora_B.default": 12 * 2,
    }
    for module, numbers in trained.items():
        # Sizes are rounded up to 16 bytes.
        assert found.plan[module, "param"] == -(-numbers * 4 // 16) * 16
    head = (-(-12 * 4 * 4 // 16) + 1) * 16
    assert found.plan["head.modules_to_save.default", "param"] == head
    assert found.plan["", "input"] == 2 * 3 * 12 * 12 * 4
    categories = {what.partition(" ")[0] for _, what in found.plan}
    assert categories <= {"param", "input", "grad", "activation", "temp", UNUSED}
    assert {"param", "input", "grad", "activation", "temp"} <= categories
    assert {module for module, _ in found.plan} & {"depthwise", "linear.lora_B.default"}


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
def test_a_lean_model_plans_the_same():
    model = lora_model()
    assert lean(model).packed
    found = training_program(model, batch(), loss=loss)
    assert (found.plan, found.calls) == (tiny_training().plan, tiny_training().calls)


@pytest.mark.executorch
def test_a_runtime_of_another_torch_is_one_line(monkeypatch):
    def broken(_):
        raise ImportError("/home/me/lib/_portable_lib.so: undefined symbol: _ZN3c10\n4impl")

    monkeypatch.setattr(package.importlib, "import_module", broken)
    with pytest.raises(InputError, match=r"executorch \S+ does not import beside torch 2") as info:
        package.require_executorch(runs=True)
    assert "\n" not in str(info.value)
    assert "_portable_lib.so: undefined symbol: _ZN3c10" in str(info.value)
    assert "--with torch==VERSION --yes" in str(info.value)
