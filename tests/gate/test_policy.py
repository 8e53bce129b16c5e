"""The policy: every bound in one place."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import get_args

import msgspec
import pytest
from builders import make_record

from peft_regress.gate.policy import DEFAULT_POLICY, Bounds, Policy, numerics_of
from peft_regress.runs.schema import Numerics


def losses(policy, numerics, *, steps=4):
    """Return the bounds on the first losses."""
    return [policy.fingerprint("first_losses", numerics, step=step) for step in range(steps)]


def test_bounds_are_positive_and_wider_for_later_losses():
    for field in dataclasses.fields(Policy):
        value = getattr(DEFAULT_POLICY, field.name)
        for bounds in value.values() if isinstance(value, Mapping) else [value]:
            numbers = list(bounds) if isinstance(bounds, tuple) else [bounds]
            assert numbers == sorted(numbers)
            assert numbers[0] > 0


def test_each_kind_of_numerics_has_its_bounds_and_the_last_holds_for_later_steps():
    policy = DEFAULT_POLICY
    for numerics, bounds in {
        "usual": policy.fingerprint_bound,
        "bfloat16": policy.bfloat16_fingerprint_bound,
        **policy.fingerprint_bounds,
    }.items():
        assert losses(policy, numerics, steps=5) == [*bounds, bounds[-1]]


@pytest.mark.parametrize(
    ("method", "numerics"),
    [
        ("lora", "usual"),
        ("head", "head"),
        ("bn_head", "bn_head"),
        ("hra", "hra"),
        ("lora-bf16", "bfloat16"),
        ("hra-bf16", "bfloat16"),
        ("my-head", "usual"),
        ("unheard-of", "usual"),
    ],
)
def test_a_record_of_schema_1_says_its_numerics_by_its_method(method, numerics):
    assert numerics_of(make_record(f"shift/{method}-r4/resnet18")) == numerics


def test_a_record_that_states_its_numerics_is_believed_whatever_its_method_is_called():
    record = make_record("digits/head/mine")
    for numerics in get_args(Numerics):
        stated = msgspec.structs.replace(record, numerics=numerics)
        assert numerics_of(stated) == numerics
        bounds = Bounds.of(stated)
        expected = DEFAULT_POLICY.fingerprint("first_losses", numerics, step=1)
        assert bounds.on_fingerprint("first_losses", 1) == expected


@pytest.mark.parametrize("numerics", get_args(Numerics))
def test_fills_and_updates_have_one_bound_for_every_step_and_updates_another_on_bfloat16(numerics):
    policy = DEFAULT_POLICY
    is_rough = numerics == "bfloat16"
    for name, bound in {
        "filled_losses": policy.filled_bound,
        "wide_filled_loss": policy.wide_filled_bound,
        "optimizer_updates": policy.bfloat16_update_bound if is_rough else policy.update_bound,
    }.items():
        assert {policy.fingerprint(name, numerics, step=step) for step in range(5)} == {bound}
