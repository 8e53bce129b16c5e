"""The option that renews the examples of the documents."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take `--write-examples`, for `python -m pytest tests/docs/test_examples.py`."""
    parser.addoption(
        "--write-examples",
        action="store_true",
        help="write what each example prints into the documents instead of checking it",
    )
