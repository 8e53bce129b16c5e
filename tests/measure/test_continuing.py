"""A training that goes on: from what was saved, and at what cost."""

from pathlib import Path

import peft
import pytest
import torch
from fault_catalogue import FAULTS as CATALOGUE
from fault_catalogue.injection import injected
from own_training import false_facts, fine_tune, image_data, measured
from peft.tuners.lora.layer import Linear
from torch.nn import functional
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR
from torch.utils.data import TensorDataset, default_collate

from peft_regress.measure.invariants.continuing import Continuing, _Cost
from peft_regress.measure.recipe import Recipe

RESUMED, LATE = "resumed_equals_uninterrupted", "late_step_costs_same"
LORA = peft.LoraConfig(r=2, target_modules=["6"], lora_dropout=0.1)


def case(adapter="full", **settings):
    """Return a case whose rate has fallen to zero at its end."""
    schedule = settings.pop("schedule", lambda optimizer: CosineAnnealingLR(optimizer, 4))
    also_train = () if adapter == "full" else ["8"]
    return fine_tune(adapter, also_train=also_train, schedule=schedule, **settings)


@pytest.fixture(scope="module")
def right():
    return measured(case(LORA))


def test_without_a_fault_both_hold(right):
    assert (right.invariants[RESUMED], right.invariants[LATE]) == (True, True)


@pytest.mark.parametrize("fault", ["resumed-without-moments", "schedule-starts-again"])
def test_what_is_lost_in_loading_is_seen(fault):
    falling = case(schedule=lambda optimizer: LambdaLR(optimizer, lambda step: 0.1**step))
    with injected(CATALOGUE[fault]):
        assert "when resumed" in false_facts(measured(falling))[RESUMED]


def test_an_optimizer_with_hooks_is_not_resumed():
    def hooked(model):
        optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
        optimizer.register_step_post_hook(lambda *_: None)
        return optimizer

    record = measured(case(optimizer=hooked))
    assert record.invariants[RESUMED] is None
    assert "hooks" in record.invariant_notes[RESUMED]


def test_a_layer_that_computes_twice_from_a_later_step_on(monkeypatch, right):
    """The losses are those of before."""
    forward = Linear.forward

    def twice_later(self, x):
        self.steps = getattr(self, "steps", 0) + torch.is_grad_enabled()
        if self.steps >= 3:
            with torch.random.fork_rng():  # dropout draws as before
                forward(self, x)
        return forward(self, x)

    monkeypatch.setattr(Linear, "forward", twice_later)
    record = measured(case(LORA))
    assert record.curve == right.curve
    assert "first in PeftModel.base_model.model.6" in false_facts(record)[LATE]


def test_an_error_after_the_training_is_no_error_of_the_case():
    class Ends(torch.optim.SGD):
        taken = 0

        def step(self, closure=None):
            self.taken += 1
            if self.taken > 4:
                raise OSError("worn out")
            return super().step(closure)

    record = measured(case(optimizer=lambda model: Ends(model.parameters(), lr=0.1)))
    assert record.status == "ok"
    assert "worn out" in false_facts(record)[RESUMED]


def test_a_number_in_a_batch_is_no_batch_of_rows():
    def scaled(items):
        images, labels = default_collate(items)
        return {"scale": torch.tensor(2.0), "images": images, "labels": labels}

    def loss(model, batch):
        return functional.cross_entropy(batch["scale"] * model(batch["images"]), batch["labels"])

    def data():
        return [TensorDataset(*side) for side in image_data()]

    record = measured(case(LORA, data=data, collate=scaled, loss=loss, score=lambda *_: 0.0))
    assert record.error is None
    assert record.invariants["paths_agree"]


def test_work_that_only_late_steps_do_is_named():
    """The second step has none of it in any module."""
    continuing = Continuing.__new__(Continuing)
    continuing._recipe = Recipe.of(case(), Path("absent"))
    continuing._second = _Cost(3, {})
    fact = continuing._costs_same([_Cost(3, {"Global": 8, "net": 8})])
    assert "takes 8 FLOPs, the second 0; first in" in fact.note
