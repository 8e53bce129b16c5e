"""Memory that one profiled step cannot see: kept from step to step, in evaluating, in saving."""

import gc

import peft
import pytest
import torch
from own_training import false_facts, fine_tune, measured
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional

from peft_regress.measure import rounds
from peft_regress.measure.invariants import saving
from peft_regress.measure.invariants.training import ALLOWED_BYTES, FIRST_STEPS, MemoryWatch
from peft_regress.measure.own_adapters import ConfigAdapter

FACT = "training_keeps_no_memory"
LORA = peft.LoraConfig(r=2, target_modules=["6", "8"])


def training(keep, steps=24):
    """Measure a case whose loss keeps something of every step: it gets logits and loss."""
    kept = []

    def loss(model, batch):
        logits = model(batch[0])
        found = functional.cross_entropy(logits, batch[1])
        if torch.is_grad_enabled() and not isinstance(logits, FakeTensor):  # it trains
            keep(kept, logits, found)
        return found

    return measured(fine_tune("full", loss=loss, steps=steps, score=lambda *_: 1.0))


def a_loss(kept, _, loss):
    kept.append(loss.detach())


def garbage(_, logits, __):
    cycle = [logits.new_zeros(4, 8, 8, 8)]
    cycle.append(cycle)


def a_tensor(kept, logits, _):
    kept.append(logits.new_zeros(4, 8, 8, 8))


def a_tensor_from_the_fourth_on(kept, logits, _):
    kept.append(logits.new_zeros(4, 8, 8, 8) if len(kept) >= FIRST_STEPS else None)


def a_graph(kept, _, loss):
    """That only C++ refers to: the collector sees neither it nor the activations that it saves."""
    inputs = torch.ones(4, 8, 8, 8, requires_grad=True)
    kept.append((inputs * inputs).sum() + loss.detach())


@pytest.mark.parametrize(
    ("keep", "holds"),
    [
        (a_loss, True),
        (garbage, True),
        (a_tensor, False),
        (a_tensor_from_the_fourth_on, False),
        (a_graph, False),
    ],
)
def test_what_each_step_keeps_is_seen(keep, holds):
    record = training(keep)
    assert record.invariants[FACT] is holds
    if not holds:
        note = false_facts(record)[FACT]
        assert note.startswith("from step 3 to step 24 the memory in use grows by")


def test_garbage_of_before_does_not_make_up_for_a_leak():
    def keep(kept, logits, _):
        if not kept:
            cycle = [logits.new_zeros(1_000_000)]
            cycle.append(cycle)
        kept.append(logits.new_zeros(4, 8, 8, 8))
        if len(kept) == FIRST_STEPS + 1:
            gc.collect()

    assert FACT in false_facts(training(keep))
    assert not gc.get_freeze_count()


def test_without_a_count_of_memory_it_is_null(monkeypatch):
    monkeypatch.setattr("peft_regress.measure.invariants.training._allocated", lambda: None)
    watch = MemoryWatch(steps=5)
    for step in range(1, 6):
        watch.stepped(step)
    assert watch.fact.holds is None
    assert "glibc" in watch.fact.note


def test_a_long_training_may_keep_more(monkeypatch):
    in_use = [0]
    monkeypatch.setattr(
        "peft_regress.measure.invariants.training._allocated", lambda: lambda: in_use[0]
    )
    for steps, holds in ((10, False), (1000, True)):
        watch = MemoryWatch(steps=steps)
        watch.stepped(FIRST_STEPS)
        in_use[0] += ALLOWED_BYTES + 10 * 1024
        watch.stepped(steps)
        assert watch.fact.holds is holds


@pytest.fixture(scope="module")
def sound():
    return measured(fine_tune(LORA))


def peak(record, name):
    return record.metrics[name].value


def test_watching_changes_no_other_number(sound, monkeypatch):
    for module in (rounds, saving):
        monkeypatch.setattr(module, "peak_while", lambda action, _: (action(), None))
    unwatched = measured(fine_tune(LORA))
    gone = sound.metrics.keys() - unwatched.metrics.keys()
    assert gone == {"evaluation_peak_bytes", "saving_peak_bytes"}
    for name, metric in unwatched.metrics.items():
        assert metric.kind == "seconds" or metric == sound.metrics[name], name
    assert unwatched.invariants == sound.invariants


def test_an_evaluation_that_needs_more_shows_in_it(sound):
    def score(model, batches):
        kept = [model(batch[0]).repeat(1, 1000) for batch in batches]
        return float(kept[0].mean())

    record = measured(fine_tune(LORA, score=score))
    name = "evaluation_peak_bytes"
    assert peak(record, name) > 6 * 3 * 1000 * 4 > peak(sound, name)
    assert peak(record, "saving_peak_bytes") == peak(sound, "saving_peak_bytes")


def test_saving_that_copies_the_model_shows_in_it(sound, monkeypatch):
    save = ConfigAdapter.save

    def copying(self, model, folder):
        copies = [parameter.clone() for parameter in model.parameters()]
        save(self, model, folder)
        del copies

    monkeypatch.setattr(ConfigAdapter, "save", copying)
    record = measured(fine_tune(LORA))
    model_bytes = record.metrics["total_params"].value * 4
    assert peak(record, "saving_peak_bytes") == peak(sound, "saving_peak_bytes") + model_bytes
