"""The policy: every bound in one place."""

from __future__ import annotations

import dataclasses

import pytest

from peft_regress.gate.policy import DEFAULT_POLICY, Policy


def losses(policy: Policy, method: str, *, steps: int = 4) -> list[float]:
    """Return the bounds on a method's first losses."""
    return [policy.fingerprint("first_losses", method, step=step) for step in range(steps)]


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


def test_a_method_without_a_bound_of_its_own_gets_the_usual_one() -> None:
    usual = DEFAULT_POLICY.fingerprint_bound
    assert [
        DEFAULT_POLICY.fingerprint("first_losses", "unheard-of", step=step) for step in range(4)
    ] == [*usual]


def test_a_method_with_a_bound_of_its_own_gets_it() -> None:
    policy = Policy(fingerprint_bounds={"mine": (0.5, 0.75)})
    assert [policy.fingerprint("first_losses", "mine", step=step) for step in range(3)] == [
        0.5,
        0.75,
        0.75,
    ]


def test_a_method_on_bfloat16_gets_the_bound_of_bfloat16() -> None:
    bounds = [
        DEFAULT_POLICY.fingerprint("first_losses", "lora-bf16", step=step) for step in range(4)
    ]
    assert bounds == [*DEFAULT_POLICY.bfloat16_fingerprint_bound]


def test_a_later_loss_is_never_held_tighter_than_an_earlier_one() -> None:
    policy = DEFAULT_POLICY
    usual = (policy.fingerprint_bound, policy.bfloat16_fingerprint_bound)
    for bounds in (*usual, *policy.fingerprint_bounds.values()):
        assert list(bounds) == sorted(bounds)


def test_exact_metrics_have_no_bound() -> None:
    assert not [field.name for field in dataclasses.fields(Policy) if "exact" in field.name]


@pytest.mark.parametrize("method", ["head", "lora", "lora-bf16"])
def test_a_filled_adapter_has_one_bound_for_every_fill_and_method(method: str) -> None:
    bounds = {DEFAULT_POLICY.fingerprint("filled_losses", method, step=step) for step in range(4)}
    assert bounds == {DEFAULT_POLICY.filled_bound}
