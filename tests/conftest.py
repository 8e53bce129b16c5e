"""Fixtures that several test modules share."""

from __future__ import annotations

import pytest
from hypothesis import settings
from restored import registry_restored

from peft_regress.catalogue import own_cases
from peft_regress.cli.main import main
from peft_regress.report.layout import PLAIN

pytest_plugins = ["pytester", "built_site", "page_browser"]

# On a busy machine one example may take long, and every run tries the same examples.
settings.register_profile("same", deadline=None, derandomize=True)
settings.register_profile(
    "nightly", max_examples=1000, deadline=None, derandomize=False, print_blob=True
)
settings.load_profile("same")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Skip what needs ExecuTorch where it cannot be used, or fail."""
    if item.get_closest_marker("executorch"):
        from edge_programs import require  # torch

        require()


@pytest.fixture(autouse=True)
def _settings_of_the_working_folder(monkeypatch):
    """Let commands in this process find settings as in one of their own, not those of this run."""
    monkeypatch.setattr(own_cases, "_registry", own_cases._Registry())


@pytest.fixture(autouse=True)
def _width_of_a_pipe(monkeypatch):
    """Lay text out as in a pipe, however wide the terminal is in which the tests run."""
    monkeypatch.setenv("COLUMNS", str(PLAIN.width))


@pytest.fixture
def clean_registry():
    """Leave no trace of what a test registers."""
    with registry_restored():
        yield


@pytest.fixture(scope="session")
def tiny_sources(tmp_path_factory):
    """Train and store a source for the tiny architectures, as `peft-regress sources` would."""
    from tiny_architecture import TinyArchitecture

    from peft_regress.measure.sources import save_source, train_source

    root = tmp_path_factory.mktemp("tiny_baselines")
    from tiny_network import tiny_network

    from peft_regress.catalogue.methods import LORA

    # As a side effect the libraries are imported, see the note in test_plugin.py.
    LORA.adapt(tiny_network(), heads=("head",), rank=4, seed=0)
    state = train_source(TinyArchitecture())
    for name in ("tiny", "tiny2"):
        save_source(root, TinyArchitecture(name=name), state)
    return root


@pytest.fixture
def command(capsys):
    """Call `peft-regress` and return (exit code, stdout, stderr)."""

    def call(*arguments):
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return call
