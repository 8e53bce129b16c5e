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


def test_change_is_shown_with_its_sign():
    changes = (0, 0.838, -0.5, 3e-7, -3e-7, 1e-4)
    shown = ["0 %", "+83.8 %", "-50 %", "+3.0e-07", "-3.0e-07", "+0.01 %"]
    assert [format_change(change) for change in changes] == shown


@settings(deadline=None, derandomize=True)
@given(st.integers(min_value=0, max_value=2**50))
def test_shown_bytes_are_the_stored_bytes_to_half_a_percent(value):
    number, unit = format_value(value, "byte").split()
    scale = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}[unit]
    assert math.isclose(float(number.replace(",", "")) * scale, value, rel_tol=0.005, abs_tol=0.5)


def test_a_count_has_a_noun_of_its_number():
    assert [count_of(number, "case") for number in (0, 1, 2)] == ["0 cases", "1 case", "2 cases"]
    assert count_of(1_200, "metric") == "1,200 metrics"
    of_libraries = [count_of(number, "library", "libraries") for number in (1, 2)]
    assert of_libraries == ["1 library", "2 libraries"]
