"""The first seed is trained in float64 where no curve of this kind of machine is known."""

from pathlib import Path

import msgspec
import pytest
import torch
from msgspec import UNSET
from own_training import convolutional, fine_tune, image_data, measured
from test_repeated_training import known_of

from peft_regress.cases import Case
from peft_regress.catalogue.tasks.digits import load_images
from peft_regress.gate.referees import departure
from peft_regress.measure.float64 import float64
from peft_regress.measure.recipe import Recipe
from peft_regress.measure.referee import refereed
from peft_regress.measure.training import single_thread, undisturbed

STEPS = 8


def case(adapter="full", **settings):
    return fine_tune(adapter, **{"steps": STEPS, "seeds": 2, **settings})


def referee(of, known=None, root=Path("absent")):
    recipe = Recipe.of(of, root)
    with single_thread(), undisturbed():
        return refereed(recipe, recipe.base_model(0), known=known)


@pytest.fixture(scope="module")
def kept():
    return measured(case(), keep_referee=True)


torch.manual_seed(0)  # drawn once, and everywhere the same
WEIGHTS, IMAGES = convolutional().state_dict(), image_data()


def pretrained():
    model = convolutional()
    model.load_state_dict(WEIGHTS)
    return model


def test_it_is_the_training_of_float32_as_far_as_that_can_tell():
    stored = case(model=pretrained, data=lambda: IMAGES, optimizer=plain)
    record = measured(stored, keep_referee=True)
    assert record.referee.losses == pytest.approx(record.curve.losses, rel=1e-5)
    assert record.referee.losses != record.curve.losses
    assert record.referee.scores["accuracy"] == record.curve.scores["accuracy"]


def elsewhere(record):
    """Return what a run knows of a case that was measured on another kind of machine."""
    return known_of(record, machine="sha256:there")


def test_a_case_that_nothing_knows_keeps_its_referee(kept):
    found = kept.referee
    assert [len(one) for one in (found.losses, found.gradients, found.updates)] == [STEPS] * 3
    assert len(found.moved) == STEPS + 1
    assert found.moved == sorted(found.moved)
    assert found.moved[0] > 0
    assert found.moved[-1] < 1e-8
    assert found.scores.keys() == {"loss", "accuracy"}
    assert kept.nearby_losses is UNSET
    assert measured(case()).referee is UNSET


def test_on_another_kind_of_machine_it_repeats_by_its_referee(kept):
    record = measured(case(), known=elsewhere(kept))
    assert record.repeated_run == "0007_before"
    assert record.referee == kept.referee
    assert "loss" not in record.metrics
    at_home = measured(case(), known=known_of(kept))
    assert at_home.is_repeat
    assert at_home.referee is UNSET


def test_against_a_reference_without_one_nothing_more_is_trained(kept):
    known = [msgspec.structs.replace(one, referee=None) for one in elsewhere(kept)]
    record = measured(case(), known=known, keep_referee=True)
    assert (record.referee, record.is_repeat) == (UNSET, False)


def halved_late(optimizer):
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 if step < 5 else 0.999)


