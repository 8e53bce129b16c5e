"""The scripts of findings: without this project they show the failure, or say that it is gone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from fuzz_examples import PACKAGES, example, failure, finding, layer
from msgspec.structs import replace

from peft_regress.fuzz.causes import cause_of
from peft_regress.fuzz.checks import CHECKS
from peft_regress.fuzz.example import (
    Activate,
    Adapter,
    Add,
    Convert,
    Copy,
    Delete,
    Disable,
    Enable,
    Fill,
    HotSwap,
    LoadBeside,
    Merge,
    Mixed,
    Mode,
    SaveLoad,
    Scale,
    Train,
    Unload,
    Unmerge,
    Weighted,
)
from peft_regress.fuzz.findings import Finding
from peft_regress.fuzz.reproduce import output_of
from peft_regress.fuzz.script import script_of
from peft_regress.fuzz.workers import LifeWorker

PAIR = tuple(
    Adapter(name=name, settings={"r": 2, "target_modules": ["layer0"]})
    for name in ("default", "other")
)
CONV = {"network": {"sizes": (5, 5)}}
FAILING = {
    "dilation": example(layer("conv2d", dilation=(2, 2)), acts=(Fill(),), **CONV),
    "reflection": example(layer("conv2d", padding_mode="reflect"), **CONV),
    "loaded for inference": example(acts=(SaveLoad(), Disable(within=True))),
}
"""Defects of peft 0.21.2, by the name of what is wrong."""
EVERY_ACT = (
    example(
        adapters=PAIR, network={"batch": 3},
        acts=(
            Fill(), Train(), Train(keep_optimizer=True, steps=2), Add(adapter="other"),
            Activate(adapters=("other",)), Fill(seed=1),
            Train(), Mixed(adapters=("default", "other", "__base__")),
            Merge(safe=True), Unmerge(), Disable(), Enable(), Disable(within=True),
            Activate(adapters=("default", "other")), Merge(), Unmerge(), Copy(),
            Activate(adapters=("other",), through_tuner=True), Mode(training=True),
            Mode(training=False), SaveLoad(trainable=True),
            LoadBeside(adapter="default", name="third"), Delete(adapter="third"),
            Weighted(adapters=("default", "other"), weights=(1.0, 0.5), combination="linear",
                     name="sum"),
            Scale(adapter="other", scale=2.0), Convert(dtype="bfloat16"), Unload(merge=True),
        ),
    ),
    example(acts=(Fill(), HotSwap(adapter="default", target_rank=16), HotSwap(adapter="default"))),
)  # fmt: skip


def test_a_script_has_only_what_its_example_uses() -> None:
    text = script_of(finding(example(layer("conv2d", padding="same"), **CONV)))
    assert "peft_regress" not in text
    assert "nn.Conv2d(4, 4, 3, padding='same')" in text
    assert "model.merge_adapter()" in text
    assert "def train(" not in text
    assert "tempfile" not in text
    assert "original" not in text
    assert text.startswith('"""The output differs by 1.0.\n\nSeen with peft 0.21.2, torch 2.13.0.')


def test_nested_odd_and_shared_names_are_code() -> None:
    layers = (
        layer(name="net.0.weight"),
        layer(name="copy", same_as="net.0.weight"),
        layer("embedding", name="default"),
    )
    text = script_of(finding(example(*layers)))
    assert "self.net._modules['0'].weight = nn.Linear(4, 4)" in text
    assert "self.copy = self.net._modules['0'].weight" in text
    compile(text, "script", "exec")


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("act", [-1, 1])
def test_the_script_of_every_check_is_python(check, act) -> None:
    text = script_of(finding(failed=failure(check, act)))
    compile(text, "script", "exec")
    assert not [line for line in text.splitlines() if len(line) > 100]


def test_a_message_cannot_end_the_docstring() -> None:
    failed = replace(failure(), message='a """ b \\" \n import os')
    compile(script_of(finding(failed=failed)), "script", "exec")


@pytest.fixture(scope="module")
def worker():
    with LifeWorker(Path(sys.executable), ["lora"]) as made:
        made.begin()
        yield made


@pytest.mark.slow
@pytest.mark.parametrize("name", FAILING)
def test_a_script_shows_its_finding(worker, name) -> None:
    one = FAILING[name]
    failed = worker.live(one).failure
    assert failed is not None
    found = Finding(cause=cause_of(one, failed), example=one, failure=failed, packages=PACKAGES)
    shown = output_of(script_of(found), Path(sys.executable))
    assert shown.exit_code == 1, shown.printed
    assert "expected:" in shown.printed


@pytest.mark.slow
@pytest.mark.parametrize("one", EVERY_ACT)
def test_a_script_of_what_holds_says_that_it_does(worker, one) -> None:
    outcome = worker.live(one)
    assert (outcome.failure, outcome.refused) == (None, None)
    last = len(one.acts) - 1
    found = finding(one, failure("exception", last))
    shown = output_of(script_of(found), Path(sys.executable))
    assert (shown.exit_code, shown.printed) == (0, "expected: no error\ncame: no error")
