"""Measuring a case of one's own: each clause of what a FineTune promises."""

import copy
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from builders import compare
from own_training import convolutional, false_facts, fine_tune, image_data, measured
from torch import nn
from torch.utils.data import TensorDataset

from peft_regress.errors import InputError
from peft_regress.measure.costs import ProfileCache, costs_of, metrics_of
from peft_regress.measure.data import Data
from peft_regress.measure.definition import define
from peft_regress.measure.recipe import Recipe
from peft_regress.project.fine_tune import NamedConfig
from peft_regress.report import verdict_text

TARGETS = ["0", "6"]


def lora(**settings):
    return peft.LoraConfig(**{"r": 2, "target_modules": TARGETS, **settings})


def on(name, **settings):
    return getattr(peft, name)(target_modules=["6"], **settings)


RANDOM = {"identity_at_init": "starts the adapter with random numbers"}
ALTERS = {"disabled_equals_base": "alters the base"}
NO_RANK = {"doubled_rank_not_smaller": "no adapter with a rank"}
ADAPTERS = {
    "a pattern": (lora(target_modules=r".*6"), {}),
    "patterns of ranks": (lora(rank_pattern={"6": 3}, alpha_pattern={"6": 5}), {}),
    "rslora": (lora(use_rslora=True), {}),
    "modules to save": (lora(modules_to_save=["8"]), {}),
    "a random start": (lora(init_lora_weights=False), RANDOM),
    "PiSSA": (lora(target_modules=["6"], init_lora_weights="pissa"), ALTERS),
    "OLoRA": (lora(target_modules=["6"], init_lora_weights="olora"), ALTERS),
    "KaSA": (
        lora(target_modules=["6"], kasa_config=peft.tuners.lora.config.KasaConfig()),
        ALTERS | {"identity_at_init": "singular values"},
    ),
    "DoRA on a linear layer": (lora(target_modules=["6"], use_dora=True), {}),
    "dropout": (lora(lora_dropout=0.2), {}),
    "LoHa": (peft.LoHaConfig(r=2, target_modules=TARGETS), {}),
    "LoKr": (peft.LoKrConfig(r=2, target_modules=TARGETS), {}),
    "IA3": (peft.IA3Config(target_modules=TARGETS, feedforward_modules=["6"]), {}),
    "OFT by blocks": (on("OFTConfig", r=2, oft_block_size=0), NO_RANK),
    "RandLoRA": (on("RandLoraConfig", r=2), NO_RANK),
    "BOFT": (on("BOFTConfig", boft_block_size=4), {}),
    "HRA": (on("HRAConfig", r=2), {}),
    "VeRA": (on("VeraConfig", r=4), {}),
    "AdaLoRA": (on("AdaLoraConfig", init_r=4, target_r=2, total_step=4, tinit=1, tfinal=1), {}),
    "Uni-LoRA": (on("UniLoraConfig", r=2), RANDOM),
    "VB-LoRA": (on("VBLoRAConfig", r=2, num_vectors=8, vector_length=4, topk=2), RANDOM),
    "MiSS at its largest rank": (
        on("MissConfig", r=8),
        {"doubled_rank_not_smaller": "at twice it: ValueError: `r` (16) must be"},
    ),
    "a method of the catalogue": ("lora-r4", {}),
    "full fine-tuning": ("full", {}),
}  # fmt: skip
ALIKE = {"a pattern", "OLoRA", "LoKr", "HRA", "BOFT"}
"""To the package these are as others are: a list of targets, PiSSA, LoHa, OFT."""


class Volumes(nn.Module):
    """A Conv3d does not take channels last as images do."""

    def __init__(self):
        super().__init__()
        self.volume = nn.Conv3d(1, 2, 3, padding=(0, 1, 1))
        self.image = nn.Conv2d(2, 3, 3)

    def forward(self, x):
        return self.image(self.volume(x.unsqueeze(1)).squeeze(2)).mean((2, 3))


class Masked(nn.Module):
    """Masks a class by infinity."""

    def __init__(self):
        super().__init__()
        self.net = convolutional()

    def forward(self, inputs):
        logits = self.net(inputs)
        return torch.cat([logits, torch.full_like(logits[:, :1], -torch.inf)], dim=1)


def with_composite_head():
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)),
    )


