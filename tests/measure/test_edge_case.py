"""A case whose budget limits what it takes in ExecuTorch is exported, run there, and judged."""

import msgspec
import peft
import pytest
import torch
from builders import observe
from edge_programs import without_executorch
from own_training import convolutional, fine_tune, image_data, measured
from torch import nn
from torch.utils.data import TensorDataset, default_collate

from peft_regress import Budget
from peft_regress.errors import InputError
from peft_regress.gate import judge_case
from peft_regress.invariants import EDGE_INVARIANTS
from peft_regress.measure.edge import costs as edge_costs
from peft_regress.metrics import EDGE_METRICS
from peft_regress.runs.ledger import PLAN_METRICS, rows_of

LORA = peft.LoraConfig(r=2, target_modules=["0", "6"])


def limited(edge_train="1 MB", **settings):
    """Return a fine-tuning with LoRA, without dropout and moving statistics."""
    usual = {"mode": "eval", "budget": Budget(edge_train=edge_train)}
    return fine_tune(settings.pop("adapter", LORA), **{**usual, **settings})


def budgeted(of):
    return msgspec.structs.replace(measured(of), budget=of.budget)


@pytest.fixture(scope="module")
def record():
    return budgeted(limited())


@pytest.mark.executorch
def test_the_record_has_the_metrics_of_the_programs(record):
    values = {name: metric.value for name, metric in record.metrics.items()}
    assert record.status == "ok"
    assert EDGE_METRICS.keys() <= values.keys()
    state = values["optimizer_state_bytes"]
    assert values["edge_train_bytes"] == values["edge_train_planned_bytes"] + state
    assert values["edge_inference_planned_bytes"] < values["edge_train_planned_bytes"]
    assert all(record.invariants[name] for name in EDGE_INVARIANTS)


@pytest.mark.executorch
def test_the_ledger_explains_each_plan(record):
    for name in PLAN_METRICS:
        rows = rows_of(record.whole_ledger, name)
        assert rows is not None
        assert sum(rows.values()) == record.metrics[name].value, name
    modules = {module for module, _ in rows_of(record.whole_ledger, "edge_train_planned_bytes")}
    assert {"0.lora_A.default", "6.lora_B.default"} <= modules


@pytest.mark.executorch
def test_the_gate_judges_the_budget(record):
    within = judge_case(record.case.id, observe(record), observe(record))
    assert within.verdict == "unchanged"
    over = budgeted(limited("100 B"))
    case = judge_case(record.case.id, observe(record), observe(over))
    assert case.verdict == "over_budget"
    (reason,) = case.reasons
    assert (reason.name, reason.new, reason.limit) == (
        "budget edge_train", over.metrics["edge_train_bytes"].value, 100,
    )  # fmt: skip


@pytest.mark.executorch
def test_a_program_that_cannot_be_made_is_a_false_fact_and_no_number(record):
    moving = budgeted(limited(mode=lambda model: model.train()))
    assert moving.status == "ok"
    assert not EDGE_METRICS.keys() & moving.metrics.keys()
    assert moving.invariants["edge_programs_run"] is False
    assert "1.running_mean" in moving.invariant_notes["edge_programs_run"]
    moving = msgspec.structs.replace(moving, definition=record.definition)
    case = judge_case(record.case.id, observe(record), observe(moving))
    assert "invariant edge_programs_run" in {reason.name for reason in case.reasons}
    assert ("not judged", "budget edge_train") in {(r.kind, r.subject) for r in case.remarks}


class Bessel(nn.Module):
    """An operator that the exporter knows, and that has no kernel."""

    def forward(self, rows):
        return rows + 0 * torch.special.bessel_j0(rows.detach())


def with_bessel():
    return nn.Sequential(*convolutional(), Bessel())


def image_datasets():
    return tuple(TensorDataset(*part) for part in image_data())


def cropped(items):
    """Return images whose height depends on the first label."""
    images, labels = default_collate(items)
    return images[:, :, : 6 + int(labels[0])], labels


@pytest.mark.executorch
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model": with_bessel}, "aten::special_bessel_j0.out"),
        ({"data": image_datasets, "collate": cropped}, "a program has the shapes of one batch, "),
    ],
)
def test_what_the_runtime_cannot_run_is_one_line_and_no_number(settings, said):
    refused = measured(limited(**settings))
    assert refused.status == "ok"
    assert refused.invariants["edge_programs_run"] is False
    note = refused.invariant_notes["edge_programs_run"]
    assert said in note
    assert "\n" not in note
    assert not EDGE_METRICS.keys() & refused.metrics.keys()


def without_statistics():
    layers = [layer for layer in convolutional() if not isinstance(layer, nn.BatchNorm2d)]
    return nn.Sequential(*layers)


@pytest.mark.executorch
def test_what_draws_random_numbers_is_not_compared():
    adapter = peft.LoraConfig(r=2, target_modules=["0"])
    drawing = measured(limited(adapter=adapter, model=without_statistics, mode="train"))
    assert drawing.invariants["edge_programs_run"] is True, drawing.invariant_notes
    assert drawing.invariants["edge_losses_equal_eager"] is None
    assert "random" in drawing.invariant_notes["edge_losses_equal_eager"]
    assert drawing.invariants["edge_outputs_equal_eager"] is True


def test_without_executorch_such_a_case_is_wrong_use(monkeypatch):
    without_executorch(monkeypatch)
    with pytest.raises(InputError, match="FineTune 'own/x/net': executorch is not installed") as e:
        measured(limited())
    assert "python -m pip install 'executorch>=1.4'" in str(e.value)


def test_a_case_without_such_a_budget_needs_no_executorch(monkeypatch):
    def asked(**_):
        raise AssertionError("ExecuTorch was asked for")

    monkeypatch.setattr(edge_costs, "require_executorch", asked)
    plain = measured(fine_tune("head", also_train=["8"], budget=Budget(peak="1 GB")))
    assert plain.status == "ok"
    assert not EDGE_METRICS.keys() & plain.metrics.keys()
    assert not set(EDGE_INVARIANTS) & plain.invariants.keys()
