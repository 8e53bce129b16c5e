"""Errors: one root, messages that mend, values that stay on the exception."""

from __future__ import annotations

import pickle

import pytest

from peft_regress import errors
from peft_regress.errors import (
    AbsentError,
    InputError,
    NonFiniteLossError,
    PeftRegressError,
    RunFileError,
    SourceError,
    UnknownNameError,
)


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_has_the_one_root(name):
    assert issubclass(getattr(errors, name), PeftRegressError)


@pytest.mark.parametrize("error", [RunFileError, UnknownNameError])
def test_unreadable_input_and_unknown_names_are_wrong_use(error):
    assert issubclass(error, InputError)
    assert not issubclass(error, AbsentError)


def test_a_missing_source_is_an_absent_thing_and_no_wrong_use():
    assert issubclass(SourceError, AbsentError)
    assert not issubclass(SourceError, InputError)


def test_unknown_name_lists_the_known_ones_sorted_and_the_closest():
    error = UnknownNameError("method", "lara", ["lora", "dora"])
    assert str(error) == "unknown method 'lara'. Did you mean 'lora'? Known: dora, lora."


def test_unknown_name_offers_no_match_where_none_is_close():
    assert "Did you mean" not in str(UnknownNameError("method", "zzz", ["lora"]))


def test_unknown_name_says_when_nothing_is_registered():
    assert str(UnknownNameError("task", "x", [])).endswith("Known: none is registered.")


def test_unknown_name_keeps_what_was_asked():
    error = UnknownNameError("task", "x", iter(["b", "a"]))
    assert (error.what, error.name, error.known) == ("task", "x", ("a", "b"))


def test_run_file_error_says_where_what_and_the_remedy():
    error = RunFileError("a b.json", "is empty", "Make it again.")
    assert str(error) == "a b.json: is empty. Make it again."
    assert (error.path, error.problem, error.remedy) == ("a b.json", "is empty", "Make it again.")


def test_non_finite_loss_names_step_and_seed():
    error = NonFiniteLossError(step=3, loss=float("nan"), seed=2)
    assert str(error) == "loss became nan at step 3 of seed 2"
    assert (error.step, error.seed) == (3, 2)


def test_a_plain_error_survives_the_way_between_processes():
    assert str(pickle.loads(pickle.dumps(InputError("text")))) == "text"
