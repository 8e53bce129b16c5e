"""A training that repeats a known one is not trained: what is digested, and what is not."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import enum
import functools
import os
import re
import subprocess
import sys
import types
from collections import deque
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from msgspec import UNSET
from own_training import convolutional, fine_tune, image_data
from own_training import measured as measured_own
from torch._subclasses.fake_tensor import FakeTensorMode

from peft_regress import registry
from peft_regress.cases import Case
from peft_regress.fine_tune import OwnMetric
from peft_regress.measure import recipe as recipe_module
from peft_regress.measure.case import measure
from peft_regress.measure.computation.code import CodeDigest
from peft_regress.measure.computation.kept import kept_by
from peft_regress.measure.known import Known
from peft_regress.measure.recipe import Recipe
from peft_regress.measure.step_profile import ProfileCache

LORA = peft.LoraConfig(r=2, target_modules=["6", "8"])
OF_TRAINING = {"accuracy", "loss", "evaluation_peak_bytes", "saving_peak_bytes"}
AFTER_TRAINING = {
    "frozen_unchanged",
    "trainable_changed",
    "projections_renewed",
    "training_keeps_no_memory",
}


def case(adapter: Any = LORA, **settings: Any) -> Any:
    return fine_tune(adapter, **{"steps": 6, "seeds": 2, **settings})


def known(record: Any) -> Known:
    assert record.computation is not UNSET
    return Known(computation=record.computation, run_name="0007_before")


def measured(of: Any, **options: Any) -> Any:
    return measured_own(of, timed=False, **options)


def quick(of: Any, reference: Any) -> Any:
    return measured(of, known=known(reference))


@pytest.fixture(scope="module")
def trained() -> Any:
    return measured(case())


def test_a_repeated_training_is_certified_and_says_whose_it_repeats(trained):
    record = quick(case(), trained)
    assert record.is_certified
    assert record.computation.same_as == "0007_before"
    assert record.computation.equals(trained.computation)
    assert trained.metrics.keys() - record.metrics.keys() == OF_TRAINING
    assert trained.invariants.keys() - record.invariants.keys() == AFTER_TRAINING


def test_what_a_certified_case_has_is_measured(trained):
    record = quick(case(), trained)
    first = record.metrics["first_losses"].samples
    assert first == [trained.metrics["first_losses"].samples[0][:3]]
    others = record.metrics.keys() - {"first_losses"}
    assert {name: record.metrics[name] for name in others} == {
        name: trained.metrics[name] for name in others
    }
    assert record.invariants == {name: trained.invariants[name] for name in record.invariants}
    assert record.inputs == trained.inputs


def test_another_computation_trains_as_ever(trained):
    other = case(lora(lora_alpha=3))
    record = quick(other, trained)
    assert not record.is_certified
    assert record == measured(other)
    assert record.computation.state == trained.computation.state
    assert record.computation.graph != trained.computation.graph


def lora(**settings: Any) -> Any:
    return peft.LoraConfig(**{"r": 2, "target_modules": ["6", "8"], **settings})


def other_data() -> tuple[Any, Any]:
    (inputs, labels), test = image_data()
    inputs[-1, 0, 0, 0] += 1e-6
    return (inputs, labels), test


def other_test_data() -> tuple[Any, Any]:
    train, (inputs, labels) = image_data()
    return train, (inputs, labels.flip(0))


def other_weights() -> Any:
    model = convolutional()
    with torch.no_grad():
        model[8].bias[0] += 1e-7
    return model


@pytest.mark.parametrize("settings", [
    {"data": other_data}, {"data": other_test_data}, {"model": other_weights},
], ids=["a training image", "test labels", "a weight"])  # fmt: skip
def test_another_start_is_another_state(trained, settings):
    record = measured(case(**settings))
    assert record.computation.graph == trained.computation.graph
    assert record.computation.state != trained.computation.state


def sgd(model: Any) -> Any:
    return torch.optim.SGD(model.parameters(), lr=1e-2)


class OwnOptimizer(torch.optim.SGD):
    pass


def own_optimizer(model: Any) -> Any:
    return OwnOptimizer(model.parameters(), lr=1e-2)


def late(optimizer: Any) -> Any:
    """Return a schedule that differs from a constant one in the last step alone."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 if step < 5 else 0.5)


def constant(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)


class OwnSchedule(torch.optim.lr_scheduler.LRScheduler):
    def get_lr(self) -> Any:
        return self.base_lrs


def test_a_schedule_is_digested_over_all_steps():
    record = measured(case(schedule=constant))
    assert quick(case(schedule=constant), record).is_certified
    assert not quick(case(schedule=late), record).is_certified