def frozen_late(model):
    """Return an optimizer after whose sixth step the last layer no longer trains."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, foreach=False)
    taken = []

    def forget(*_):
        taken.append(1)
        if len(taken) > 6:
            model[8].weight.grad = None

    optimizer.register_step_pre_hook(forget)
    return optimizer


def plain(model):
    return torch.optim.AdamW(model.parameters(), lr=1e-2, foreach=False)


@pytest.mark.parametrize(
    ("before", "after", "step", "what"),
    [
        ({}, {"schedule": halved_late}, 6, "update norm"),
        ({"optimizer": plain}, {"optimizer": frozen_late}, 7, "gradient norm"),
    ],
    ids=["a rate", "a layer"],
)
def test_a_late_change_is_seen_where_it_begins(before, after, step, what):
    known = referee(case(**before))
    found = departure(known, referee(case(**after), known))
    assert (found.step, found.what) == (step, what)


def asking_for_float32(model, batch):
    weights = torch.tensor([1.0, 2.0], dtype=torch.float32).mean()
    logits = model(batch[0]).float().type(torch.FloatTensor)
    scaled = logits * weights + torch.zeros(1, dtype=torch.float32)
    return torch.nn.functional.cross_entropy(scaled.to(torch.float32), batch[1])


def in_half(model, batch):
    return torch.nn.functional.cross_entropy(model(batch[0]).half().float(), batch[1])


def under_autocast(model, batch):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return torch.nn.functional.cross_entropy(model(batch[0]).float(), batch[1])


def refusing_float64(model, batch):
    if batch[0].dtype is torch.float64:
        raise TypeError("float32 images only")
    return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"loss": in_half}, "aten._to_copy.default stays float16"),
        ({"loss": under_autocast}, "it computes under autocast"),
        ({"loss": refusing_float64}, "float64 raises TypeError: float32 images only"),
        ({"model": lambda: convolutional().to(torch.bfloat16)}, "its weights are bfloat16"),
    ],
    ids=["half", "autocast", "refused", "a bfloat16 base"],
)
def test_where_less_precision_is_the_point_there_is_none_and_it_says_why(settings, why):
    assert referee(case(**settings)) == why
    assert torch.get_default_dtype() is torch.float32


def test_float32_that_code_asks_for_by_name_is_raised():
    known = referee(case(loss=asking_for_float32))
    assert known.moved[0] < 1e-11
    # With every logit in float32, it would end in another one of its last bits.
    assert known.losses == [loss for loss in known.losses if loss != float(torch.tensor(loss))]


def tiny(method, rank):
    return Case(task="shift", method=method, architecture="tiny", rank=rank)


@pytest.mark.parametrize("method", ["lora", "dora", "full", "bn_head"])
def test_a_built_in_case_has_a_referee_and_a_bfloat16_base_none(tiny_root, method):
    rank = 4 if method in {"lora", "dora"} else None
    found = referee(tiny(method, rank), root=tiny_root)
    assert found.moved[-1] < 1e-9
    if method == "lora":
        half = tiny("lora-bf16", rank)
        assert referee(half, root=tiny_root) == "its weights are bfloat16"


def test_galore_is_judged_beyond_its_refreshes(tiny_root):
    found = referee(tiny("galore", 4), root=tiny_root)
    assert found.moved[-1] < 1e-8


@pytest.mark.parametrize("full", [False, True])
def test_singular_vectors_have_one_sign(full):
    matrix = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).double()
    with float64():
        parts = torch.linalg.svd(matrix, full_matrices=full)
        # Other rows and columns change their sign with the processor's order of operations.
        again = torch.linalg.svd(-matrix, full_matrices=full)
    left, values, right = parts
    assert torch.allclose(left * values @ right[:4], matrix)
    assert (left.gather(0, left.abs().argmax(0, keepdim=True)) > 0).all()
    assert torch.allclose(left, again[0])
    assert torch.allclose(right[:4], -again[2][:4])


@pytest.mark.parametrize("place", range(2))
def test_every_second_image_is_enough_to_see_each_place(tiny_root, monkeypatch, place):
    known = referee(tiny("full", None), root=tiny_root)
    batches = Recipe.batches

    def spoiled_late(self, *args, **how):
        for step, batch in enumerate(batches(self, *args, **how)):
            if step >= 5:
                batch[0][place] *= 1.01
            yield batch

    monkeypatch.setattr(Recipe, "batches", spoiled_late)
    found = departure(known, referee(tiny("full", None), root=tiny_root))
    assert (found.step, found.what) == (6 + (place + 1) % 2, "loss")


def test_images_that_a_referee_reads_first_stay_float32_for_others():
    of = {"scanner": "sklearn", "split": "test", "classes": 2, "paper": 0.1}  # read nowhere else
    with float64():
        assert load_images(**of)[0].dtype is torch.float64
    assert load_images(**of)[0].dtype is torch.float32
