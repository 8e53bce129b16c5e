"""Run pytest in this process as from a terminal, with a stub that measures."""

# An inner run forgets what it imports, and some libraries cannot be imported twice.
import peft  # noqa: F401
import pytest
import torch.export  # noqa: F401
from stub_measuring import LOG

from peft_regress.plugin import session
from peft_regress.plugin.session import RegressSession


@pytest.fixture
def outside_xdist(monkeypatch):
    """Hide that this is a worker of pytest-xdist, in which the timer would be off."""
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_XDIST_TESTRUNUID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def stubbed(pytester, monkeypatch, outside_xdist):
    """Take back what the stub of `stub_measuring` replaces in an inner run, and set its log."""
    monkeypatch.setattr(RegressSession, "_measured", RegressSession._measured)
    monkeypatch.setattr(RegressSession, "define", RegressSession.define)
    monkeypatch.setattr(session, "describe_machine", session.describe_machine)
    monkeypatch.setenv(LOG, str(pytester.path / "log"))
    return pytester
