"""The ledger of real steps: it adds up, and finds what is known to have changed in its place."""

import functools

import pytest
import torch
from builders import LORA, make_record, observe
from torch import nn

from peft_regress import registry
from peft_regress.cases import Adaptation
from peft_regress.cost import profile_step
from peft_regress.gate.attribution import changed_costs, explain_metric
from peft_regress.measure.costs import CostSettings, adaptation_cost, metrics_of, step_ledger
from peft_regress.metrics import BATCH_SUFFIX
from peft_regress.report import as_text, explanation
from peft_regress.runs.ledger import LEDGER_METRICS, operator_rows_of, rows_of

EXPLAINED = sorted(LEDGER_METRICS)


def profile(method, architecture, rank=None, **settings):
    """Return a record with the costs of a real step, at 64x64 and both batch sizes."""
    adaptation = Adaptation(method=method, architecture=architecture, rank=rank)
    one, many = (
        adaptation_cost(adaptation, CostSettings(batch=batch, resolution=64, **settings))
        for batch in (1, 32)
    )
    reports = {"": one, BATCH_SUFFIX: many}
    return make_record(LORA, metrics_of(reports), ledger=step_ledger(reports))


cached = functools.cache(profile)


def assert_adds_up(old, new):
    """Check every metric of FLOPs and bytes, at both batch sizes, row by row."""
    for metric in EXPLAINED:
        change = explain_metric(metric, old, new)
        assert change.breakdowns, metric
        assert not change.not_held_by
        for split in change.breakdowns:
            assert split.unattributed == (0, 0), metric
            assert sum(row.change for row in split.rows) == change.change, metric
            assert sum(layer.change for layer in split.layers) == change.change, metric


def moved(change):
    """Return the change of each module."""
    return {row.module: row.change for row in change.breakdowns[0].rows}


def change_between(metric, old, new):
    assert_adds_up(old, new)
    return explain_metric(metric, old, new)


@pytest.mark.parametrize(
    ("method", "rank"), [("full", None), ("head", None), ("lora", 4), ("dora", 4), ("galore", 4)]
)
def test_the_ledger_of_a_real_step_adds_up_to_its_metrics(method, rank):
    record = cached(method, "resnet18", rank)
    for metric in EXPLAINED:
        found = record.metrics.get(metric)
        expected = 0 if found is None else found.value
        assert sum((rows_of(record.ledger, metric) or {}).values()) == expected, metric
        operators = operator_rows_of(record.ledger, metric)
        assert operators is None or sum(operators.values()) == expected
    assert set(record.ledger.peak_phase) == {"peak_bytes", "peak_bytes_b32"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (("lora", 4), ("dora", 4)),
        (("dora", 4), ("lora", 4)),
        (("head", None), ("full", None)),
        (("full", None), ("galore", 4)),
    ],
)
def test_every_metric_adds_up_between_two_methods(old, new):
    assert_adds_up(*(cached(method, "resnet18", rank) for method, rank in (old, new)))


def test_dora_costs_its_magnitudes_more_than_lora():
    lora, dora = cached("lora", "resnet18", 4), cached("dora", "resnet18", 4)
    change = change_between("peak_param_bytes", lora, dora)
    # A number an output channel of each convolution, under a module that LoRA has not.
    rows = change.breakdowns[0].rows
    assert {row.module.rpartition(".lora_")[2] for row in rows} == {"magnitude_vector.default"}
    assert {row.only_in for row in rows} == {"new"}
    assert moved(change)["layer4.1.conv2.lora_magnitude_vector.default"] == 512 * 4
    assert change.change == explain_metric("adapter_bytes", lora, dora).change


def test_a_base_convolution_that_runs_twice_is_told_as_such(monkeypatch):
    from peft.tuners.lora.dora import _DoraConvNdLayer

    forward = _DoraConvNdLayer.forward

    def run(layer, x, *, base_result=None, **more):
        """Let DoRA compute its base convolution itself, as peft did up to 0.14."""
        return forward(layer, x, base_result=None, **more)

    old = cached("dora", "resnet18", 4)
    monkeypatch.setattr(_DoraConvNdLayer, "forward", run)
    new = profile("dora", "resnet18", 4)
    assert_adds_up(old, new)
    found = {change.metric: change for change in changed_costs(old, new)}
    for metric, operator, count in (
        ("forward_flops", "aten.convolution", 20),
        ("forward_flops_b32", "aten.convolution", 20),
        # The first convolution needs no gradient of the image.
        ("backward_flops", "aten.convolution_backward", 19),
        ("backward_flops_b32", "aten.convolution_backward", 19),
    ):
        layers = found[metric].breakdowns[0].layers
        assert {(layer.what, layer.base_runs) for layer in layers} == {(operator, 1)}
        assert len(layers) == count
    text = as_text(explanation(observe(old), observe(new), tuple(found.values()), top=30))
    said = " ".join(text.split())
    assert "costs 1 extra run of layer1.0.conv1.base_layer's aten.convolution" in said
    back = {change.metric: change for change in changed_costs(new, old)}
    assert {layer.base_runs for layer in back["forward_flops"].breakdowns[0].layers} == {-1}


class Gate(nn.Module):
    """A sigmoid on a copy of its input, in float64 or not; the copy is all that it holds."""

    def __init__(self, *, in_double):
        super().__init__()
        self.in_double = in_double

    def forward(self, x):
        return x.to(torch.float64 if self.in_double else x.dtype, copy=True).sigmoid_()


class Pool(nn.Module):
    def forward(self, x):
        return x.mean(dim=(2, 3)).float()


class Gated:
    """An architecture of three layers, whose gate may compute in float64."""

    head = "fc"
    matrices: tuple[str, ...] = ()

    def __init__(self, name, *, in_double):
        self.name = name
        self.in_double = in_double

    def build(self, *, num_classes, seed):
        network = nn.Sequential()
        network.add_module("conv", nn.Conv2d(3, 8, 3, padding=1))
        network.add_module("gate", Gate(in_double=self.in_double))
        network.add_module("pool", Pool())
        network.add_module("fc", nn.Linear(8, num_classes))
        return network


def test_an_upcast_that_doubles_the_activations_of_a_layer_is_found_in_that_layer(clean_registry):
    for name, in_double in (("gated", False), ("upcast", True)):
        registry.add("architecture", Gated(name, in_double=in_double))
    old, new = (profile("full", name) for name in ("gated", "upcast"))
    change = change_between("peak_activation_bytes", old, new)
    once = 8 * 64 * 64 * 4
    (row,) = change.breakdowns[0].rows
    assert (row.module, row.what) == ("gate", "activation aten._to_copy")
    assert (row.old, row.new) == (once, 2 * once)
    assert moved(explain_metric("peak_activation_bytes_b32", old, new)) == {"gate": 32 * once}


@pytest.mark.parametrize(
    ("inputs", "batch", "phase"),
    # The update holds, for each weight, four numbers and what it computes on the way; the backward
    # pass the weight, two of state and the gradient before it is accumulated.
    [(512, 1, "optimizer"), (4, 4096, "backward")],
)
def test_the_phase_of_the_peak_is_where_most_is_alive(inputs, batch, phase):
    network = nn.Sequential(nn.Linear(inputs, 64), nn.Sigmoid(), nn.Linear(64, 2))
    cost = profile_step(
        network, lambda model: torch.optim.AdamW(model.parameters(), foreach=False),
        input_shape=(batch, inputs), num_classes=2,
    )  # fmt: skip
    assert cost.peak_phase == phase
