"""Strings that are shown: counts with their nouns."""

import pytest

from peft_regress.text import count_of


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ((0, "case"), "0 cases"),
        ((1, "case"), "1 case"),
        ((2, "case"), "2 cases"),
        ((1_200, "metric"), "1,200 metrics"),
        ((1, "library", "libraries"), "1 library"),
        ((2, "library", "libraries"), "2 libraries"),
    ],
)
def test_a_count_has_a_noun_of_its_number(arguments, shown):
    assert count_of(*arguments) == shown
