"""One package index for every test that asks pip."""

import pytest
from package_index import served_index, use_index


@pytest.fixture(scope="session")
def served():
    """Serve old and new, good and broken releases."""
    with served_index() as index:
        index.add("candy", "1.0").add("candy", "1.1", requires=["sugar>=1"])
        index.add("candy", "1.2", yanked="too sweet").add("candy", "2.0b1")
        index.add("sugar", "0.9").add("sugar", "1.5").add("bitter", "1.0", requires=["sugar<1"])
        index.add("oldpy", "1.0", requires_python="<3")
        index.add("torch", "2.99.0").add("torchvision", "0.99.0", requires=["torch==2.99.0"])
        index.add_broken_wheel("broken", "1.0").add_failing_sdist("failing", "1.0")
        yield index


@pytest.fixture
def index(served, monkeypatch, tmp_path):
    """Let pip ask only this index, and keep overlays in a folder of the test."""
    use_index(monkeypatch, served.url, tmp_path / "cache")
    served.requests.clear()
    yield served
    served.hangs_at = None