MODELS = {
    "a Conv3d": (Volumes, ["volume", "image"], []),
    "masked classes": (Masked, ["net.6"], []),
    "a composite head": (with_composite_head, ["0.0"], ["1"]),
}


@pytest.fixture(scope="module")
def plain():
    """The record of a full fine-tuning, with all else as it is by default."""
    return measured(fine_tune("full"))


@pytest.mark.parametrize("name", MODELS)
def test_invariants_hold_on_unusual_models(name):
    model, targets, heads = MODELS[name]
    config = lora(target_modules=targets)
    before = copy.deepcopy(config.to_dict())
    record = measured(fine_tune(config, model=model, also_train=heads))
    assert record.status == "ok", record.error
    assert false_facts(record) == {}
    assert record.invariants["channels_last_kept"] is True
    assert len([name for name in record.trained if ".1." in name]) == 4 * len(heads)
    assert config.to_dict() == before


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.nightly if name in ALIKE else ()) for name in ADAPTERS],
)
def test_invariants_of_a_sound_adapter_hold_or_say_why_they_do_not_apply(name):
    adapter, notes = ADAPTERS[name]
    record = measured(fine_tune(adapter))
    assert record.status == "ok", record.error
    # peft's add_weighted_adapter leaves DoRA's magnitude out, and rsLoRA's scaling.
    is_wrong = name in {"rslora", "DoRA on a linear layer"}
    assert set(false_facts(record)) == ({"paths_agree"} if is_wrong else set())
    silent = {name for name, holds in record.invariants.items() if holds is None}
    assert silent <= record.invariant_notes.keys()
    for invariant, note in notes.items():
        assert record.invariants[invariant] is None
        assert note in record.invariant_notes[invariant]


def test_a_named_configuration_is_the_configuration_and_defined_by_what_is_stated():
    runtime = NamedConfig("LoraRuntimeConfig", {"ephemeral_gpu_offload": False})
    settings = {"r": 2, "target_modules": TARGETS}
    named = NamedConfig("LoraConfig", {**settings, "runtime_config": runtime})
    record, plain = measured(fine_tune(named)), measured(fine_tune(lora()))
    assert (record.status, record.curve, record.trained) == ("ok", plain.curve, plain.trained)
    given = Recipe.of(fine_tune(named), Path("absent")).adapter
    assert isinstance(given.config.runtime_config, peft.LoraRuntimeConfig)
    stated = {"name": "LoraRuntimeConfig", "settings": {"ephemeral_gpu_offload": False}}
    fields = {**settings, "runtime_config": stated}
    assert given.definition() == {"config": "LoraConfig", "fields": fields}


@pytest.mark.parametrize(
    ("named", "problem"),
    [
        (NamedConfig("NewConfig", {"r": 2}), "no attribute 'NewConfig'"),
        (NamedConfig("newer.Config", {"r": 2}), "No module named 'peft.newer'"),
        (NamedConfig("LoraConfig", {"new_setting": 2}), "unexpected keyword argument"),
    ],
)
def test_a_named_configuration_that_peft_lacks_is_unsupported(named, problem):
    record = measured(fine_tune(named))
    assert record.status == "unsupported"
    assert record.error.message.startswith(f"peft {peft.__version__} has no such {named.name}: ")
    assert problem in record.error.message
    # Without a stored record nothing says that it ever worked.
    with pytest.raises(InputError, match=named.name):
        measured(fine_tune(named), has_reference=False)


def test_biases_that_train_beside_an_adapter_are_no_part_of_it():
    record = measured(fine_tune(lora(bias="all")))
    # peft leaves them trainable in an adapter that is loaded for use.
    assert set(false_facts(record)) == {"reload_keeps_trainable"}
    assert "base_model.model.8.bias" in record.invariant_notes["reload_keeps_trainable"]


def test_an_error_of_a_library_is_told_with_its_layer():
    # peft's DoRA of a 3 x 3 convolution takes no weights in channels last.
    record = measured(fine_tune(lora(use_dora=True)))
    assert set(false_facts(record)) == {"channels_last_kept", "paths_agree"}
    note = record.invariant_notes["channels_last_kept"]
    assert "RuntimeError: view size" in note
    assert "base_model.model.0." in note


# Building


