"""How a value, a change and a count are shown."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_regress.metrics import format_change, format_value
from peft_regress.text import count_of


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (0, "byte", "0 B"),
        (1023, "byte", "1,023 B"),
        (1024, "byte", "1.000 KiB"),
        (2**20, "byte", "1.000 MiB"),
        (3 * 2**30 // 2, "byte", "1.500 GiB"),
        (999, "flop", "999 FLOP"),
        (1000, "flop", "1.000 kFLOP"),
        (706_115_232, "flop", "706.1 MFLOP"),
        (3_638_757_376, "flop", "3.639 GFLOP"),
        (2e12, "flop", "2.000 TFLOP"),
        (1.5, "second", "1.500 s"),
        (0.0215, "second", "21.50 ms"),
        (0.0000123, "second", "12.30 us"),
        (5e-8, "second", "0.05 us"),
        (0, "second", "0 us"),
        (0, "flop", "0 FLOP"),
        (0.919, "fraction", "91.9 %"),
        (11_181_642, "count", "11,181,642"),
        (2.302585093, "nat", "2.302585 nat"),
        (1.84, "ratio", "1.840"),
    ],
)
def test_value_is_shown_in_the_unit_people_read(value, unit, shown):
    assert format_value(value, unit) == shown


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (0, "0 %"),
        (0.838, "+83.8 %"),
        (-0.5, "-50 %"),
        (3e-7, "+3.0e-07"),
        (-3e-7, "-3.0e-07"),
        (1e-4, "+0.01 %"),
    ],
)
def test_change_is_shown_with_its_sign(change, shown):
    assert format_change(change) == shown


@settings(deadline=None, derandomize=True)
@given(st.integers(min_value=0, max_value=2**50))
def test_shown_bytes_are_the_stored_bytes_to_half_a_percent(value):
    number, unit = format_value(value, "byte").split()
    scale = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}[unit]
    assert math.isclose(float(number.replace(",", "")) * scale, value, rel_tol=0.005, abs_tol=0.5)


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
