"""Faults that try to look like the training they differ from: none is taken for it."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import fault_pairs_of_counters
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

FAULTS = {
    **fault_pairs_of_steps.FAULTS,
    **fault_pairs_of_counters.FAULTS,
    **fault_pairs_of_later.FAULTS,
}

NEVER_CERTIFIED = {
    *(name for name in FAULTS if name.startswith("counter")),
    "draws by numpy", "a rare skip drawn by random", "a rare skip drawn by numpy",
    "a hook of the optimizer", "a subclass of the optimizer", "replaced data of a parameter",
    "a python operator with another body", "weights moved in a thread",
    "weights moved where no mode sees it", "weights moved through a view of numpy",
    "weights moved through an older view of numpy", "a patched step of adamw",
    "a gradient that depends on the loss", "count of the schedule", "rate of the optimizer",
    "version of a parameter", "a hook from a late step on",
    "a patched function of torch that counts", "a patched step of adamw that counts",
    "a later evaluation", "a score by numpy", "a limit in a method that the score calls",
    "a path for the shape of a later batch", "a schedule that reads weights",
    "a schedule that reads weights by a global", "a cyclic schedule that reads weights",
    "a part of a schedule that reads weights", "a patched rate of a schedule that reads weights",
    "a schedule of ones own",
}  # fmt: skip
"""Pairs of which not even the sound one is certified: what it does depends on what is hidden."""

OUT_OF_REACH = {
    "a counter in a file": None,
    "a counter at an address": None,
    "the seed asked of the generator": None,
    "weights moved at their address": "first_losses",
}
"""Faults that are certified, with the signal of a certified case that sees them; None: no one."""


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
    assert (reference.computation is UNSET) == (name in NEVER_CERTIFIED)
    with pytest.MonkeyPatch.context() as patch:
        faulty = case(**FAULTS[name](True, patch))
        assert name in fault_pairs_of_steps.BY_MACHINE or outcome(faulty) != before
        if reference.computation is not UNSET:
            record = quick(faulty, reference)
            assert record.status == "ok", record.error
            assert not record.is_certified


@pytest.mark.parametrize(("name", "signal"), OUT_OF_REACH.items())
def test_what_is_out_of_reach_has_the_signal_that_is_said(name, signal, tmp_path):
    make = fault_pairs_of_later.HIDDEN[name]
    clean, faulty = (case(**make(is_faulty, tmp_path)) for is_faulty in (False, True))
    reference = measured(clean, timed=False)
    record = quick(faulty, reference)
    assert record.is_certified
    assert outcome(faulty) != outcome(clean)
    if signal is not None:
        losses = [one.metrics["first_losses"].samples[0][:3] for one in (record, reference)]
        assert losses[0] != pytest.approx(losses[1], rel=1e-3)


def test_nothing_differs_where_nothing_changed():
    reference = measured(case(), timed=False)
    for _ in range(2):
        gc.collect()
        assert quick(case(), reference).is_certified
        measured(case(model=fault_pairs_of_steps.net(abs)), timed=False)


_PRINT = """
from fault_pairs import case
from own_training import measured
found = measured(case(), timed=False).computation
print(found.graph, found.state)
"""


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["1", "77"])
def test_another_process_with_other_hashes_gives_the_same(seed):
    here = Path(__file__).parent
    path = os.pathsep.join(map(str, (here, here.parent)))
    done = subprocess.run(
        [sys.executable, "-c", _PRINT],
        env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    found = measured(case(), timed=False).computation
    assert done.stdout.split() == [found.graph, found.state]