def test_a_base_that_a_callable_alters_is_seen_and_no_adapter_of_it_kept(tmp_path):
    """The copy of the base is made before the adapter gets the model."""

    def altered(model, amount):
        with torch.no_grad():
            model[8].bias += amount
        model[:8].requires_grad_(False)
        model[8].bias.requires_grad_(False)
        return model

    def with_new_head(model):
        model.requires_grad_(False)
        model[8] = nn.Linear(model[8].in_features, model[8].out_features)
        return model

    rows = (
        (lambda model: altered(model, 0.0), True, 1),
        (lambda model: altered(model, 1.0), None, 0),  # alone it would compute something else
        (with_new_head, None, 1),  # which ships
    )
    for adapter, identity, kept in rows:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        record = measured(fine_tune(adapter), keep_adapters=folder)
        assert record.invariants["identity_at_init"] is identity  # it may start anywhere
        assert len(list(folder.iterdir())) == kept


# What is shipped


def test_statistics_ship_only_where_the_mode_moves_them():
    usual, evaluated = (
        measured(fine_tune(lora(), mode=mode), trains=False).metrics["adapter_bytes"].value
        for mode in ("train", "eval")
    )
    moved = 8 * 4 * 2 + 8  # mean, variance, number of batches
    assert usual - evaluated == moved


def test_cost_and_record_have_the_same_costs():
    record = measured(fine_tune(lora()))
    alone = metrics_of(costs_of(Recipe.of(fine_tune(lora()), Path("absent")), ProfileCache()))
    assert alone.items() <= record.metrics.items()
    assert record.cost_batch == 4


# Data


def arrays():
    return tuple(tuple(np.asarray(part) for part in split) for split in image_data())


def datasets():
    return tuple(TensorDataset(*split) for split in image_data())


def losses(record):
    assert record.status == "ok", record.error
    return record.metrics["first_losses"].samples


@pytest.mark.parametrize("data", [arrays, datasets])
def test_arrays_tensors_and_datasets_give_the_same_training(plain, data):
    assert losses(measured(fine_tune("full", data=data))) == losses(plain)


def test_training_batches_are_full_and_shuffled_by_the_seed_and_test_batches_keep_order():
    case = fine_tune(lora(), data=lambda: ((torch.arange(10),), (torch.arange(7),)))
    data = Data.of(case)

    def epoch(seed):
        batches = data.training_batches(4, seed=seed)
        return [next(batches)[0].tolist() for _ in range(4)]

    first = epoch(0)
    assert [len(batch) for batch in first] == [4, 4, 4, 4]
    assert len({*first[0], *first[1]}) == 8
    assert first[:2] != first[2:]
    assert epoch(0) == first != epoch(1)
    assert [b[0].tolist() for b in data.test_batches(4)] == [[0, 1, 2, 3], [4, 5, 6]]


# Seeds and modes


def test_measuring_twice_gives_the_same_losses_with_dropout_and_own_random_numbers():
    def noisy():
        model = convolutional()
        model[8].bias.data += float(np.random.rand()) + random.random()  # noqa: NPY002
        return model

    case = fine_tune(lora(lora_dropout=0.3), model=noisy, seeds=2)
    torch.manual_seed(1)
    one = measured(case)
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.rand(1) == drawn  # the generators are given back
    other = measured(case)
    assert losses(one) == losses(other)
    assert one.inputs == other.inputs
    assert losses(one)[0] != losses(one)[1]


def test_data_drawn_from_the_global_generator_is_the_same_each_time():
    def drawn():
        return tuple((torch.randn(8, 3, 8, 8), torch.arange(8) % 3) for _ in range(2))

    recipe = Recipe.of(fine_tune(lora(), data=drawn), Path("absent"))
    one, other = (recipe.load_data().probe(4)[0] for _ in range(2))
    assert torch.equal(one, other)


def test_a_mode_of_ones_own_sets_how_the_model_trains(plain):
    def but_dropout(model):
        model.train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.eval()

    keeps, still = (measured(fine_tune("full", mode=mode)) for mode in (but_dropout, "eval"))
    assert len({str(losses(record)) for record in (plain, keeps, still)}) == 3


# Optimizer, schedule, loss, score, metrics


