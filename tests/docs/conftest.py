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
def new_copy(tmp_path_factory):
    """Return a function that makes a folder a copy for examples; it is prepared once."""
    prepared = prepare(tmp_path_factory.mktemp("prepared"))

    def copied(folder):
        return shutil.copytree(prepared, folder, symlinks=True, dirs_exist_ok=True)

    return copied


@pytest.fixture(scope="session")
def shared(new_copy, tmp_path_factory):
    """The copy for examples that leave the baselines as they are."""
    return new_copy(tmp_path_factory.mktemp("examples"))
