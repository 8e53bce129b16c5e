"""A case whose first seed repeats a known training bit for bit trains the others no further."""

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch
from builders import make_run, write_run
from own_training import convolutional, fine_tune, image_data
from own_training import measured as measured_own

from peft_regress.cases import Case
from peft_regress.gate import judge
from peft_regress.gate.repeats import KnownCurve, curves_of
from peft_regress.gate.verdicts import observations_of
from peft_regress.measure import training
from peft_regress.measure.case import measure
from peft_regress.measure.costs import ProfileCache
from peft_regress.measure.definition import define
from peft_regress.measure.recipe import Recipe
from peft_regress.measure.rounds import plain_rounds
from peft_regress.project.fine_tune import OwnMetric
from peft_regress.runs.environment import describe_machine
from peft_regress.runs.run_file import read_run_file

STEPS, SEEDS = 8, 3
IN_FULL = [STEPS] * SEEDS + [4] * SEEDS
"""The steps of all seeds, then their first steps from nearby weights."""


def accuracy(model, batches):
    with torch.inference_mode():
        return float(sum((model(x).argmax(1) == y).sum().item() for x, y in batches))


HITS = OwnMetric(measure=accuracy, unit="count", direction="higher", kind="info")


def halved_late(optimizer):
    """Return a schedule that differs from a constant one in the last step alone."""
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 1.0 if step < STEPS - 1 else 0.5
    )


def case(**settings):
    usual = {"steps": STEPS, "seeds": SEEDS, "metrics": {"hits": HITS}}
    return fine_tune("full", **{**usual, **settings})


def measured(of, **how):
    return measured_own(of, timed=False, **how)


def known_of(record, **other):
    """Return what a run on this machine knows of a case."""
    observed = observations_of(make_run(record, machine=describe_machine()), "0007_before")
    (known,) = curves_of(observed[record.case.id])
    return [msgspec.structs.replace(known, **other)]


@pytest.fixture(scope="module")
def trained():
    return measured(case())


@pytest.fixture
def lengths(monkeypatch):
    """Return how many steps each training took, in order."""
    found = []
    train = training.finetune

    def counted(*parts, **how):
        run = train(*parts, **how)
        found.append(len(run.losses))
        return run

    monkeypatch.setattr(training, "finetune", counted)
    return found


def test_a_training_in_full_has_the_curve_of_its_first_seed(trained):
    assert len(trained.curve.losses) == STEPS
    assert trained.curve.losses[:4] == trained.metrics["first_losses"].samples[0]
    scores = {name: trained.metrics[name].samples[0] for name in ("loss", "accuracy", "hits")}
    assert trained.curve.scores == scores
    assert not trained.is_repeat


@pytest.mark.parametrize("is_any", [False, True])
def test_a_repeat_has_all_but_the_scores_of_all_seeds(trained, lengths, is_any):
    """`is_any`: whatever the first seed computes, it alone is asked for."""
    any_curve = [KnownCurve(curve=None, run_name="0007_before")]
    record = measured(case(), known=any_curve if is_any else known_of(trained))
    assert (record.is_repeat, record.repeated_run) == (True, "0007_before")
    assert lengths == [STEPS, 4, 4]
    assert trained.metrics.keys() - record.metrics.keys() == {"loss", "accuracy", "hits"}
    assert record.metrics == {name: trained.metrics[name] for name in record.metrics}
    assert len(record.metrics["first_losses"].samples) == SEEDS
    for part in ("curve", "invariants", "inputs", "ledger", "trained"):
        assert getattr(record, part) == getattr(trained, part), part


def other_data():
    (inputs, labels), test = image_data()
    inputs[:, 0, 0, 0] += 1e-3
    return (inputs, labels), test


def other_test_data():
    train, (inputs, labels) = image_data()
    return train, (inputs, labels.flip(0))


def other_weights():
    model = convolutional()
    with torch.no_grad():
        model[8].bias[0] += 1e-6
    return model


@pytest.mark.parametrize(
    "settings",
    [
        {"data": other_data},
        {"data": other_test_data},
        {"model": other_weights},
        {"optimizer": lambda model: torch.optim.AdamW(model.parameters(), lr=1.1e-3)},
        {"schedule": halved_late},
        {"metrics": {"hits": replace(HITS, measure=lambda *parts: accuracy(*parts) + 1)}},
        {"metrics": {"hits": HITS, "more": HITS}},
    ],
    ids=["a pixel", "test labels", "a weight", "optimizer", "a late step", "a metric", "more"],
)
def test_whatever_differs_all_seeds_train(trained, lengths, settings):
    other = case(**settings)
    definition = define(Recipe.of(other, Path("absent")))
    record = measured(other, known=known_of(trained, definition=definition))
    assert (record.definition, record.is_repeat, lengths) == (definition, False, IN_FULL)
    assert len(record.metrics["loss"].samples) == SEEDS


@pytest.mark.parametrize("other", [{"definition": "d"}, {"machine": "sha256:there"}])
def test_a_curve_of_another_definition_or_machine_is_repeated_by_nothing(trained, lengths, other):
    assert measured(case(), known=known_of(trained, **other)) == trained
    assert lengths == IN_FULL


def test_a_repeat_goes_through_a_run_file_and_is_judged_by_what_it_repeats(trained, tmp_path):
    def read(name, record):
        run = make_run(record, machine=describe_machine())
        return observations_of(read_run_file(write_run(tmp_path / name, run)).run, name)

    record = measured(case(), known=known_of(trained))
    comparison = judge(read("full", trained), read("again", record))
    (judged,) = comparison.cases
    assert (comparison.exit_code, judged.reasons) == (0, ())
    kinds = [one.kind for one in judged.remarks if one.subject == "training"]
    assert kinds == ["same curve", "sensitivity"]


@pytest.mark.parametrize(
    "method",
    ["lora", *(pytest.param(name, marks=pytest.mark.nightly) for name in ("galore", "adalora"))],
)
def test_a_built_in_case_repeats_itself(tiny_root, lengths, method):
    of = Case(task="shift", method=method, architecture="tiny", rank=4)

    def record(known=()):
        recipe = Recipe.of(of, tiny_root)
        return measure(recipe, profiles=ProfileCache(), timed=False, known=known).record

    reference = record()
    lengths.clear()
    found = record(known_of(reference))
    assert found.is_repeat
    assert lengths[1:] == [4] * (len(lengths) - 1)
    assert found.invariants == reference.invariants
    assert found.metrics == {name: reference.metrics[name] for name in found.metrics}


def profiled_rounds(target, *, setup, teardown, rounds):
    """Run the rounds, then one more whose target runs twice, as with two loops of the profiler."""
    plain_rounds(target, setup=setup, teardown=teardown, rounds=rounds)
    args, kwargs = setup()
    for _ in range(2):
        target(*args, **kwargs)
        teardown(*args, **kwargs)


def test_what_benchmark_cprofile_trains_more_changes_no_record(trained):
    assert measured(case(), run_rounds=profiled_rounds) == trained
