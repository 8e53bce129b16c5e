"""The policy: every bound in one place."""

from __future__ import annotations

import dataclasses

import pytest

from peft_regress.policy import DEFAULT_POLICY, Policy


def test_bounds_are_positive_numbers() -> None:
    for field in dataclasses.fields(Policy):
        value = getattr(DEFAULT_POLICY, field.name)
        numbers = value.values() if field.name == "fingerprint_bounds" else [value]
        assert all(number > 0 for number in numbers)


def test_policy_cannot_be_changed_by_accident() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        DEFAULT_POLICY.bytes_bound = 1.0
    with pytest.raises(TypeError):
        DEFAULT_POLICY.fingerprint_bounds["lora"] = 1.0


def test_a_method_without_a_bound_of_its_own_gets_the_usual_one() -> None:
    assert DEFAULT_POLICY.fingerprint("lora") == DEFAULT_POLICY.fingerprint_bound


def test_a_method_with_a_bound_of_its_own_gets_it() -> None:
    policy = Policy(fingerprint_bounds={"mine": 0.5})
    assert policy.fingerprint("mine") == 0.5
    assert policy.fingerprint("galore") == policy.fingerprint_bound


def test_galores_svd_is_given_more_room_than_the_rest() -> None:
    assert DEFAULT_POLICY.fingerprint("galore") > DEFAULT_POLICY.fingerprint("lora")


def test_exact_metrics_have_no_bound() -> None:
    assert not [field.name for field in dataclasses.fields(Policy) if "exact" in field.name]