@pytest.mark.parametrize(("settings", "is_certifiable"), [
    ({"optimizer": sgd}, True),
    ({"optimizer": own_optimizer}, False),
    ({"schedule": OwnSchedule}, False),
    ({"steps": 3}, False),
], ids=["SGD", "an optimizer of one's own", "a schedule of one's own", "three steps"])  # fmt: skip
def test_only_what_torch_wrote_goes_on_as_it_began(settings, is_certifiable):
    assert (measured(case(**settings)).computation is not UNSET) == is_certifiable


def faulty_training(monkeypatch: pytest.MonkeyPatch, fault: Any) -> None:
    """Put a fault into the function that trains, which the first steps must not bypass."""
    train = recipe_module.finetune
    monkeypatch.setattr(
        recipe_module, "finetune", lambda *parts, **options: fault(train, *parts, **options)
    )


def test_a_fault_of_the_training_shows_in_its_first_steps(monkeypatch, trained):
    def under_autocast(train: Any, *parts: Any, **options: Any) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return train(*parts, **options)

    faulty_training(monkeypatch, under_autocast)
    assert not quick(case(), trained).is_certified


def test_a_training_of_other_length_is_an_error(monkeypatch):
    def shorter(train: Any, model: Any, optimizer: Any, batches: Any, loop: Any, **options: Any):
        return train(model, optimizer, batches, replace(loop, steps=5), **options)

    faulty_training(monkeypatch, shorter)
    record = measured(case())
    assert record.status == "error"
    assert record.error.message == "the training took 5 steps, not the 6 of the case"


def accuracy(model: Any, batches: Any) -> float:
    with torch.inference_mode():
        right = sum((model(x).argmax(1) == y).sum().item() for x, y in batches)
    return float(right)


def twice_accuracy(model: Any, batches: Any) -> float:
    with torch.inference_mode():
        right = sum((model(x).argmax(1) == y).sum().item() for x, y in batches)
    return float(right) * 2


def accuracy_by_numpy(model: Any, batches: Any) -> float:
    with torch.inference_mode():
        return float(sum((model(x).argmax(1).numpy() == y.numpy()).sum() for x, y in batches))


def test_the_code_of_a_score_counts():
    record = measured(case(score=accuracy))
    assert quick(case(score=accuracy), record).is_certified
    assert not quick(case(score=twice_accuracy), record).is_certified
    assert measured(case(score=accuracy_by_numpy)).computation is UNSET


def own_metric(**changed: Any) -> OwnMetric:
    stated: dict[str, Any] = {"unit": "count", "direction": "higher", "kind": "exact", **changed}
    return OwnMetric(measure=accuracy, **stated)


def test_what_an_author_states_of_a_metric_counts():
    """A full run would say that a metric is gone, or is another one."""
    record = measured(case(metrics={"hits": own_metric()}))
    for changed in (
        {"renamed": own_metric()},
        {"hits": own_metric(kind="info")},
        {"hits": own_metric(), "more": own_metric()},
    ):
        assert not quick(case(metrics=changed), record).is_certified, changed


def test_a_function_that_is_named_again_is_told_from_another():
    def digest(*parts: Any) -> str:
        return CodeDigest([functools.partial(max, *parts)]).hexdigest()

    one, other = accuracy, twice_accuracy
    assert len({digest(one, other, one), digest(one, other, other), digest(one, other)}) == 3


@dataclasses.dataclass(slots=True)
class Slotted:
    scale: float


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Slotted(1.0), Slotted(2.0)),
        (Fraction(1, 2), Fraction(1, 3)),
        (argparse.Namespace(scale=1.0), argparse.Namespace(scale=2.0)),
        (re.compile("a"), re.compile("b")),
        (min, max),
        (deque([1]), deque([2])),
        (enum.Enum("Limit", {"LOW": 0.5}), enum.Enum("Limit", {"LOW": 0.7})),
    ],
    ids=["slots", "fraction", "namespace", "pattern", "built-in", "deque", "enum"],
)
def test_what_a_score_names_counts_with_its_numbers(one: Any, other: Any):
    def digest(value: Any) -> str:
        return CodeDigest([functools.partial(accuracy, value)]).hexdigest()

    assert digest(one) == digest(copy.deepcopy(one)) != digest(other)