def test_an_optimizer_and_a_schedule_of_ones_own_train():
    def sgd(model):
        trained = [p for p in model.parameters() if p.requires_grad]
        return torch.optim.SGD(trained, lr=0.5, momentum=0.9)

    def stop(optimizer):
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: float(step < 1))

    own = measured(fine_tune("full", optimizer=sgd))
    assert own.inputs.optimizer[0]["lr"] == 0.5
    stopped = measured(fine_tune("full", optimizer=sgd, schedule=stop))
    (trained,), (ended,) = losses(own), losses(stopped)
    assert trained[:2] == ended[:2]
    assert trained[2:] != ended[2:]


def test_projections_that_no_step_renews_do_not_apply():
    record = measured(fine_tune("galore-r2", also_train=["8"]))
    assert record.status == "ok", record.error
    assert record.invariants["projections_renewed"] is None
    assert "every 15 steps" in record.invariant_notes["projections_renewed"]


def test_an_own_loss_of_pairs_keeps_the_accuracy_of_what_the_model_returned_to_it(plain):
    ours = measured(fine_tune("full", loss=entropy))
    assert ours.metrics["accuracy"] == plain.metrics["accuracy"]
    assert ours.curve.scores.keys() == {"loss", "accuracy"}


def entropy(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


@pytest.mark.parametrize("value", [-3.5, np.float32(-3.5), torch.tensor(-3.5)])
def test_a_score_of_any_sign_and_type_replaces_the_accuracy(value):
    record = measured(fine_tune("full", score=lambda model, batches: value))
    assert record.metrics["score"].value == -3.5
    assert "accuracy" not in record.metrics


def test_a_model_in_bfloat16_keeps_its_type():
    def half_data():
        return tuple((inputs.bfloat16(), labels) for inputs, labels in image_data())

    record = measured(fine_tune(lora(), model=lambda: convolutional().bfloat16(), data=half_data))
    assert record.numerics == "bfloat16"
    assert record.status == "ok", record.error
    assert false_facts(record) == {}


def test_the_definition_is_of_what_the_author_wrote_and_not_of_functions():
    def defined(**settings):
        adapter = settings.pop("adapter", lora())
        return define(Recipe.of(fine_tune(adapter, **settings), "absent"))

    same = defined()
    assert defined(data=arrays, score=lambda m, b: 0.0) == same
    assert defined(adapter=lora(target_modules=TARGETS[::-1])) == same
    changed = [
        defined(steps=5), defined(mode="eval"), defined(seeds=2), defined(also_train=["8"]),
        defined(adapter=lora(lora_alpha=3)), defined(batch=2),
    ]  # fmt: skip
    assert len({same, *changed}) == 7


def test_a_rank_that_was_changed_to_the_default_is_named_with_what_it_costs():
    """It once read 'sha256:9a22 -> sha256:a950'."""
    old, new = (measured(fine_tune(lora(r=rank)), trains=False) for rank in (4, 8))
    text = " ".join(verdict_text(compare([old], [new])).split())
    assert "definition changed: adapter r: 4 -> 8; trainable_params +" in text
    assert ", adapter_bytes +" in text
    assert "also changed: backward_flops +" in text


TESTS = Path(__file__).resolve().parents[1]
SCRIPT = """
import json, msgspec, peft, torch
from own_training import fine_tune, measured
torch.set_num_threads({threads})
adapter = peft.LoraConfig(r=2, target_modules=["6", "0"], lora_dropout=0.1)
print(json.dumps(msgspec.to_builtins(measured(fine_tune(adapter, also_train=["8"])))))
"""


def started(threads, **variables):
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", SCRIPT.format(threads=threads)],
        env={**os.environ, "PYTHONPATH": str(TESTS), **variables},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.nightly
def test_another_process_hash_seed_thread_count_and_processor_change_nothing_that_is_exact():
    processes = (
        started(1, PYTHONHASHSEED="1"),
        started(2, PYTHONHASHSEED="2", ATEN_CPU_CAPABILITY="avx2"),
    )
    one, other = (json.loads(process.communicate()[0].splitlines()[-1]) for process in processes)
    for same in ("definition", "trained", "invariants", "status"):
        assert other[same] == one[same]
    for key, weight in one["inputs"]["weights"].items():
        there = other["inputs"]["weights"][key]
        assert there["norm"] == pytest.approx(weight["norm"], rel=1e-5, abs=1e-7)
    exact = {name for name, metric in one["metrics"].items() if metric["kind"] == "exact"}
    assert len(exact) > 5
    assert [n for n in exact if other["metrics"][n] != one["metrics"][n]] == []
