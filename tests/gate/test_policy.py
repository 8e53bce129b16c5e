"""The policy: every bound in one place."""

import dataclasses
from collections.abc import Mapping
from typing import get_args

import msgspec
import pytest
from builders import make_record

from peft_regress.gate.policy import DEFAULT_POLICY, Bounds, Policy, numerics_of
from peft_regress.runs.schema import Numerics


def test_bounds_are_positive_and_wider_for_later_losses():
    for field in dataclasses.fields(Policy):
        value = getattr(DEFAULT_POLICY, field.name)
        for bounds in value.values() if isinstance(value, Mapping) else [value]:
            numbers = list(bounds) if isinstance(bounds, tuple) else [bounds]
            assert numbers == sorted(numbers)
            assert numbers[0] > 0


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