def test_a_helper_in_a_module_of_a_package_counts(monkeypatch: pytest.MonkeyPatch):
    package, module = types.ModuleType("some_helpers"), types.ModuleType("some_helpers.scales")
    package.scales, module.scale = module, accuracy  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "some_helpers", package)
    scope: dict[str, Any] = {"some_helpers": package}
    source = "def score(model, batches): return some_helpers.scales.scale(model, batches)"
    exec(compile(source, "score.py", "exec"), scope)

    before = CodeDigest([scope["score"]]).hexdigest()
    module.scale = twice_accuracy  # type: ignore[attr-defined]
    assert CodeDigest([scope["score"]]).hexdigest() != before


def test_metrics_of_ones_own_are_not_measured_in_a_certified_case():
    right = OwnMetric(measure=accuracy, unit="count", direction="higher", kind="info")
    record = measured(case(metrics={"right": right}))
    found = quick(case(metrics={"right": right}), record)
    assert found.is_certified
    assert record.metrics.keys() - found.metrics.keys() == OF_TRAINING | {"right"}


class Reading(torch.nn.Module):
    """Return the input, on a path that may depend on its values."""

    def __init__(self, read: Any) -> None:
        super().__init__()
        self.read = read

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if self.read(x) else x


@pytest.mark.parametrize("read", [
    lambda x: x.max().item() > 100,
    lambda x: bool((x > 100).any()),
    lambda x: max(x.detach().flatten().tolist()) > 100,
    lambda x: x.detach().numpy().max() > 100,
    lambda x: len(torch.nonzero(x > 100)) > 0,
], ids=["item", "bool", "tolist", "numpy", "nonzero"])  # fmt: skip
def test_a_path_that_may_depend_on_values_is_not_certified(read):
    def model() -> Any:
        return torch.nn.Sequential(*convolutional()[:6], Reading(read), *convolutional()[6:])

    assert measured(case("full", model=model, also_train=["9"])).computation is UNSET


@pytest.fixture
def tiny(clean_registry, tiny_sources):
    from tiny_architecture import TinyArchitecture

    registry.add("architecture", TinyArchitecture())
    return tiny_sources


@pytest.mark.parametrize(
    ("method", "rank"),
    [("full", None), ("head", None), ("bn_head", None), ("lora", 4), ("dora", 4), ("lora-bf16", 4)],
)
def test_built_in_methods_on_torchs_optimizer_are_certified(tiny, method, rank):
    def record(**options: Any) -> Any:
        of = Case(task="shift", method=method, architecture="tiny", rank=rank)
        return measure(Recipe.of(of, tiny), profiles=profiles, timed=False, **options).record

    profiles = ProfileCache()
    reference = record()
    found = record(known=known(reference))
    assert found.is_certified
    assert found.invariants == {name: reference.invariants[name] for name in found.invariants}


@pytest.mark.parametrize(("method", "rank"), [("galore", 4), ("adalora", 4)])
def test_methods_whose_steps_differ_by_number_are_not_certified(tiny, method, rank):
    of = Case(task="shift", method=method, architecture="tiny", rank=rank)
    record = measure(Recipe.of(of, tiny), profiles=ProfileCache(), timed=False).record
    assert record.status == "ok"
    assert record.computation is UNSET


_PRINT = """
import torch
torch.set_num_threads({threads})
from test_computation import case, measured
found = measured(case()).computation
print(found.graph, found.state)
"""


@pytest.mark.parametrize(("threads", "variables"), [
    pytest.param(1, {"PYTHONHASHSEED": "1"}, marks=pytest.mark.nightly),
    (2, {"PYTHONHASHSEED": "2", "ATEN_CPU_CAPABILITY": "avx2"}),
    pytest.param(1, {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
                 marks=pytest.mark.nightly),
], ids=["another process", "two threads on AVX2", "SSE4"])  # fmt: skip
@pytest.mark.slow
def test_the_graph_is_the_same_on_every_machine(trained, threads, variables):
    here = Path(__file__).parent
    path = os.pathsep.join(map(str, (here, here.parent)))
    done = subprocess.run(
        [sys.executable, "-c", _PRINT.format(threads=threads)],
        env={**os.environ, "PYTHONPATH": path, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    graph, state = done.stdout.split()
    assert graph == trained.computation.graph
    if "ATEN_CPU_CAPABILITY" not in variables:
        assert state == trained.computation.state


def test_an_operator_that_was_called_keeps_no_number():
    packet = torch.ops.aten.special_bessel_y0
    holder = types.SimpleNamespace(operator=packet.default, packet=packet)
    before = kept_by([holder]).numbers
    with FakeTensorMode():
        packet.default(torch.ones(1))
    assert kept_by([holder]).numbers == before
