"""Errors: one root, messages that mend, values that stay on the exception."""

import pytest

from peft_regress import errors


@pytest.mark.parametrize(
    ("name", "known", "message"),
    [
        ("lara", ("lora", "dora"), "Did you mean 'lora'? Known: dora, lora."),
        ("zzz", ("lora",), "Known: lora."),
        ("x", (), "Known: none is registered."),
    ],
)
def test_an_unknown_name_lists_the_known_ones_sorted_and_the_closest(name, known, message):
    error = errors.UnknownNameError("method", name, iter(known))
    assert str(error) == f"unknown method {name!r}. {message}"


def test_errors_say_where_what_and_the_remedy():
    error = errors.RunFileError("a b.json", "is empty", "Mend it.")
    assert str(error) == "a b.json: is empty. Mend it."
    assert (error.path, error.problem, error.remedy) == ("a b.json", "is empty", "Mend it.")
    error = errors.NonFiniteLossError(step=3, loss=float("nan"), seed=2)
    assert str(error) == "loss became nan at step 3 of seed 2"
