"""Fixtures that several test modules share."""

import pytest

pytest_plugins = ["pytester", "shared_fixtures", "projects", "built_site", "page_browser"]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Skip what needs ExecuTorch where it cannot be used, or fail."""
    if item.get_closest_marker("executorch"):
        from edge_programs import require  # torch

        require()


@pytest.fixture(scope="session")
def tiny_sources(tmp_path_factory):
    """Train and store a source for the tiny architectures, as `peft-regress sources` would."""
    from tiny_architecture import TinyArchitecture
    from tiny_network import tiny_network

    from peft_regress.catalogue.methods import LORA
    from peft_regress.measure.sources import save_source, train_source

    root = tmp_path_factory.mktemp("tiny_baselines")
    # As a side effect the libraries are imported, see the note in test_plugin.py.
    LORA.at(4, heads=("head",)).adapt(tiny_network(), seed=0)
    state = train_source(TinyArchitecture())
    for name in ("tiny", "tiny2"):
        save_source(root, TinyArchitecture(name=name), state)
    return root


@pytest.fixture
def tiny_root(clean_registry, tiny_sources):
    """A folder with the source of the tiny architecture, which is registered."""
    from tiny_architecture import TinyArchitecture  # torch

    from peft_regress import registry

    registry.add("architecture", TinyArchitecture())
    return tiny_sources
