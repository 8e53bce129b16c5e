"""Formatted JSON: the same JSON, in lines that a diff can be read by."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from peft_regress.runs.json_layout import dump_json

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=40,
)  # fmt: skip


@settings(deadline=None, derandomize=True, max_examples=60)
@given(json_values)
def test_formatted_json_is_the_same_json(value: Any) -> None:
    assert json.loads(dump_json(value)) == value
    assert dump_json(value).isascii()


@settings(deadline=None, derandomize=True, max_examples=20)
@given(st.dictionaries(st.integers(), st.text(min_size=60), min_size=3))
def test_formatted_json_has_string_keys_alone(value: dict[int, str]) -> None:
    """pytest-benchmark's part may hold a user's `extra_info` with whole numbers as keys."""
    assert json.loads(dump_json(value)) == {str(key): text for key, text in value.items()}


def test_formatted_json_breaks_what_is_long_and_only_that() -> None:
    text = dump_json({"short": [1, 2, 3], "long": list(range(100))})
    assert '"short": [1, 2, 3],\n' in text
    assert max(map(len, text.splitlines())) <= 140
