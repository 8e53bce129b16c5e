"""Faults that try to look like the training they differ from: none is taken for it."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import fault_pairs_of_later
import fault_pairs_of_steps
import pytest
from fault_pairs import case
from msgspec import UNSET
from own_training import measured

from peft_regress.measure.computation.contents import bytes_digest
from peft_regress.measure.first_steps import scores_of
from peft_regress.measure.known import Known
from peft_regress.measure.recipe import Recipe
from peft_regress.measure.training import single_thread

FAULTS = {**fault_pairs_of_steps.FAULTS, **fault_pairs_of_later.FAULTS}


@pytest.fixture(autouse=True)
def undone():
    yield
    fault_pairs_of_steps.undo()


@single_thread()
def outcome(of: Any) -> Any:
    """Train in full; return losses, weights and scores of each seed."""
    recipe, found = Recipe.of(of, Path("absent")), []
    data = recipe.load_data()
    test = list(data.test_batches(recipe.test_batch))
    for seed in recipe.seeds:
        model = recipe.adapted_model(seed)
        optimizer = recipe.make_optimizer(model)
        run = recipe.train(model, optimizer, recipe.batches(data, seed=seed), seed=seed, first=4)
        weights = [bytes_digest(parameter) for parameter in model.parameters()]
        found.append((run.losses, weights, scores_of(recipe, model, test)))
    return found


def quick(of: Any, reference: Any) -> Any:
    known = Known(computation=reference.computation, run_name="clean")
    return measured(of, timed=False, known=known)


@pytest.mark.filterwarnings("ignore:Warning only once for all operators:UserWarning")
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_not_certified(name):
    with pytest.MonkeyPatch.context() as patch:
        clean = case(**FAULTS[name](False, patch))
        before, reference = outcome(clean), measured(clean, timed=False)
    assert reference.status == "ok", reference.error
    with pytest.MonkeyPatch.context() as patch:
        faulty = case(**FAULTS[name](True, patch))
        assert name in fault_pairs_of_steps.BY_MACHINE or outcome(faulty) != before
        if reference.computation is UNSET:
            return
        record = quick(faulty, reference)
    assert record.status == "ok", record.error
    assert not record.is_certified
