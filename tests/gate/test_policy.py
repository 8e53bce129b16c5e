"""The policy: every bound in one place."""

from __future__ import annotations

import dataclasses
from typing import get_args

import msgspec
import pytest
from builders import make_record

from peft_regress.gate.policy import DEFAULT_POLICY, Bounds, Policy, numerics_of
from peft_regress.runs.schema import Numerics


def losses(policy: Policy, numerics: Numerics, *, steps: int = 4) -> list[float]:
    """Return the bounds on the first losses."""
    return [policy.fingerprint("first_losses", numerics, step=step) for step in range(steps)]


def test_bounds_are_positive_numbers() -> None:
    for field in dataclasses.fields(Policy):
        value = getattr(DEFAULT_POLICY, field.name)
        if field.name == "fingerprint_bounds":
            numbers = [number for bounds in value.values() for number in bounds]
        else:
            numbers = value if isinstance(value, tuple) else [value]
        assert all(number > 0 for number in numbers)


def test_policy_cannot_be_changed_by_accident() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        DEFAULT_POLICY.bytes_bound = 1.0
    with pytest.raises(TypeError):
        DEFAULT_POLICY.fingerprint_bounds["lora"] = (1.0,)


def test_each_kind_of_numerics_has_its_bounds() -> None:
    policy = DEFAULT_POLICY
    assert losses(policy, "usual") == [*policy.fingerprint_bound]
    assert losses(policy, "bfloat16") == [*policy.bfloat16_fingerprint_bound]
    for numerics in ("head", "bn_head", "hra"):
        assert losses(policy, numerics) == [*policy.fingerprint_bounds[numerics]]


def test_a_step_beyond_the_last_bound_has_the_last() -> None:
    policy = Policy(fingerprint_bounds={"hra": (0.5, 0.75)})
    assert losses(policy, "hra", steps=3) == [0.5, 0.75, 0.75]


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
def test_a_record_of_schema_1_says_its_numerics_by_its_method(
    method: str, numerics: Numerics
) -> None:
    assert numerics_of(make_record(f"shift/{method}-r4/resnet18")) == numerics


def test_a_record_that_states_its_numerics_is_believed_whatever_its_method_is_called() -> None:
    record = make_record("digits/head/mine")
    for numerics in get_args(Numerics):
        stated = msgspec.structs.replace(record, numerics=numerics)
        assert numerics_of(stated) == numerics
        bounds = Bounds.of(stated)
        expected = DEFAULT_POLICY.fingerprint("first_losses", numerics, step=1)
        assert bounds.on_fingerprint("first_losses", 1) == expected


def test_a_later_loss_is_never_held_tighter_than_an_earlier_one() -> None:
    policy = DEFAULT_POLICY
    usual = (policy.fingerprint_bound, policy.bfloat16_fingerprint_bound)
    for bounds in (*usual, *policy.fingerprint_bounds.values()):
        assert list(bounds) == sorted(bounds)


def test_exact_metrics_have_no_bound() -> None:
    assert not [field.name for field in dataclasses.fields(Policy) if "exact" in field.name]


@pytest.mark.parametrize("numerics", get_args(Numerics))
def test_a_filled_adapter_has_one_bound_for_every_fill_and_adapter(numerics: Numerics) -> None:
    policy = DEFAULT_POLICY
    bounds = {policy.fingerprint("filled_losses", numerics, step=step) for step in range(4)}
    assert bounds == {policy.filled_bound}
    assert policy.fingerprint("wide_filled_loss", numerics, step=0) == policy.wide_filled_bound


@pytest.mark.parametrize("numerics", get_args(Numerics))
def test_updates_have_one_bound_for_every_step_and_another_on_bfloat16(numerics: Numerics) -> None:
    policy = DEFAULT_POLICY
    bounds = {policy.fingerprint("optimizer_updates", numerics, step=step) for step in range(5)}
    is_rough = numerics == "bfloat16"
    assert bounds == {policy.bfloat16_update_bound if is_rough else policy.update_bound}
