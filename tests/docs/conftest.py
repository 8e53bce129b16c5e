"""The option that renews the examples of the documents."""


def pytest_addoption(parser):
    """Take `--write-examples`, for `python -m pytest tests/docs/test_examples.py`."""
    parser.addoption(
        "--write-examples",
        action="store_true",
        help="write what each example prints into the documents instead of checking it",
    )
