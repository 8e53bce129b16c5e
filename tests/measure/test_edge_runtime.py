"""Programs in ExecuTorch's runtime: they compute what PyTorch computes, or it is said."""

import dataclasses
from contextlib import closing
from importlib.metadata import version

import pytest
import torch
from edge_programs import batch, lora_model, loss, problem, subject, tiny_training
from packaging.version import Version
from torch import nn

from peft_regress.cost.batches import leaves_of
from peft_regress.measure.edge import costs
from peft_regress.measure.edge.costs import same_gradients, same_losses, train_here
from peft_regress.measure.edge.package import ProgramError, UnsupportedProgramError
from peft_regress.measure.edge.program import training_program
from peft_regress.measure.edge.runtime import Runtime
from peft_regress.measure.invariants.facts import Fact

pytestmark = pytest.mark.executorch


@pytest.fixture(scope="module")
def started():
    with closing(Runtime()) as one:
        yield one


def both(started, of, program, **how):
    """Train here and in the runtime."""
    here = train_here(of.model, of.batches, loss=loss)
    steps = [leaves_of(each) for each in of.batches]
    return here, started.run(program, steps, **{"learning_rate": here.learning_rate, **how})


@pytest.fixture(scope="module")
def trained(started):
    return both(started, subject(lora_model()), tiny_training())


def test_training_in_the_runtime_gives_the_losses_and_gradients_of_pytorch(trained):
    here, trained = trained
    assert len(set(here.losses)) == 3
    assert same_losses(here, trained) == Fact(holds=True)
    assert same_gradients(here, trained) == Fact(holds=True)
    off = costs.gradient_differences(here.gradients, trained.tensors)
    assert set(off) == {name for name, p in lora_model().named_parameters() if p.requires_grad}
    assert max(off.values()) < 1e-5


def test_an_update_that_is_not_made_shows_in_the_second_loss(started):
    here, still = both(started, subject(lora_model()), tiny_training(), learning_rate=0.0)
    assert still.losses[0] == pytest.approx(here.losses[0], rel=1e-6)
    fact = same_losses(here, still)
    assert fact.holds is False
    assert fact.note.startswith("step 2: ")


def test_a_wrong_gradient_is_named(trained):
    here, trained = trained
    name = "model.base_model.model.conv.lora_B.default.weight"
    wrong = {**trained.tensors, name: trained.tensors[name] * 1.1}
    fact = same_gradients(here, dataclasses.replace(trained, tensors=wrong))
    assert fact.holds is False
    assert fact.note == (
        "1 of 6 gradients differ by up to 0.1 of their norm: "
        "base_model.model.conv.lora_B.default.weight"
    )
    nothing = {key: value * torch.nan for key, value in wrong.items()}
    assert same_gradients(here, dataclasses.replace(trained, tensors=nothing)).holds is False
    losses = dataclasses.replace(trained, losses=(float("nan"),) * 3)
    assert same_losses(here, losses).holds is False
    outputs = dataclasses.replace(trained, tensors={"0": torch.ones(2)})
    assert costs.same_outputs((torch.ones(2),), outputs).holds
    assert costs.same_outputs((torch.ones(2) + 0.01,), outputs).holds is False
    missing = {key: value for key, value in wrong.items() if key != name}
    assert "inf" in same_gradients(here, dataclasses.replace(trained, tensors=missing)).note


def test_all_programs_of_a_model_run(started):
    model = lora_model()
    with torch.no_grad():
        model.get_parameter("base_model.model.conv.lora_B.default.weight").fill_(0.1)
    merged = lora_model()
    merged.load_state_dict(model.state_dict())
    of = subject(model, merged=merged.merge_and_unload())
    programs = costs.exported(of)
    found, _ = costs.run_programs(of, programs, started)
    assert {name: fact.holds for name, fact in found.items()} == {
        "edge_programs_run": True,
        "edge_kernels_exist": True,
        "edge_losses_equal_eager": True,
        "edge_gradients_equal_eager": True,
        "edge_outputs_equal_eager": True,
        "edge_merged_outputs_equal_eager": True,
    }
    cost = costs.planned(programs, optimizer_state_bytes=100)
    metrics = cost.metrics
    planned = metrics["edge_train_planned_bytes"].value
    assert metrics["edge_train_bytes"].value == planned + 100
    assert metrics["edge_inference_planned_bytes"].value < planned
    attached = metrics["edge_inference_program_bytes"].value
    assert metrics["edge_merged_inference_program_bytes"].value < attached
    assert cost.plans.keys() == {name for name in metrics if name.endswith("planned_bytes")}


class Pooled(nn.Module):
    """A convolution below a max pool whose windows overlap."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.pool = nn.MaxPool2d(3, stride=2)
        self.head = nn.Linear(4, 4)

    def forward(self, images):
        return self.head(self.pool(self.conv(images)).mean(dim=(2, 3)))


@pytest.mark.skipif(
    not problem() and Version(version("executorch")) > Version("1.5.1"),
    reason="of the releases whose max pool is wrong",
)
def test_the_wrong_gradients_below_a_max_pool_are_seen(started):
    """pytorch/executorch#21686: the first loss is right, and the head's gradients."""
    torch.manual_seed(0)
    model = Pooled().eval()
    of = subject(model, steps=2)
    program = training_program(model, of.batches[0], loss=loss)
    here, there = both(started, of, program)
    assert there.losses[0] == pytest.approx(here.losses[0], rel=1e-6)
    fact = same_gradients(here, there)
    assert fact.holds is False
    assert fact.note.endswith("conv.weight, conv.bias")


class Padded(nn.Module):
    """Pads before a layer that is trained: the gradient is padded by less than nothing."""

    def __init__(self):
        super().__init__()
        self.below = nn.Conv2d(3, 3, 1)
        self.above = nn.Linear(3 * 13 * 13, 4)

    def forward(self, images):
        padded = nn.functional.pad(self.below(images), (0, 1, 0, 1))
        return self.above(padded.flatten(1))


def test_a_kernel_that_refuses_its_arguments_is_unsupported_and_says_which(started):
    """A release whose kernel takes them fails here: then renew docs/devices.md."""
    program = training_program(Padded(), batch(), loss=loss)
    refused = r"refuses the program: aten::constant_pad_nd\.out: Check failed \(pad.* non-negative"
    with pytest.raises(UnsupportedProgramError, match=refused) as info:
        started.run(program, [leaves_of(batch())], learning_rate=0.1)
    assert "\n" not in str(info.value)


def test_a_broken_program_is_one_line_and_the_next_one_runs(started):
    broken = dataclasses.replace(tiny_training(), content=b"no program")
    with pytest.raises(ProgramError, match="the runtime fails: ") as info:
        started.run(broken, [leaves_of(batch())], learning_rate=0.1)
    assert "\n" not in str(info.value)
    assert started.run(tiny_training(), [leaves_of(batch())], learning_rate=0.1).losses


def test_a_runtime_that_is_killed_is_said_and_another_one_runs_the_next_program():
    with closing(Runtime()) as one:
        assert one._worker is None  # no program, no process
        one.run(tiny_training(), [leaves_of(batch())], learning_rate=0.1)
        one._worker.kill()
        with pytest.raises(ProgramError, match="the process of the runtime ended"):
            one.run(tiny_training(), [leaves_of(batch())], learning_rate=0.1)
        assert one.run(tiny_training(), [leaves_of(batch())], learning_rate=0.1).losses
