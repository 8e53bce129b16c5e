"""Measuring a case: real training of a tiny network, real profiles."""

import dataclasses
from pathlib import Path

import msgspec
import pytest
from tiny_architecture import TinyArchitecture

from peft_regress import registry
from peft_regress.baselines.references import read_references
from peft_regress.cases import Adaptation, Case
from peft_regress.catalogue.matrix import matrix_cases
from peft_regress.catalogue.methods import PeftAdapter
from peft_regress.errors import AbsentError
from peft_regress.measure import definition
from peft_regress.measure.case import measure
from peft_regress.measure.costs import CostSettings, ProfileCache, adaptation_cost
from peft_regress.measure.definition import define
from peft_regress.measure.recipe import Recipe
from peft_regress.metrics import EDGE_METRICS, METRICS


def case(method="lora", rank=4, task="shift", architecture="tiny"):
    return Case(task=task, method=method, architecture=architecture, rank=rank)


def measured(root, of, **options):
    return measure(Recipe.of(of, root), profiles=options.pop("profiles", ProfileCache()), **options)


DEFAULT = ("full", "head", "bn_head", "lora", "lora-dropout", "lora-lean", "dora", "galore")
BFLOAT16 = ("full-bf16", "lora-bf16")
OTHERS = ("adalora", "lorafa")


@pytest.fixture(scope="module")
def records(tiny_sources):
    """Every method of the default matrix and some others on the tiny network, measured once."""
    from restored import registry_restored

    with registry_restored():
        registry.add("architecture", TinyArchitecture())
        profiles = ProfileCache()
        ranks = {
            name: 4 if registry.get("method", name).ranks else None
            for name in (*DEFAULT, *BFLOAT16, *OTHERS)
        }
        return {
            name: measured(tiny_sources, case(method=name, rank=rank), profiles=profiles).record
            for name, rank in ranks.items()
        }


EVERY = {*METRICS} - {
    *EDGE_METRICS,
    *("score", "relative_step_seconds", "projection_flops", "projection_flops_b32"),
    *("unclipped_norms", "gradient_norms", "micro_batches", "steps_before_event"),  # of scripts
}


@pytest.mark.parametrize("method", [*DEFAULT, *BFLOAT16, *OTHERS])
def test_every_metric_that_applies_is_measured(records, method):
    of_galore = {"projection_flops", "projection_flops_b32"}
    expected = EVERY | (of_galore if method.startswith("galore") else set())
    if method in OTHERS:
        expected -= {"optimizer_updates"}  # their optimizers ask the model for its adapters
    if not isinstance(registry.get("method", method), PeftAdapter):
        expected -= {
            "filled_losses",
            "wide_filled_loss",
            *(name for name in METRICS if name.startswith("merged_")),
        }
    assert records[method].status == "ok", records[method].error
    assert set(records[method].metrics) == expected


def test_samples_are_one_a_seed_and_the_value_is_their_mean(records):
    metrics = records["lora"].metrics
    for name in ("accuracy", "loss", "step_seconds"):
        samples = metrics[name].samples
        assert len(samples) == 3
        assert metrics[name].value == pytest.approx(sum(samples) / 3, rel=1e-12)
    # Of ten classes, guessing gives 0.1 and 2.3 nat.
    assert 0.05 < metrics["accuracy"].value < 0.5
    assert 1.5 < metrics["loss"].value < 3
    first = metrics["first_losses"].samples
    assert metrics["first_losses"].value == pytest.approx(sum(s[0] for s in first) / 3, rel=1e-12)


def test_methods_cost_what_their_definitions_say(records):
    count = {name: record.metrics["trainable_params"].value for name, record in records.items()}
    # conv 216, norm 16, depthwise 80, linear 108, head 130 (10 classes)
    assert count["full"] == count["galore"] == 550
    assert count["head"] == count["bn_head"] == 130
    # rank 4: conv 4*27 + 8*4, linear 4*8 + 12*4; the depthwise convolution has none
    assert count["lora"] == 130 + 108 + 32 + 32 + 48
    # a magnitude for each output channel
    assert count["dora"] == count["lora"] + 8 + 12


def test_a_bfloat16_base_halves_what_is_of_the_base_and_costs_the_same_flops(records):
    def value(method, metric):
        return records[method].metrics[metric].value

    full, half = (lambda metric, m=m: value(m, metric) for m in ("full", "full-bf16"))
    for metric in ("forward_flops", "backward_flops", "optimizer_flops", "trainable_params"):
        assert full(metric) == half(metric)
    # 550 parameters; of BatchNorm 16 statistics and a counter of 8 bytes; 9 steps of AdamW.
    assert (full("peak_param_bytes"), half("peak_param_bytes")) == (4 * 550, 2 * 550)
    assert (full("adapter_bytes"), half("adapter_bytes")) == (4 * 566 + 8, 2 * 566 + 8)
    states = full("optimizer_state_bytes"), half("optimizer_state_bytes")
    assert states == (8 * 550 + 9 * 4, 4 * 550 + 9 * 4)
    assert half("peak_grad_bytes") * 2 == full("peak_grad_bytes")
    assert half("peak_activation_bytes") < full("peak_activation_bytes")


