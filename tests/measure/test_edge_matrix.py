"""A case of the edge matrix is exported and run in ExecuTorch, and not trained here."""

from dataclasses import replace
from importlib.metadata import version

import pytest
from msgspec.structs import replace as replaced
from tiny_architecture import TinyArchitecture

from peft_regress import registry
from peft_regress.cases import Case
from peft_regress.catalogue.tasks.edge import EdgeTask
from peft_regress.invariants import EDGE_INVARIANTS
from peft_regress.measure.case import measure
from peft_regress.measure.costs import ProfileCache
from peft_regress.measure.definition import define
from peft_regress.measure.edge import costs as edge_costs
from peft_regress.measure.edge.package import ProgramError
from peft_regress.measure.recipe import Recipe
from peft_regress.metrics import EDGE_METRICS
from peft_regress.runs.ledger import rows_of

LORA = Case(task="small", method="lora", architecture="tiny", rank=2)
OTHER = Case(task="other", method="lora", architecture="tiny", rank=2)
SMALL = EdgeTask(name="small", batch=2, resolution=12, adaptations=(LORA.adaptation,))


@pytest.fixture(scope="module")
def sources(tiny_sources):
    from restored import registry_restored

    with registry_restored():
        registry.add("architecture", TinyArchitecture())
        registry.add("task", SMALL)
        registry.add("task", replace(SMALL, name="other", batch=3))
        yield tiny_sources


def measured(case, root, **options):
    return measure(Recipe.of(case, root), profiles=ProfileCache(), **options).record


@pytest.mark.executorch
def test_its_record_has_the_costs_of_its_step_and_of_its_programs(sources):
    record = measured(LORA, sources)
    assert record.status == "ok", record.error
    values = {name: metric.value for name, metric in record.metrics.items()}
    assert values.keys() >= EDGE_METRICS.keys()
    assert {"peak_bytes", "forward_flops", "adapter_bytes", "inference_flops"} <= values.keys()
    assert not values.keys() & {
        "accuracy",
        "loss",
        "first_losses",
        "step_seconds",
        "peak_bytes_b32",
    }
    state = values["optimizer_state_bytes"]
    assert values["edge_train_bytes"] == values["edge_train_planned_bytes"] + state
    assert record.invariants.keys() == {*EDGE_INVARIANTS}
    assert all(record.invariants.values()), record.invariant_notes
    assert not record.is_own
    for name in ("edge_train_planned_bytes", "peak_bytes"):
        rows = rows_of(record.whole_ledger, name)
        assert rows is not None
        assert sum(rows.values()) == values[name]


@pytest.mark.executorch
def test_what_does_not_export_is_unsupported_with_the_reason(sources):
    moving = measured(Case(task="small", method="bn_head", architecture="tiny"), sources)
    assert moving.status == "unsupported"
    assert moving.error.type == "UnsupportedProgramError"
    assert "norm.running_mean" in moving.error.message
    assert not moving.metrics


@pytest.mark.executorch
def test_a_runtime_that_fails_is_an_error_with_what_it_says(sources, monkeypatch):
    def fails(*_, **__):
        raise ProgramError("the runtime fails: it ended by SIGSEGV")

    monkeypatch.setattr(edge_costs, "require_executorch", lambda **_: None)
    monkeypatch.setattr(edge_costs, "run_programs", fails)
    failed = measured(LORA, sources)
    assert (failed.status, failed.error.type) == ("error", "ProgramError")
    assert "SIGSEGV" in failed.error.message


@pytest.mark.executorch
def test_a_run_names_the_executorch_that_it_used(sources):
    found = Recipe.of(LORA, sources).packages()
    assert found["executorch"] == version("executorch")
    assert Recipe.of(replaced(LORA, task="shift"), sources).packages() == {}


def test_it_is_defined_by_the_shape_and_not_by_a_training(sources):
    recipe = Recipe.of(LORA, sources)
    longer = replace(recipe, fine_tune=replace(recipe.fine_tune, seeds=3))
    assert define(longer) == define(recipe)
    assert define(Recipe.of(OTHER, sources)) != define(recipe)
