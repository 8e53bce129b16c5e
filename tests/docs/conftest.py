"""The option that renews the examples of the documents, and the copy in which they run."""

import shutil

import pytest
from example_sandbox import prepare


def pytest_addoption(parser):
    """Take `--write-examples`, for `python -m pytest tests/docs/test_examples.py`."""
    parser.addoption(
        "--write-examples",
        action="store_true",
        help="write what each example prints into the documents instead of checking it",
    )


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """A copy of the repository with all that examples need; none of them runs in it."""
    return prepare(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="session")
def shared(prepared, tmp_path_factory):
    """The copy for examples that leave the baselines as they are."""
    folder = tmp_path_factory.mktemp("examples")
    return shutil.copytree(prepared, folder, symlinks=True, dirs_exist_ok=True)