def test_measuring_twice_gives_the_same_numbers(tiny_root, records):
    again = measured(tiny_root, case(), timed=False)
    with pytest.raises(AbsentError, match="step_seconds"):
        again.value("step_seconds")
    of_both = {k: v for k, v in records["lora"].metrics.items() if k != "step_seconds"}
    assert again.record == msgspec.structs.replace(records["lora"], metrics=of_both)


def test_a_method_that_a_release_has_no_optimizer_for_is_unsupported(tiny_root, monkeypatch):
    import peft.optimizers

    monkeypatch.delattr(peft.optimizers, "create_lorafa_optimizer")
    record = measured(tiny_root, case(method="lorafa")).record
    assert record.status == "unsupported"
    assert "create_lorafa_optimizer" in record.error.message


def test_of_a_method_with_ranks_only_the_lowest_keeps_its_adapter(tiny_root, tmp_path):
    for rank in (1, 4):
        assert measured(tiny_root, case(rank=rank), keep_adapters=tmp_path).status == "ok"
    assert [path.name for path in tmp_path.iterdir()] == ["shift--lora-r1--tiny"]


class TestDefinition:
    def test_differs_by_case(self, tiny_root):
        cases = [case(), case(rank=1), case(method="dora"), case(task="unseen")]
        cases += [case(method="lora-bf16"), case(method="loha"), case(method="lokr")]
        assert len({define(Recipe.of(one, tiny_root)) for one in cases}) == len(cases)

    @pytest.mark.parametrize(("name", "value"), [("PROTOCOL_VERSION", 99), ("FIRST_LOSSES", 5)])
    def test_changes_with_what_defines_the_measurement(self, tiny_root, monkeypatch, name, value):
        before = define(Recipe.of(case(), tiny_root))
        monkeypatch.setattr(definition, name, value)
        assert define(Recipe.of(case(), tiny_root)) != before

    def test_says_that_dropout_is_active(self, tiny_root):
        active = Recipe.of(case("lora-dropout"), tiny_root)
        method = dataclasses.replace(active.fine_tune.method, trains_with_dropout=False)
        off = dataclasses.replace(active.fine_tune, method=method)
        assert define(active) != define(dataclasses.replace(active, fine_tune=off))

    def test_of_every_stored_case_is_the_one_that_judges_it(self):
        """Or every baseline of a user would be incomparable with this version."""
        root = Path(__file__).parents[2] / "baselines"
        stored = read_references(root)
        cases = [one for name in ("default", "extended", "edge") for one in matrix_cases(name)]
        assert {one.id: define(Recipe.of(one, root)) for one in cases} == {
            one.id: stored[one.id].record.definition for one in cases
        }


def test_a_lean_model_is_measured_as_the_plain_one_but_for_what_it_keeps(records):
    lean, lora = records["lora-lean"], records["lora"]
    assert lean.invariants == {**lora.invariants, "lean_trains_alike": True}
    assert lean.curve == lora.curve
    for name in ("peak_bytes", "peak_bytes_b32"):
        assert lean.metrics[name].value < lora.metrics[name].value


class TestDropout:
    def test_draws_the_same_masks_in_training_and_none_in_evaluation(self, tiny_root, records):
        dropout, lora = records["lora-dropout"], records["lora"]
        again = measured(tiny_root, case("lora-dropout")).record
        assert again.curve == dropout.curve
        assert dropout.curve.losses[0] != lora.curve.losses[0]  # the network's own dropout
        assert dropout.metrics["filled_losses"] == lora.metrics["filled_losses"]

    def test_counts_in_the_memory_of_a_step_and_takes_no_matrix_work(self, records):
        dropout, lora = records["lora-dropout"].metrics, records["lora"].metrics
        assert dropout["backward_flops"] == lora["backward_flops"]
        assert dropout["peak_activation_bytes"].value > lora["peak_activation_bytes"].value
        assert dropout["inference_peak_bytes"] == lora["inference_peak_bytes"]


class TestCost:
    def test_a_frozen_head_trains_the_adapter_alone(self, tiny_root):
        of = Adaptation(method="lora", architecture="tiny", rank=4)
        frozen = adaptation_cost(of, CostSettings(resolution=32, freeze_head=True))
        trained = adaptation_cost(of, CostSettings(resolution=32))
        assert trained.trainable_params - frozen.trainable_params == 130

    def test_batch_norm_in_train_mode_keeps_its_statistics_alive(self, tiny_root):
        of = Adaptation(method="full", architecture="tiny")
        by_mode = {
            mode: adaptation_cost(of, CostSettings(resolution=32, bn=mode)).step
            for mode in (None, "eval", "train")
        }
        assert by_mode[None] == by_mode["eval"]
        saved = 2 * 8 * 4  # mean and inverse deviation of eight channels
        high = by_mode["train"].peak_activation_bytes - by_mode["eval"].peak_activation_bytes
        assert high == saved
